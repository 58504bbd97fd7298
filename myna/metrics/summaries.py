"""ROUGE: how much of a reference summary a summary holds, by words, pairs of words and the longest common subsequence.

Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", sections 2 and 3. A word is a run of letters and digits, in lower
case, without stemming; a Han character, kana or Hangul syllable is a word of its own, because reference implementations that keep
[a-z0-9] alone give two identical Chinese summaries 0. On texts of English letters the numbers are those of the rouge-score library.

    rouge_n("the cat", "the cat sat", 1)      # 0.8, the F1
"""

from __future__ import annotations

import re
from collections import Counter

# CJK ideographs with extensions, kana, Hangul: one word each; any other run of letters and digits is a word
_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003134f"
WORDS = re.compile(f"[{_SINGLE}]|[^\\W_{_SINGLE}]+")


def summary_words(text: str) -> list[str]:
    """Cut a text into the words that ROUGE counts."""
    return WORDS.findall(text.lower())


def rouge_n(hypothesis: str, reference: str, n: int) -> float:
    """Return the F1 of shared n-grams of words, from 0 to 1."""
    given, true = (_count(summary_words(text), n) for text in (hypothesis, reference))
    shared = sum(min(count, given[ngram]) for ngram, count in true.items())
    return _f1(shared, given.total(), true.total())


def rouge_l(hypothesis: str, reference: str) -> float:
    """Return the F1 of the longest common subsequence of words, from 0 to 1."""
    given, true = summary_words(hypothesis), summary_words(reference)
    return _f1(common_subsequence(given, true), len(given), len(true))


def common_subsequence(one: list[str], other: list[str]) -> int:
    """Return the length of the longest common subsequence.

    Bit by bit in one whole number (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): a zero bit of `row` marks a word of `one`
    at which the length grows.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    whole = (1 << len(one)) - 1
    row = whole
    for word in other:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & whole
    return len(one) - row.bit_count()


def _count(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[at:] for at in range(n)), strict=False))


def _f1(shared: int, given: int, true: int) -> float:
    return 2 * shared / (given + true) if shared else 0.0
