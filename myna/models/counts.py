"""Count n-grams and turn counts into interpolated probabilities: the arithmetic below the n-gram model.

An n-gram of length k ("level k") is a node; its key is (node of its first k-1 ids) * V + its last id, so a level is one
sorted int64 array and finding an n-gram is k searches. Counting a level is one sort of the keys at all positions. Contexts
never cross a separator: a document's first id is predicted from [separator], its k-th from the separator and k-1 ids.

Source: S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer Speech and
Language 13 (1999): modified Kneser-Ney, section 3.2, equations 26-27; Witten-Bell, section 2.5. Interpolated down to the uniform
distribution, so every id has a probability. N-grams that begin with the separator keep their counts at lower orders, since
nothing can stand before them (as SRILM and KenLM do for <s>).

    counts = Counts(np.array([5, 6, 5, 6, 0]), vocab_size=8, separator_id=0)
    counts.add_level()
    counts.levels[1].counts                                      # of the bigrams (0, 5), (5, 6), (6, 0), (6, 5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from myna.models.options import Smoothing

Array = npt.NDArray[Any]

# What KenLM's --discount_fallback uses when counts of counts cannot give a discount.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass
class Level:
    """All distinct n-grams of one length, in key order.

    keys: int64, strictly increasing; at level 1, 0..V-1 (every id is a node, seen or not).
    counts: int32, how often each occurs. suffixes: int32, node, one level down, of the n-gram without its first id.
    left: distinct ids seen before it (its count where it begins with the separator); known once the next level is counted.
    """

    keys: Array
    counts: Array
    suffixes: Array
    begins: Array  # bool: begins with the separator
    left: Array | None = None


class Table(NamedTuple):
    """Interpolated probabilities of a level's n-grams, and the weight each context one level down gives to shorter contexts."""

    probabilities: Array  # (n-grams of this level,) float64
    weights: Array  # (n-grams one level down,) float64; 1 where the context was never seen
    discounts: tuple[float, float, float] | None  # None for Witten-Bell
    fallback: bool  # the discounts are FALLBACK_DISCOUNTS


class Counts:
    """N-grams of a token stream (documents, each followed by the separator), counted level by level."""

    def __init__(self, ids: Array, vocab_size: int, separator_id: int) -> None:
        self.vocab_size = vocab_size
        self._ids, self._reach = with_start(ids, separator_id)
        self._nodes = self._ids.astype(np.int64)  # node of the level's n-gram that ends at each position
        raw = np.bincount(self._ids[1:], minlength=vocab_size).astype(np.int32)
        nothing = np.zeros(vocab_size, np.int32)
        self.levels = [Level(np.arange(vocab_size), raw, nothing, np.zeros(vocab_size, bool))]

    def add_level(self) -> bool:
        """Count the n-grams one id longer. Returns False, adding nothing, when no document is long enough."""
        length = len(self.levels) + 1
        positions = np.flatnonzero(self._reach >= length - 1)
        if not len(positions):
            return False
        keys = self._nodes[positions - 1] * self.vocab_size + self._ids[positions]
        order = np.argsort(keys)
        keys = keys[order]
        new = np.empty(len(keys), bool)
        new[0] = True
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        firsts = np.flatnonzero(new)
        samples = positions[order[firsts]]  # one position of each n-gram
        occurrences = np.diff(firsts, append=len(keys)).astype(np.int32)  # at most 2 ** 31 tokens: a third of the memory
        level = Level(keys[firsts], occurrences, self._nodes[samples].astype(np.int32), self._reach[samples] == length - 1)
        below = self.levels[-1]
        left = np.bincount(level.suffixes, minlength=len(below.keys)).astype(np.int32)
        below.left = np.where(below.begins, below.counts, left)
        self._nodes = np.full(len(self._ids), -1, np.int64)
        self._nodes[positions[order]] = np.cumsum(new) - 1
        self.levels.append(level)
        return True


def with_start(ids: Array, separator_id: int) -> tuple[Array, Array]:
    """Put a separator before the stream; returns the ids (N + 1,) int32 and how many ids each position may look back on.

    The look-back reaches the last separator before the position, which it includes; 0 at the added separator.
    """
    stream = np.empty(len(ids) + 1, np.int32)
    stream[0] = separator_id
    stream[1:] = ids
    index = np.arange(len(stream), dtype=np.int32)
    last = np.maximum.accumulate(np.where(stream == separator_id, index, 0))
    reach = index.copy()
    reach[1:] -= last[:-1]
    return stream, reach


def find(keys: Array, wanted: Array) -> Array:
    """Return the index of each wanted key in sorted `keys`, -1 where it is not there."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def modified_discounts(counts: Array) -> tuple[tuple[float, float, float], bool]:
    """Return D1, D2, D3+ from the counts of counts, and whether they are the fixed ones because those cannot give them.

    Chen & Goodman (1999) eq. 26. They fail when a count of counts is zero or a discount leaves (0, j], as in tiny texts,
    and at level 1, where every piece of a trained vocabulary is frequent.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == j)) for j in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return FALLBACK_DISCOUNTS, True
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if not all(0 < d <= j for j, d in enumerate(discounts, start=1)):
        return FALLBACK_DISCOUNTS, True
    return discounts, False


def estimate(counts: Array, contexts: Array, contexts_in_all: int, lower: Array, smoothing: Smoothing) -> Table:
    """Interpolate a level with the one below: p(w|h) = (c(hw) - D) / c(h) + weight(h) * p(w|h without its first id).

    counts: (n,) of each n-gram, zero allowed. contexts: (n,) its context's node. lower: (n,) its suffix's probability.
    """
    totals = np.bincount(contexts, counts, minlength=contexts_in_all)
    seen = np.maximum(totals, 1)
    if smoothing == "witten_bell":  # c(hw) + N1+(h.) p_lower over c(h) + N1+(h.)
        kinds = np.bincount(contexts, counts > 0, minlength=contexts_in_all)
        weights = np.where(totals > 0, kinds / (seen + kinds), 1.0)
        return Table(counts / (seen + kinds)[contexts] + weights[contexts] * lower, weights, None, False)
    discounts, fallback = modified_discounts(counts)
    off = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    weights = np.where(totals > 0, np.bincount(contexts, off, minlength=contexts_in_all) / seen, 1.0)
    return Table((counts - off) / seen[contexts] + weights[contexts] * lower, weights, discounts, fallback)
