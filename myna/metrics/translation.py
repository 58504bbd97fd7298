"""BLEU and chrF: how many n-grams of words, or of characters, a translation shares with a reference.

Both are formulas of sums over the corpus, so `paired` gives their intervals (Koehn 2004 did so first). The numbers are those of
sacrebleu 2: BLEU with its "13a" or "zh" words and "exp" smoothing (Papineni et al. 2002; Chen and Cherry 2014, method 3), chrF2 over
characters without spaces (Popović 2015, beta 2, n-grams of 1 to 6).

    bleu(count_bleu(["the cat sat"], ["the cat sat"], split_words).sum(axis=0)[None])     # [100.]

N sentences · R resamples
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.metrics.paired import divided

Array = npt.NDArray[Any]

_ORDERS = 4  # of BLEU
_CHARACTERS = 6  # longest n-gram of chrF
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# mteval-v13a.pl: ASCII signs stand alone; a stop or comma does unless digits are on that side; a hyphen does after a digit
_RULES = ((re.compile(r"([\x21-\x26\x28-\x2b\x2f\x3a-\x40\x5b-\x60\x7b-\x7e\x20])"), r" \1 "), (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
          (re.compile(r"([.,])([^0-9])"), r" \1 \2"), (re.compile(r"([0-9])(-)"), r"\1 \2 "))
# what sacrebleu's "zh" takes one by one: U+2001 to U+2A6D and U+2F81 to U+2FA1 come of five-digit escapes read as four, and are kept so
_SINGLE = ((0x2001, 0x2A6D), (0x2F81, 0x2FA1), (0x3400, 0x4DB5), (0x4E00, 0x9FBB), (0xF900, 0xFA2D), (0xFA30, 0xFA6A), (0xFA70, 0xFAD9),
           (0xFF00, 0xFFEF), (0x2E80, 0x2EFF), (0x3000, 0x303F), (0x31C0, 0x31EF), (0x2F00, 0x2FDF), (0x2FF0, 0x2FFF), (0x3100, 0x312F),
           (0x31A0, 0x31BF), (0xFE10, 0xFE1F), (0xFE30, 0xFE4F), (0x2600, 0x26FF), (0x2700, 0x27BF), (0x3200, 0x32FF), (0x3300, 0x33FF))
_SINGLE_PATTERN = re.compile("([" + "".join(f"{chr(low)}-{chr(high)}" for low, high in _SINGLE) + "])")


def split_words(text: str) -> list[str]:
    """Cut a text into words and signs as mteval-v13a does, sacrebleu's "13a"."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES:
        text = text.replace(entity, sign)
    return _apply_rules(f" {text} ")


def split_chinese(text: str) -> list[str]:
    """Cut a text into Chinese characters one by one, and the rest into words and signs: sacrebleu's "zh"."""
    return _apply_rules(_SINGLE_PATTERN.sub(r" \1 ", text.strip()))


def _apply_rules(text: str) -> list[str]:
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.split()


def count_bleu(hypotheses: Sequence[str], references: Sequence[str], split: Callable[[str], list[str]]) -> Array:
    """Count words of hypothesis and reference, and n-grams of 1 to 4 that match and that there are: (N, 10)."""
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        given, true = split(hypothesis.rstrip()), split(reference.rstrip())
        matched = [_shared(_ngrams(given, n), _ngrams(true, n)) for n in range(1, _ORDERS + 1)]
        rows.append([len(given), len(true), *matched, *(max(0, len(given) - n + 1) for n in range(1, _ORDERS + 1))])
    return np.array(rows, dtype=np.int64).reshape(-1, 2 + 2 * _ORDERS)


def bleu(sums: Array) -> Array:
    """Return BLEU from 0 to 100 of summed counts: (R, 10) to (R,)."""
    given, true = sums[:, 0], sums[:, 1]
    matched, total = sums[:, 2 : 2 + _ORDERS], sums[:, 2 + _ORDERS :]
    halvings = np.cumsum((matched == 0) & (total > 0), axis=1)  # the k-th order without a match counts as 1 / 2^k of one
    precisions = divided(np.where(matched > 0, matched, 0.5**halvings), total)
    with np.errstate(divide="ignore", over="ignore"):
        brevity = np.where(given < true, np.exp(1 - np.divide(true, given, out=np.full(len(sums), np.inf), where=given > 0)), 1.0)
        score = brevity * np.exp(np.log(precisions).mean(axis=1)) * 100
    return np.where(matched.any(axis=1), score, 0.0)


def count_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Array:
    """Count character n-grams of 1 to 6 of the hypothesis, of the reference, and shared: (N, 18), without spaces."""
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        given, true = "".join(hypothesis.split()), "".join(reference.split())
        row: list[int] = []
        for n in range(1, _CHARACTERS + 1):
            counts = max(0, len(given) - n + 1), max(0, len(true) - n + 1)
            row += [counts[0] if counts[1] else 0, counts[1], _shared(_ngrams(given, n), _ngrams(true, n))]
        rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(-1, 3 * _CHARACTERS)


def chrf(sums: Array, beta: float = 2.0) -> Array:
    """Return chrF from 0 to 100 of summed counts: (R, 18) to (R,). Orders that one side has not are left out of the means."""
    given, true, shared = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    both = (given > 0) & (true > 0)
    orders = both.sum(axis=1)
    precision = divided(np.where(both, divided(shared, given), 0).sum(axis=1), orders)
    recall = divided(np.where(both, divided(shared, true), 0).sum(axis=1), orders)
    return 100 * divided((1 + beta**2) * precision * recall, beta**2 * precision + recall)


def _ngrams(units: Sequence[str], n: int) -> Counter[Any]:
    return Counter(zip(*(units[at:] for at in range(n)), strict=False))


def _shared(one: Counter[Any], other: Counter[Any]) -> int:
    if len(one) > len(other):
        one, other = other, one
    return sum(min(count, other[key]) for key, count in one.items() if key in other)
