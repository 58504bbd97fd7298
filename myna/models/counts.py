"""Count n-grams and turn counts into interpolated probabilities: the arithmetic below the n-gram model.

An n-gram of length k ("level k") is a node; its key is (node of its first k-1 ids) * V + its last id, so a level is one
sorted int64 array and finding an n-gram is k searches. Counting a level is one sort of the keys at all positions. Contexts
never cross a separator: a document's first id is predicted from [separator], its k-th from the separator and k-1 ids.

Source: S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer Speech and
Language 13 (1999): modified Kneser-Ney, section 3.2, equations 26-27; Witten-Bell, section 2.5. Interpolated down to the uniform
distribution, so every id has a probability. N-grams that begin with the separator keep their counts at lower orders, since
nothing can stand before them (as SRILM and KenLM do for <s>). Stupid back-off is divided by its sum (`_back_off_stupidly`).

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
STUPID_WEIGHT = 0.4  # the one constant that Brants et al. (2007) use for every length


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
    discounts: tuple[float, float, float] | None  # Kneser-Ney's alone
    fallback: bool  # the discounts are FALLBACK_DISCOUNTS
    sums: Array | None = None  # (n-grams one level down,) stupid back-off's: what a context's scores add up to


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


@dataclass(frozen=True)
class Estimates:
    """One level's input to `estimate`.

    counts: (n,) of each n-gram, zero allowed. contexts: (n,) its context's node, below `contexts_in_all`. kept: (n,) false where the
    n-gram is pruned. lower: (n,) its suffix's probability. sums: what the scores of each context's suffix add up to (stupid back-off).
    """

    counts: Array
    contexts: Array
    contexts_in_all: int
    kept: Array
    lower: Array
    sums: Array


def estimate(level: Estimates, smoothing: Smoothing) -> Table:
    """Turn a level's counts into probabilities: p(w|h) = (c(hw) - D) / c(h) + weight(h) * p(w|h without its first id).

    A pruned n-gram gets what its context's weight gives it, as if it had not been seen: its whole count is discounted
    (K. Heafield et al., "Scalable modified Kneser-Ney language model estimation", ACL 2013, section 3; so does lmplz).
    """
    counts, contexts = level.counts, level.contexts
    totals = np.bincount(contexts, counts, minlength=level.contexts_in_all)
    seen = np.maximum(totals, 1).astype(np.float64)
    if smoothing == "stupid_backoff":
        return _back_off_stupidly(level, totals, seen)
    discounts, fallback, kinds = None, False, np.zeros(level.contexts_in_all, np.int64)
    if smoothing == "witten_bell":  # (c(hw) + N1+(h.) p_lower) / (c(h) + N1+(h.)): nothing is discounted, N1+(h.) is added
        kinds = np.bincount(contexts, counts > 0, minlength=level.contexts_in_all)
        seen += kinds
    else:
        discounts, fallback = modified_discounts(counts)
    off = np.where(level.kept, np.array([0.0, *(discounts or (0, 0, 0))])[np.minimum(counts, 3)], counts)
    weights = np.where(totals > 0, (np.bincount(contexts, off, minlength=level.contexts_in_all) + kinds) / seen, 1.0)
    return Table((counts - off) / seen[contexts] + weights[contexts] * level.lower, weights, discounts, fallback)


def _back_off_stupidly(level: Estimates, totals: Array, seen: Array) -> Table:
    """Divide Brants' scores by their sum: S(w|h) = c(hw) / c(h) where hw was kept, else 0.4 S(w|h without its first id).

    T. Brants et al., "Large language models in machine translation", EMNLP-CoNLL 2007, equation 5. With p = S / Z for the shorter context,
    Z(h) = sum of the kept c(hw) / c(h) + 0.4 Z(h') (1 - sum of the kept p(w|h')), so the sum is exact and costs one pass; what is stored
    has the same form as that of the other smoothings. An id never seen has S = 0.4 / V, since no probability may be zero.
    """
    kept = level.kept & (level.counts > 0)
    scores = np.where(kept, level.counts / seen[level.contexts], 0.0)
    held = np.bincount(level.contexts, scores, minlength=level.contexts_in_all)
    covered = np.bincount(level.contexts, np.where(kept, level.lower, 0.0), minlength=level.contexts_in_all)
    sums = np.where(totals > 0, held + STUPID_WEIGHT * level.sums * np.maximum(1 - covered, 0), level.sums)
    weights = np.where(totals > 0, STUPID_WEIGHT * level.sums / sums, 1.0)
    chances = np.where(kept, scores / sums[level.contexts], weights[level.contexts] * level.lower)
    return Table(chances, weights, None, False, sums)


class Ladder:
    """One smoothing's tables, a level higher at each call of `climb`."""

    def __init__(self, counts: Counts, smoothing: Smoothing, prune: tuple[int, ...] = ()) -> None:
        self.counts, self.smoothing, self.prune = counts, smoothing, prune
        self.bits = float("inf")  # on the validation split, at the last order
        self._below: list[Table] = []  # final estimates of the levels under the highest
        self._top: Table | None = None

    def climb(self) -> list[Table]:
        """Return the tables of the model whose order is the highest level counted."""
        levels = self.counts.levels
        if len(levels) > 1:
            left = levels[-2].left
            assert left is not None and self._top is not None
            # Kneser-Ney: below the order, an n-gram counts as often as different ids stand before it.
            self._below.append(self._estimate(len(levels) - 1, left) if self.smoothing == "kneser_ney" else self._top)
        self._top = self._estimate(len(levels), levels[-1].counts)
        return [*self._below, self._top]

    def kept(self, number: int) -> Array:
        """Tell, for each n-gram of length `number`, whether it occurs more often than it must to stay: bool (n,)."""
        counts = self.counts.levels[number - 1].counts
        if not self.prune:
            return np.ones(len(counts), bool)
        return np.asarray(counts > self.prune[min(number, len(self.prune)) - 1])

    def _estimate(self, number: int, counts: Array) -> Table:
        level, vocab_size, kept = self.counts.levels[number - 1], self.counts.vocab_size, self.kept(number)
        if number == 1:
            lower = np.full(vocab_size, 1 / vocab_size)
            return estimate(Estimates(counts, np.zeros(vocab_size, np.int64), 1, kept, lower, np.ones(1)), self.smoothing)
        below, shorter = self._below[number - 2], self.counts.levels[number - 2]
        sums = np.ones(1)
        if below.sums is not None:  # a context's suffix is a context one level down; at level 1 it is the empty one
            sums = below.sums[shorter.suffixes]
        lower = below.probabilities[level.suffixes]
        return estimate(Estimates(counts, level.keys // vocab_size, len(shorter.keys), kept, lower, sums), self.smoothing)


class Probe:
    """The validation split, looked up once per level and scored under any tables."""

    def __init__(self, ids: Array, vocab_size: int, separator_id: int) -> None:
        self.vocab_size = vocab_size
        self.ids, self._reach = with_start(ids, separator_id)
        self._text = self.ids[1:] != separator_id
        self.tokens = int(np.count_nonzero(self._text))
        self._nodes: list[Array] = []

    def extend(self, keys: Array) -> None:
        """Look up the next level's n-grams."""
        if not self._nodes:
            self._nodes.append(self.ids.astype(np.int64))
            return
        nodes = np.full(len(self.ids), -1, np.int64)
        inside = np.flatnonzero(self._reach >= len(self._nodes))
        inside = inside[self._nodes[-1][inside - 1] >= 0]
        nodes[inside] = find(keys, self._nodes[-1][inside - 1] * self.vocab_size + self.ids[inside])
        self._nodes.append(nodes)

    def bits_per_token(self, tables: list[Table]) -> float:
        """Return the mean bits of a text token (separators are not scored); 0 when there is none."""
        if not self.tokens:
            return 0.0
        chances = tables[0].probabilities[self.ids[1:]]
        for table, above, nodes in zip(tables[1:], self._nodes, self._nodes[1:], strict=False):
            contexts, found = above[:-1], nodes[1:]
            shorter = np.where(contexts >= 0, table.weights[contexts], 1.0) * chances
            chances = np.where(found >= 0, table.probabilities[found], shorter)
        return float(-np.log2(chances[self._text]).mean())
