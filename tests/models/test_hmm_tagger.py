"""The tagger against probabilities worked by hand, and against the most frequent tag of each word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from myna.corpus.tagged import read_tagged
from myna.errors import UserError
from myna.models.hmm_tagger import Tagger, fit_tagger, tag_accuracy
from myna.models.options import TaggerOptions

SENTENCES = [[("the", "D"), ("walk", "N"), (".", ".")], [("they", "P"), ("walk", "V"), (".", ".")],
             [("the", "D"), ("old", "A"), ("walk", "N"), (".", ".")]]


def test_a_word_of_two_tags_gets_the_one_that_fits_its_place() -> None:
    tagger = fit_tagger(SENTENCES)
    assert tagger.tag(["the", "walk", "."]) == ["D", "N", "."]
    assert tagger.tag(["they", "walk", "."]) == ["P", "V", "."]
    assert tagger.tag([]) == []


def test_probabilities_are_those_worked_by_hand() -> None:
    tagger = fit_tagger([[("ab", "X"), ("b", "Y")], [("b", "X")]], TaggerOptions(longest_ending=1))
    tables = {name: np.exp(table.astype(np.float64)) for name, table in tagger._tables.items()}
    np.testing.assert_allclose(tables["log_tag"], [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(tables["log_initial"], [(2 + 2 / 3) / 3, (1 / 3) / 3], rtol=1e-6)  # X both times: one kind
    # X was followed by Y and by the end: 2 kinds of 2. Tags and ends occur 2, 1 and 2 times of 5.
    np.testing.assert_allclose(tables["log_transition"], [[(0 + 2 * 0.4) / 4, (1 + 2 * 0.2) / 4, (1 + 2 * 0.4) / 4],
                                                          [0.4 / 2, 0.2 / 2, (1 + 0.4) / 2]], rtol=1e-6)
    any_word = (np.array([2, 1]) + 2 * np.array([2 / 3, 1 / 3])) / 5
    lower = (np.array([2, 1]) + 2 * any_word) / 5  # all words are lower-case letters
    ending_b = (np.array([2, 1]) + 2 * lower) / 5  # and end in b
    np.testing.assert_allclose(tables["log_ending"], [any_word, lower, ending_b], rtol=1e-6)
    np.testing.assert_allclose(tables["log_word"], [(np.array([1, 0]) + ending_b) / 2, (np.array([1, 1]) + 2 * ending_b) / 4], rtol=1e-6)
    # Of the unknown word "bb" alone: p(tag first) p(tag | b) / p(tag) p(end | tag).
    scores = tables["log_initial"] * ending_b / tables["log_tag"] * tables["log_transition"][:, -1]
    assert tagger.tag(["bb"]) == [["X", "Y"][int(scores.argmax())]]


@pytest.mark.parametrize("word, tag", [("jumping", "G"), ("1999", "M"), ("!!", "."), ("Oslo", "R"), ("狗仔", "N"), ("ing", "G")])
def test_an_unknown_word_is_tagged_by_its_ending_and_its_characters(word: str, tag: str) -> None:
    seen = [("walking", "G"), ("singing", "G"), ("1066", "M"), ("12", "M"), (".", "."), ("?", "."), ("Paris", "R"), ("Anna", "R"),
            ("貓仔", "N"), ("車仔", "N"), ("大學", "O"), ("the", "D"), ("table", "O")]
    tagger = fit_tagger([[pair] for pair in seen] * 2)
    assert not tagger.knows(word) and tagger.tag([word]) == [tag]


def test_frequent_words_do_not_teach_endings() -> None:
    frequent = [[("thing", "D")]] * 20 + [[("sing", "V")], [("bring", "V")]]
    assert fit_tagger(frequent, TaggerOptions(rare=10)).tag(["ding"]) == ["V"]
    assert fit_tagger(frequent, TaggerOptions(rare=100)).tag(["ding"]) == ["D"]


def made(count: int, seed: int) -> list[list[tuple[str, str]]]:
    """Sentences of a language whose nouns and verbs share their words; the word's place tells which it is."""
    rng = np.random.default_rng(seed)
    stems = [f"{a}{b}" for a in "bdfgklmn" for b in ("ak", "el", "im", "op", "ur")]
    found = []
    for _ in range(count):
        noun, verb, other = (stems[int(i)] for i in rng.zipf(1.5, 3) % len(stems))
        found.append([("the", "D"), (noun, "N"), (verb, "V"), ("a", "D"), (other, "N"), (".", ".")])
    return found


