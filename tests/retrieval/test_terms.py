"""Terms: words and their plurals, Chinese by characters and pairs, compatibility forms made one; passages that end where sentences do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.retrieval.passages import cut_passages
from myna.retrieval.terms import find_terms


@pytest.mark.parametrize(("text", "terms"), [
    ("Two cats, 3.14!", ["two", "cat", "3", "14"]),
    ("人工智能", ["人", "人工", "工", "工智", "智", "智能", "能"]),
    ("用GPT模型", ["用", "gpt", "模", "模型", "型"]),
    ("ＧＰＴ４ ﬁne", ["gpt4", "fine"]),
    ("The dog's dogs’ ladies, glasses, buses, bus, pass, species", ["the", "dog", "dog", "lady", "glasse", "buse", "bus", "pass", "specy"]),
    ("カタカナ한국", ["カ", "カタ", "タ", "タカ", "カ", "カナ", "ナ", "ナ한", "한", "한국", "국"]),
    ("Straße ÉTÉ", ["strasse", "été"]),
    ("x_y --- …", ["x", "y"]),
    ("", []),
])
def test_the_terms_of_a_text(text: str, terms: list[str]) -> None:
    assert find_terms(text) == terms


def test_a_chinese_name_that_no_word_list_holds_is_found_by_its_pairs() -> None:
    assert set(find_terms("鸚鵡螺號")) <= set(find_terms("潛艇鸚鵡螺號出海"))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab 。！\n.？é鳥👋\t", max_size=400), st.integers(64, 200))
def test_passages_hold_all_of_the_text_but_white_space_and_no_half_character(text: str, longest: int) -> None:
    data = text.encode()
    found = list(cut_passages(data, longest))
    assert all(0 < end - start <= longest for start, end in found)
    assert all(data[start:end].decode() == data[start:end].decode().strip(" \t\r\n\x0b\x0c") for start, end in found)
    between = [data[a:b] for a, b in zip([0, *(end for _, end in found)], [*(start for start, _ in found), len(data)], strict=True)]
    assert all(not gap.strip() for gap in between)


def test_passages_end_at_paragraphs_then_sentences_then_words() -> None:
    def texts(text: str, longest: int) -> list[str]:
        data = text.encode()
        return [data[start:end].decode() for start, end in cut_passages(data, longest)]

    first, second = "One sentence here. Another one there, which is longer.", "A second paragraph of some length that goes on and on."
    assert texts(f"{first}\n\n{second}", 80) == [first, second]
    assert texts("He came. He saw the whole of it and said so. He went away at once.", 64) == [
        "He came. He saw the whole of it and said so.", "He went away at once."]
    assert texts("春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？" * 2, 80) == ["春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？"] * 2
    assert [len(part) for part in texts("x" * 150, 64)] == [64, 64, 22]
