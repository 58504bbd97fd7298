"""Distinct n-grams and repetition against their definitions, in English and by characters in Chinese."""

from __future__ import annotations

import random

import pytest

from myna.metrics.diversity import across, count_distinct, distinct, repetition, split_words
from tests.docs_code import load_block


def test_words_and_characters() -> None:
    assert split_words("To be, or NOT to be!") == ["to", "be", "or", "not", "to", "be"]
    assert split_words("好雨知时节，当春 GPT2") == ["好", "雨", "知", "时", "节", "当", "春", "gpt2"]


def test_numbers_known_by_hand() -> None:
    words = ["to", "be", "or", "not", "to", "be", "or", "not", "to", "be"]
    assert repetition(words) == pytest.approx(3 / 7) and distinct(words, 1) == 0.4 and distinct(words, 2) == pytest.approx(4 / 9)
    assert repetition(split_words("床前明月光床前明月光")) == pytest.approx(2 / 7)
    assert repetition(["a"] * 8) == pytest.approx(4 / 5) and distinct(["a"] * 8, 1) == 1 / 8
    assert (distinct(["a", "b"], 3), repetition(["a"]), across([], 2)) == (1.0, 0.0, 1.0)  # too short to repeat anything
    assert across([["to", "be"], ["to", "be"]], 2) == 0.5 and across([["a", "b"], ["b", "a"]], 2) == 1.0


def test_random_texts_against_a_count_by_hand() -> None:
    rng, slow = random.Random(0), load_block("docs/tasks/generate.md").repetition
    for _ in range(1000):
        words, n = rng.choices("春夏秋冬abc", k=rng.randint(0, 30)), rng.randint(1, 4)
        ngrams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
        assert count_distinct(words, n) == (len(set(ngrams)), len(ngrams))
        assert repetition(words, n) == pytest.approx(slow(words, n))
        again = sum(ngram in ngrams[:at] for at, ngram in enumerate(ngrams))
        assert repetition(words, n) == pytest.approx(again / len(ngrams) if ngrams else 0)