def test_it_beats_the_most_frequent_tag() -> None:
    train, test = made(100, 1), made(100, 2)
    counts: dict[str, dict[str, int]] = {}
    for word, tag in (pair for sentence in train for pair in sentence):
        counts.setdefault(word, {})[tag] = counts.setdefault(word, {}).get(tag, 0) + 1
    pairs = [pair for sentence in test for pair in sentence]
    baseline = sum(tag == max(counts.get(word, {"N": 1}), key=lambda t: counts.get(word, {"N": 1})[t]) for word, tag in pairs) / len(pairs)
    accuracy = tag_accuracy(fit_tagger(train), test)
    assert accuracy["all"] > 0.99 > 0.95 > baseline
    assert accuracy["all"] == pytest.approx(np.mean([
        given == tag for sentence in test for given, (_, tag) in
        zip(fit_tagger(train).tag([word for word, _ in sentence]), sentence, strict=True)]))
    assert np.isnan(tag_accuracy(fit_tagger(train), train)["unknown"])


def test_saved_and_opened_it_gives_the_same_tags(tmp_path: Path) -> None:
    tagger = fit_tagger(made(50, 1))
    tagger.save(tmp_path)
    again = Tagger.open(tmp_path)
    assert again.tags == tagger.tags and again.longest == tagger.longest
    for sentence in made(20, 3):
        words = [*(word for word, _ in sentence), "unseen", "Q7"]
        assert again.tag(words) == tagger.tag(words)
    assert all((again._tables[name] == table).all() for name, table in tagger._tables.items())


@pytest.mark.parametrize("file, change", [
    ("config.json", {"model_type": "hmm"}), ("config.json", {"tags": ["A", "A"]}), ("config.json", {"tags": ["N"]}),
    ("config.json", {"longest_ending": -1}), ("config.json", {"longest_ending": 10**9}), ("config.json", {"tags": [1, 2, 3, 4]}),
    ("words.json", {"words": []}), ("words.json", {"words": "abc"}), ("words.json", {"endings": ["x"]}), ("words.json", {"endings": None})])
def test_damaged_lists_are_refused(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    fit_tagger(SENTENCES).save(tmp_path)
    (tmp_path / file).write_text(json.dumps(json.loads((tmp_path / file).read_text()) | change))
    with pytest.raises(UserError) as caught:
        Tagger.open(tmp_path)
    assert "\n" not in str(caught.value)


def _not_a_number(tensors: dict[str, Any]) -> None:
    tensors["log_word"][0, 0] = np.nan


def _no_distribution(tensors: dict[str, Any]) -> None:
    tensors["log_transition"][0] -= 0.5


@pytest.mark.parametrize("damage", [_not_a_number, _no_distribution])
def test_damaged_numbers_are_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    fit_tagger(SENTENCES).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="damaged"):
        Tagger.open(tmp_path)


@pytest.mark.parametrize("options", [TaggerOptions(longest_ending=-1), TaggerOptions(longest_ending=101), TaggerOptions(rare=0)])
def test_wrong_options_are_one_line(options: TaggerOptions) -> None:
    with pytest.raises(UserError, match="a tagger with"):
        fit_tagger(SENTENCES, options)


def test_nothing_to_learn_from_is_one_line() -> None:
    for nothing in ([], [[]]):
        with pytest.raises(UserError, match="no tagged sentence"):
            fit_tagger(nothing)


def test_a_tagged_file_is_read_sentence_by_sentence(tmp_path: Path) -> None:
    (tmp_path / "b.tsv").write_text("x y\tN\n\n\n\u2028\tP\r\n")
    (tmp_path / "a.tsv").write_text("去\tv\n啊\ty\n\n?\t?\n")
    assert list(read_tagged(tmp_path)) == [[("去", "v"), ("啊", "y")], [("?", "?")], [("x y", "N")], [("\u2028", "P")]]
    for wrong in (b"word\n", b"a\tb\tc\n", b"\ttag\n", b"\xff\tN\n"):
        (tmp_path / "c.tsv").write_bytes(b"ok\tN\n" + wrong)
        with pytest.raises(UserError, match="line 2 of"):
            list(read_tagged(tmp_path / "c.tsv"))
    with pytest.raises(UserError, match="no tagged text"):
        list(read_tagged(tmp_path / "none"))
