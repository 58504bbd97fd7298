"""TextRank against a readable twin and a case worked by hand; sentences kept in order; Chinese; texts with little in them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import myna.tasks.extract
from myna.errors import UserError
from myna.retrieval.terms import find_terms
from myna.tasks.extract import compare_sentences, extract, join_sentences, lead_words, rank_sentences, walk_graph

ENGLISH = ["The river rose after the storm.", "The storm broke two bridges over the river.", "Schools stayed open.",
           "Engineers said the bridges over the river will take weeks.", "The mayor thanked the engineers."]
CHINESE = ["台风今天登陆上海。", "上海的学校今天停课。", "居民家里没有停电。", "台风过后学校明天恢复上课。", "天气很热。"]


def slow_ranks(sentences: list[str]) -> np.ndarray:
    """The same from the definition: the eigenvector of the whole walk, jumps included, whose entries have the mean 1."""
    count = len(sentences)
    terms = [find_terms(sentence) for sentence in sentences]
    weights = np.zeros((count, count))
    for one in range(count):
        for other in range(count):
            size = math.log(len(terms[one])) + math.log(len(terms[other])) if terms[one] and terms[other] else 0.0
            if one != other and size > 0:
                weights[one, other] = len(set(terms[one]) & set(terms[other])) / size
    walk = np.zeros((count, count))
    for one in range(count):
        total = weights[one].sum()
        walk[one] = weights[one] / total if total else 1 / count
    whole = 0.85 * walk + 0.15 / count
    values, vectors = np.linalg.eig(whole.T)
    principal = np.real(vectors[:, np.argmax(np.real(values))])
    return principal / principal.mean()


@pytest.mark.parametrize("sentences", [ENGLISH, CHINESE, ["Word."], ["A b.", "C d."], [*ENGLISH, "!!!", "上海"], ["雨", "雨", "雨下。"]])
def test_ranks_are_the_eigenvector_of_the_walk(sentences: list[str]) -> None:
    assert rank_sentences(sentences) == pytest.approx(slow_ranks(sentences), abs=2e-5)


def test_a_case_worked_by_hand() -> None:
    """B shares two of its three terms with A and one with C, which share none: weights 2 / ln 9 and 1 / ln 9."""
    weights = compare_sentences(["red green blue", "red green sky", "sky dark night"])
    unit = 1 / (2 * math.log(3))
    assert weights == pytest.approx(np.array([[0, 2, 0], [2, 0, 1], [0, 1, 0]]) * unit)
    middle = (0.15 + 0.85 * 0.3) / (1 - 0.85**2)  # a = 0.15 + 0.85 * 2/3 b and c = 0.15 + 0.85 * 1/3 b
    assert walk_graph(weights) == pytest.approx([0.15 + 0.85 * 2 / 3 * middle, middle, 0.15 + 0.85 / 3 * middle], abs=1e-5)


def test_more_sentences_than_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(myna.tasks.extract, "_MOST", 12)
    filler = [f"n{place}a n{place}b." for place in range(40)]  # share nothing
    pair = ["Storm bridges river engineers storm.", "Engineers bridges river storm mayor."]
    found = rank_sentences([*filler[:3], *pair, *filler[3:23], *pair, *filler[23:]])
    assert len(found) == 44 and set(np.argsort(-found)[:4].tolist()) == {3, 4, 25, 26}


def test_sentences_stand_in_the_order_of_the_text() -> None:
    text = " ".join(ENGLISH)
    found = extract(text, "textrank", 2)
    assert found.text == f"{ENGLISH[1]} {ENGLISH[3]}" and [text[start:end] for start, end in found.spans] == [ENGLISH[1], ENGLISH[3]]
    assert extract(text, "lead", 2).text == f"{ENGLISH[0]} {ENGLISH[1]}"
    chinese = extract("".join(CHINESE), "textrank", 2)
    assert chinese.text == CHINESE[0] + CHINESE[1] and chinese.spans == ((0, 9), (9, 19))
    assert extract("他来了。\n\n She left.", "lead", 5).text == "他来了。She left."


def test_texts_with_little_in_them() -> None:
    assert extract("no stop at all", "textrank", 3).text == "no stop at all"
    assert extract("!!! ???", "textrank", 1).spans
    for empty in ("", " \n\n\t "):
        with pytest.raises(UserError, match="the text is empty"):
            extract(empty, "textrank", 1)
    with pytest.raises(UserError, match=r"did you mean textrank\?"):
        extract("One. Two.", "textrnk", 1)
    with pytest.raises(UserError, match="sentences is 0"):
        extract("One. Two.", "lead", 0)


def test_the_beginning_is_counted_in_words() -> None:
    assert lead_words("One, two  three four", 3) == "One, two three" and lead_words("台风今天登陆。", 4) == "台风今天"
    assert lead_words("short", 9) == "short" and lead_words("...", 2) == ""
    assert join_sentences(["One\n two.", "他。", "Three."]) == "One two. 他。Three."
