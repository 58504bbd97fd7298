"""The translation memory finds the text most like another one, and counts edits right."""

from __future__ import annotations

import random

import numpy as np

from myna.retrieval.memory import Memory, count_edits

TEXTS = ["Open the door", "Close the window", "Open the window now", "打开门", "关闭窗户"]


def test_the_most_similar_text_comes_first_and_some_can_be_left_out() -> None:
    memory = Memory(TEXTS)
    [[best, second]] = memory.find(["Open the window"], 2)
    assert TEXTS[best.place] == "Open the window now" and 0.5 < best.similarity < 1 and second.similarity <= best.similarity
    [[same]] = memory.find(["open the door"])
    assert same == (0, 1.0)
    [[other]] = memory.find(["Open the door"], 1, [[0]])
    assert other.place == 2
    [[chinese]] = memory.find(["打开窗"])
    assert TEXTS[chinese.place] == "打开门"
    assert memory.find(["xyzzy", ""]) == [[], []] and Memory([]).find(["a"]) == [[]]


def test_edits_are_those_of_the_textbook() -> None:
    def slow(one: str, other: str) -> int:
        table = {(i, j): i + j for i in range(len(one) + 1) for j in range(len(other) + 1) if not i or not j}
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1, j + 1] = min(table[i, j] + (a != b), table[i, j + 1] + 1, table[i + 1, j] + 1)
        return table[len(one), len(other)]

    generator = random.Random(1)
    for _ in range(200):
        one, other = ("".join(generator.choice("ab门") for _ in range(generator.randrange(8))) for _ in range(2))
        numbers = [np.array([ord(sign) for sign in text], dtype=np.int32) for text in (one, other)]
        assert count_edits(*numbers) == slow(one, other)
