"""Exact match and F1 of short answers, in English as SQuAD's script scores them, and in Chinese by characters.

Rajpurkar et al. 2016, "SQuAD", section 6.1: lower case, without signs and the articles a, an, the. Chinese has no spaces: each Han
character is a word (Cui et al. 2019, the Chinese reading comprehension of CMRC 2018).

    answer_f1("the Norman dynasty", ["Norman"])      # 0.667
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = frozenset(("a", "an", "the"))
_HAN = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])")


def answer_words(text: str) -> list[str]:
    """Cut an answer into what is compared."""
    kept = "".join("" if unicodedata.category(c)[0] in "PS" else c for c in unicodedata.normalize("NFKC", text).lower())
    return [word for word in _HAN.sub(r" \1 ", kept).split() if word not in _ARTICLES]


def answer_exact(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer is one of the references."""
    return float(any(answer_words(answer) == answer_words(reference) for reference in references))


def answer_f1(answer: str, references: Sequence[str]) -> float:
    """Return the F1 of shared words with the reference that is nearest; of an empty answer 1 where a reference is empty too."""
    return max((_f1(answer_words(answer), answer_words(reference)) for reference in references), default=0.0)


def _f1(given: list[str], true: list[str]) -> float:
    if not given or not true:
        return float(given == true)
    shared = (Counter(given) & Counter(true)).total()
    return 2 * shared / (len(given) + len(true))
