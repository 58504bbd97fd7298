"""A translation memory: of texts that were translated before, the one most like a new one.

BM25 names some candidates by their words; of these the most similar is the one with the smallest edit distance, as translators' tools
have it: 1 - edits / length of the longer, over words and signs (over characters in scripts without spaces) and over characters, the
mean of both. Words tell what is said, characters find other forms of a word. A text that shares no term with any is like none.

Sources: Levenshtein 1966; Bloodgood and Strauss 2014, "Translation memory retrieval methods" (what makes a match useful).

    memory = Memory(["open the door", "close the window"])
    [[match]] = memory.find(["open the window"])
    match.place, match.similarity

N texts of the memory · Q texts asked for
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from myna.retrieval.terms import UNSPACED, find_terms

Array = npt.NDArray[Any]

_SATURATION, _LENGTH = 1.2, 0.75  # of BM25: the usual values
_CANDIDATES = 40  # texts whose edit distance is counted; the best match by edits is seldom further down
_LONGEST = 400  # characters that are compared: beyond it two texts are hardly a match, and the work grows with the square
_UNITS = re.compile(f"[{UNSPACED}]|[^\\W_{UNSPACED}]+|[^\\w\\s]|_")


class Match(NamedTuple):
    """A text of the memory: its number, and how like it is, 1 for equal."""

    place: int
    similarity: float


class Memory:
    """Texts, found by their likeness."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self._numbers: dict[str, int] = {}
        self._words = [self._number(_UNITS.findall(text[:_LONGEST].casefold())) for text in self.texts]
        self._characters = [self._number(text[:_LONGEST].casefold()) for text in self.texts]
        postings: dict[str, list[tuple[int, int]]] = {}
        lengths = np.zeros(len(self.texts))
        for place, text in enumerate(self.texts):
            counted = Counter(find_terms(text))
            lengths[place] = sum(counted.values())
            for term, count in counted.items():
                postings.setdefault(term, []).append((place, count))
        relative = lengths / max(1.0, lengths.mean()) if len(lengths) else lengths
        self._postings: dict[str, tuple[Array, Array]] = {}
        for term, rows in postings.items():
            places, counts = np.array(rows).T
            weight = math.log(1 + (len(self.texts) - len(rows) + 0.5) / (len(rows) + 0.5)) * (_SATURATION + 1)
            c = counts.astype(np.float32)
            self._postings[term] = places, weight * c / (c + _SATURATION * (1 - _LENGTH + _LENGTH * relative[places]))

    def _number(self, units: Sequence[str]) -> npt.NDArray[np.int32]:
        return np.array([self._numbers.setdefault(unit, len(self._numbers)) for unit in units], dtype=np.int32)

    def find(self, texts: Sequence[str], count: int = 1, without: Sequence[Collection[int]] | None = None) -> list[list[Match]]:
        """Find the `count` texts most like each of Q, best first; fewer where fewer share a term.

        without: for each, numbers that are not to be found, as those of the text itself.
        """
        return [self._find(text, count, without[number] if without is not None else ()) for number, text in enumerate(texts)]

    def _find(self, text: str, count: int, without: Collection[int]) -> list[Match]:
        scores = np.zeros(len(self.texts), dtype=np.float32)
        for term, times in Counter(find_terms(text)).items():
            if term in self._postings:
                places, weights = self._postings[term]
                scores[places] += times * weights
        scores[list(without)] = 0
        most = min(max(_CANDIDATES, count), len(scores))
        candidates = np.argpartition(-scores, most - 1)[:most] if most else np.zeros(0, dtype=np.int64)
        candidates = candidates[scores[candidates] > 0]
        candidates = candidates[np.lexsort((candidates, -scores[candidates]))]
        words, characters = self._number(_UNITS.findall(text[:_LONGEST].casefold())), self._number(text[:_LONGEST].casefold())
        found = []
        for place in candidates.tolist():
            likeness = (_likeness(words, self._words[place]) + _likeness(characters, self._characters[place])) / 2
            found.append(Match(place, likeness))
        return sorted(found, key=lambda match: -match.similarity)[:count]  # of equal ones BM25's first stays first


def _likeness(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> float:
    longer = max(len(one), len(other))
    return 1 - count_edits(one, other) / longer if longer else 1.0


@njit(nogil=True)
def count_edits(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> int:
    """Count the units to insert, delete or replace to make one text of another (Levenshtein 1966)."""
    row = np.arange(len(other) + 1)
    for i in range(len(one)):
        above = row[0]
        row[0] = i + 1
        for j in range(len(other)):
            kept = above + (one[i] != other[j])
            above = row[j + 1]
            row[j + 1] = min(kept, above + 1, row[j] + 1)
    return int(row[-1])
