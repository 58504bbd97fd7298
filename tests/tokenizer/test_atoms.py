"""Atoms of a text, and words put together to a text again."""

from __future__ import annotations

import pytest

from myna.tokenizer.atoms import find_atoms, join_words


@pytest.mark.parametrize(("text", "atoms"), [
    ("佢send咗e-mail!", ["佢", "send", "咗", "e-mail", "!"]), ("don't  stop", ["don't", "stop"]),
    ("３月 2026年", ["３", "月", "2026", "年"]),
    ("a--b", ["a", "-", "-", "b"]), ("", []), (" \n", []), ("カナ、ไทย", list("カナ、ไทย")), ("naïve e\u0301", ["naïve", "e\u0301"])])
def test_atoms_are_characters_of_scripts_without_spaces_and_runs_of_others(text: str, atoms: list[str]) -> None:
    assert [text[start:end] for start, end in find_atoms(text)] == atoms


def test_words_of_a_text_stand_where_it_says_and_never_run_together() -> None:
    for words, spaced, text in ((["我", "OK", "la", "嘅"], False, "我OK la嘅"), (["a", "b", "."], True, "a b ."),
                                (["do", "n't"], False, "do n't")):
        joined, starts = join_words(words, spaced)
        assert joined == text and [joined[start : start + len(word)] for start, word in zip(starts, words, strict=True)] == words
        edges = {edge for span in find_atoms(joined) for edge in span}
        assert set(starts) <= edges and {start + len(word) for start, word in zip(starts, words, strict=True)} <= edges
