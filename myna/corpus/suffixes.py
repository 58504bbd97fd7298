"""Machine code of the corpus index: searching the sorted histories, and following a text through them id by id.

Every function here takes plain arrays and checks nothing; `myna.corpus.index` checks, once, that the arrays fit each other.
Compiled at the first call in a process (numba), so this module is imported only where an index is opened.

A row is a place in the corpus: the gap before `ids[end]`. Rows are sorted by the ids before them, read backwards, so all places
with the same last ids ("history") are one range of rows, and the range of a longer history lies inside that of a shorter one.

    length, low, high = descend(ids, ends, starts, np.array([17, 5], np.int64))

Sources: M. Burrows and D. J. Wheeler, "A block-sorting lossless data compression algorithm", 1994 (the step from a row to the row
one id earlier); P. Ferragina and G. Manzini, "Opportunistic data structures with applications", FOCS 2000, section 3 (searching by
that step); S. Burkhardt and J. Kärkkäinen, "Fast lightweight suffix array construction and checking", CPM 2003, section 6 (the check).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Int = Any  # a machine integer: numba gives and takes np.int64, Python callers int
F = TypeVar("F", bound=Callable[..., Any])


def machine_code(function: F) -> F:
    """Translate a function at its first call, with its type kept (numba gives none)."""
    return cast(F, numba.njit(nogil=True)(function))


@machine_code
def connect(ids: Array, ends: Array, starts: Array, earlier: Array, following: Array) -> bool:
    """Check that `ends` sorts every place of `ids`, and fill `earlier` and `following`; False when it does not.

    ids: (N,). ends: (N + 1,). starts: (V + 1,), first row whose last id is v. earlier: (N + 1,), the row one id before each row.
    following: (N + 1,), the id after each row's place (0 at the corpus's end, where nothing follows).
    """
    rows = np.full(len(ends), -1, ends.dtype)  # of each place
    for row in range(len(ends)):
        end = ends[row]
        if end < 0 or end >= len(ends):
            return False
        rows[end] = row
    if ends[0] != 0:
        return False
    earlier[0] = 0
    for last in range(len(starts) - 1):
        for row in range(starts[last], starts[last + 1]):
            end = ends[row]
            if end == 0 or ids[end - 1] != last:
                return False
            earlier[row] = rows[end - 1]
            if row > starts[last] and earlier[row] <= earlier[row - 1]:  # equal where a place stands twice
                return False
    for row in range(len(ends)):
        following[row] = ids[ends[row]] if ends[row] < len(ids) else 0
    return True


@machine_code
def descend(ids: Array, ends: Array, starts: Array, query: Array) -> tuple[Int, Int, Int]:
    """Return (length, low, high): the longest end of `query` that occurs and its rows."""
    low, high = 0, len(ends)
    for depth in range(len(query)):
        wanted = query[len(query) - 1 - depth]
        if wanted < 0 or wanted >= len(starts) - 1:
            return depth, low, high
        if depth == 0:
            first, end = starts[wanted], starts[wanted + 1]
        else:
            first, end = _edge(ids, ends, depth, wanted, low, high), high
            if first < high and end - first > 1:
                end = _edge(ids, ends, depth, wanted + 1, first, high)
            elif first < high and _back(ids, ends, first, depth) != wanted:
                end = first
        if first == end:
            return depth, low, high
        low, high = first, end
    return len(query), low, high


@machine_code
def _back(ids: Array, ends: Array, row: Int, depth: Int) -> Int:
    """Return the id `depth` + 1 places before a row's place; -1 before the corpus begins."""
    at = ends[row] - 1 - depth
    return np.int64(ids[at]) if at >= 0 else np.int64(-1)


@machine_code
def _edge(ids: Array, ends: Array, depth: Int, wanted: Int, low: Int, high: Int) -> Int:
    """Return the first row of low..high whose id at `depth` is not below `wanted`."""
    while low < high:
        middle = (low + high) // 2
        if _back(ids, ends, middle, depth) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@machine_code
def descend_all(ids: Array, ends: Array, starts: Array, queries: Array, bounds: Array, counts: Array) -> None:
    """Count many queries, laid end to end in `queries`, query k at bounds[k]:bounds[k + 1]."""
    for k in range(len(counts)):
        query = queries[bounds[k]:bounds[k + 1]]
        length, low, high = descend(ids, ends, starts, query)
        counts[k] = high - low if length == len(query) else 0


@machine_code
def extend(earlier: Array, starts: Array, chain: Array, size: Int, id: Int) -> tuple[Array, Int]:
    """Append an id to a history: the rows of every end of it that occurs, longest first.

    chain: (capacity, 3) of length, low, high; row k holds the longest history with its rows, so lengths fall and ranges grow.
    The empty history is not held. Returns the chain (perhaps a larger array) and its new size.
    """
    if id < 0 or id >= len(starts) - 1:
        return chain, 0
    if size + 1 > len(chain):
        grown = np.empty((2 * size + 2, 3), chain.dtype)
        for k in range(size):
            for column in range(3):
                grown[k, column] = chain[k, column]
        chain = grown
    first, end = starts[id], starts[id + 1]
    low_limit, high_limit = end, first
    kept = 0
    for k in range(size):
        # The rows ending in `id`, in order, are the rows before it, in order, that `id` follows.
        low = _rank(earlier, first, low_limit, chain[k, 1])
        high = _rank(earlier, high_limit, end, chain[k, 2])
        low_limit, high_limit = low, high
        if low < high and (kept == 0 or high - low != chain[kept - 1, 2] - chain[kept - 1, 1]):
            chain[kept, 0], chain[kept, 1], chain[kept, 2] = chain[k, 0] + 1, low, high
            kept += 1
    if first < end and (kept == 0 or end - first != chain[kept - 1, 2] - chain[kept - 1, 1]):
        chain[kept, 0], chain[kept, 1], chain[kept, 2] = 1, first, end
        kept += 1
    return chain, kept


@machine_code
def _rank(earlier: Array, low: Int, high: Int, wanted: Int) -> Int:
    """Return the first row of low..high whose earlier row is not below `wanted`."""
    while low < high:
        middle = (low + high) // 2
        if earlier[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@machine_code
def follow(earlier: Array, starts: Array, text: Array, lengths: Array, lows: Array, highs: Array) -> None:
    """Fill, per id of `text`, the longest history ending with it that occurs in the corpus, and its rows."""
    chain, size = np.empty((64, 3), np.int64), np.int64(0)  # a plain 0 would be a type of its own, compiled again
    for t in range(len(text)):
        chain, size = extend(earlier, starts, chain, size, text[t])
        if size:
            lengths[t], lows[t], highs[t] = chain[0, 0], chain[0, 1], chain[0, 2]
        else:
            lengths[t], lows[t], highs[t] = 0, 0, len(earlier)
