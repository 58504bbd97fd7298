"""Spans of a sequence of tags, and what a tagger got right of them.

Tags are B-X, I-X and O. A span counts when its kind and both ends are right, as in CoNLL 2003; an I- that continues nothing begins
a span, as its script has it.

    spans_of(["B-PER", "I-PER", "O"])      # [("PER", 0, 2)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Span = tuple[str, int, int]


def spans_of(tags: Sequence[str]) -> list[Span]:
    """List (kind, first word, word after the last) of a sequence of B-, I- and O tags."""
    found: list[Span] = []
    kind, start = "", 0
    for at, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        if kind and not (mark == "I" and name == kind):
            found.append((kind, start, at))
            kind = ""
        if mark in ("B", "I") and not kind:
            kind, start = name, at
    return found


def count_spans(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> npt.NDArray[Any]:
    """Count spans right, wrongly given and missed in each sentence: (N, 3), the statistics of `classification.micro_f1`."""
    rows = []
    for true, given in zip(references, predictions, strict=True):
        wanted, found = set(spans_of(true)), set(spans_of(given))
        rows.append([len(wanted & found), len(found - wanted), len(wanted - found)])
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def word_spans(words: Sequence[str]) -> list[Span]:
    """List the spans of characters that words take in their text, to score a segmentation."""
    ends = np.cumsum([len(word) for word in words]).tolist()
    return [("word", end - len(word), end) for word, end in zip(words, ends, strict=True)]
