"""Alignment and translation by phrases: what a few pairs teach, and what must never be lost."""

from __future__ import annotations

import random

import pytest

from myna.models.alignment import align
from myna.models.phrases import Phrases, cut_units

COLOURS = {"red": "红", "blue": "蓝", "green": "绿", "black": "黑"}
THINGS = {"door": "门", "car": "车", "book": "书", "cup": "杯"}


def make_pairs() -> list[tuple[str, str]]:
    return [(f"Open the {colour} {thing}", f"打开{one}色的{other}") for colour, one in COLOURS.items() for thing, other in THINGS.items()]


def test_words_are_linked_with_their_translations_also_where_the_order_is_another() -> None:
    words: dict[str, int] = {}

    def number(text: str) -> list[int]:
        return [words.setdefault(word, len(words)) for word in text.split()]

    pairs = [(f"the {colour} {thing} now", f"the {other} {one} now") for colour, one in COLOURS.items() for thing, other in THINGS.items()]
    links = align([number(source) for source, _ in pairs], [number(target) for _, target in pairs])
    assert all(linked == [(0, 0), (1, 2), (2, 1), (3, 3)] for linked in links)
    assert align([[0]], [[0, 1]])[0][0] == (0, 0)


def test_units_join_to_the_text() -> None:
    for text in ("Open the door, {a}!", "打开 the 门。\n第 2 行_x", "\x000 of \x0012"):
        assert "".join(cut_units(text)) == text
    assert cut_units("\x0012门 a1") == ["\x0012", "门", " a1"]


def test_a_new_combination_is_put_together_from_phrases() -> None:
    pairs = [pair for pair in make_pairs() if pair[0] != "Open the blue cup"]
    phrases = Phrases.fit(pairs)
    assert phrases.translate("Open the blue cup").text == "打开蓝色的杯"
    assert phrases.translate("OPEN the Red door").text == "打开红色的门"
    assert phrases.translate("").text == ""
    again = Phrases(pairs, phrases.links)
    assert again.translate("Open the blue cup") == phrases.translate("Open the blue cup")
    with pytest.raises(ValueError, match="links beyond"):
        Phrases(pairs[:1], [[(0, 99)]])


def test_unknown_words_and_placeholders_are_written_once_each_whatever_the_source() -> None:
    phrases = Phrases.fit([*make_pairs(), ("of \x000 and \x001", "\x001和\x000"), ("\x000 cup", "\x000 个杯")])
    assert phrases.translate("of \x000 and \x001").text == "\x001和\x000"
    assert "Zigbee" in phrases.translate("Open the Zigbee cup").text
    generator = random.Random(0)
    for _ in range(50):
        holders = [f"\x00{number}" for number in range(generator.randrange(4))]
        source = [generator.choice(["of", "and", "cup", "open", "the", "red", "门"]) for _ in range(8)] + holders
        generator.shuffle(source)
        text = phrases.translate(" ".join(source)).text
        assert sorted(unit.strip() for unit in cut_units(text) if "\x00" in unit) == holders
