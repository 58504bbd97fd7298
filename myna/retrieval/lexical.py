"""The words of passages on disk, and BM25 over them.

A block holds the postings of consecutive passages: for each term, in sorted order, the passages it is in and how often. A block is
written once and never changed; an index adds blocks, and joins small ones. Everything that scoring needs of a whole collection (how
many passages, in how many a term is, their mean length) is a sum over blocks, so an index that grew scores as one made at once.

BM25: Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", equation 3.15, with the idf of Lucene,
which is never negative:

    score(q, p) = sum over t of  ln(1 + (N - n + 0.5) / (n + 0.5)) * c (k1 + 1) / (c + k1 (1 - b + b l / mean l))

N passages · n of them with term t · c times in p · l terms in p

    write_block(folder, first=0, passages=[count_terms("a bird sings")])
    score_blocks([Block(folder)], Counter(["bird"]))
"""

from __future__ import annotations

import math
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.errors import UserError
from myna.files import read_json, write_json

Array = NDArray[Any]

_SATURATION, _LENGTH = 1.2, 0.75  # k1 and b: the usual values, Lucene's
_MOST = 65535  # a count is kept in 16 bits; BM25 saturates long before


class Block:
    """The postings of passages first to first + size, mapped from disk."""

    def __init__(self, folder: Path) -> None:
        described = read_json(folder / "block.json")
        self.folder = folder
        self.first, self.size = int(described["first"]), int(described["size"])
        try:
            self.lengths, self.starts, self.passages, self.counts, self.ends = (
                np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("lengths", "starts", "passages", "counts", "ends"))
            self._names = (folder / "terms.utf8").read_bytes()
        except (OSError, ValueError, EOFError, tokenize.TokenError) as error:  # the last of an array's broken header
            raise UserError(f"{folder} is damaged ({error})", "a block of an index", "make the index again") from None
        terms = len(self.ends)
        if (len(self.starts) != terms + 1 or len(self.passages) != len(self.counts) or len(self.lengths) != self.size
                or (terms and (int(self.ends[-1]) != len(self._names) or int(self.starts[-1]) != len(self.passages)))):
            raise UserError(f"{folder} is damaged (its tables do not fit together)", "a block of an index", "make the index again")

    @property
    def last(self) -> int:
        """The number after that of the last passage."""
        return self.first + self.size

    def terms(self) -> list[bytes]:
        """List all terms, sorted."""
        ends = self.ends.tolist()
        return [self._names[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def find(self, term: str) -> tuple[Array, Array]:
        """Return the passages a term is in, counted from `first`, and how often: (n,) each."""
        wanted = term.encode("utf-8", "surrogatepass")
        low, high = 0, len(self.ends)
        while low < high:
            middle = (low + high) // 2
            if self._names[int(self.ends[middle - 1]) if middle else 0 : int(self.ends[middle])] < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self.ends) or self._names[int(self.ends[low - 1]) if low else 0 : int(self.ends[low])] != wanted:
            return self.passages[:0], self.counts[:0]
        place = slice(int(self.starts[low]), int(self.starts[low + 1]))
        return self.passages[place], self.counts[place]


def write_block(folder: Path, first: int, passages: Iterable[Mapping[str, int]]) -> None:
    """Write the postings of passages, numbered from `first`, into an existing folder."""
    numbers: dict[str, int] = {}
    rows: list[Array] = []
    lengths: list[int] = []
    for passage, counted in enumerate(passages):
        ids = [numbers.setdefault(term, len(numbers)) for term in counted]
        row = np.empty((len(ids), 3), dtype=np.int32)
        row[:, 0], row[:, 1], row[:, 2] = ids, passage, np.minimum(list(counted.values()), _MOST) if counted else []
        rows.append(row)
        lengths.append(sum(counted.values()))
    table = np.concatenate(rows) if rows else np.zeros((0, 3), dtype=np.int32)
    names = sorted((term.encode("utf-8", "surrogatepass"), number) for term, number in numbers.items())
    order = np.empty(len(names), dtype=np.int64)
    order[[number for _, number in names]] = np.arange(len(names))
    ranks = order[table[:, 0]]
    by_term = np.lexsort((table[:, 1], ranks))
    starts = np.concatenate(([0], np.cumsum(np.bincount(ranks, minlength=len(names)))))
    _save(folder, first, [name for name, _ in names], starts, table[by_term, 1], table[by_term, 2], np.array(lengths, dtype=np.int32))


def join_blocks(folder: Path, blocks: Sequence[Block]) -> None:
    """Write consecutive blocks as one into an existing folder."""
    listed = [block.terms() for block in blocks]
    names = sorted(set().union(*listed))
    rank = {name: number for number, name in enumerate(names)}
    sizes, places = np.zeros(len(names), dtype=np.int64), []
    for block, terms in zip(blocks, listed, strict=True):
        place = np.array([rank[term] for term in terms], dtype=np.int64)
        places.append(place)
        sizes[place] += np.diff(block.starts)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    passages, counts, at = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.uint16), starts[:-1].copy()
    for block, place in zip(blocks, places, strict=True):  # in the order of passages, so each term's stay sorted
        widths = np.diff(block.starts)
        target = np.repeat(at[place] - block.starts[:-1], widths) + np.arange(len(block.passages))
        passages[target], counts[target] = block.passages + (block.first - blocks[0].first), block.counts
        at[place] += widths
    _save(folder, blocks[0].first, names, starts, passages, counts, np.concatenate([block.lengths for block in blocks]))


def _save(folder: Path, first: int, names: list[bytes], starts: Array, passages: Array, counts: Array, lengths: Array) -> None:
    (folder / "terms.utf8").write_bytes(b"".join(names))
    for name, values, kind in (("ends", np.cumsum([len(term) for term in names]), np.int64), ("starts", starts, np.int64),
                               ("passages", passages, np.int32), ("counts", counts, np.uint16), ("lengths", lengths, np.int32)):
        np.save(folder / f"{name}.npy", np.asarray(values, dtype=kind))
    write_json(folder / "block.json", {"first": first, "size": len(lengths)})


def score_blocks(blocks: Sequence[Block], query: Counter[str], deleted: Array | None = None) -> Array:
    """Score every passage of an index against a query's terms by BM25: (N,) float32, 0 where no term is.

    deleted: (N,) bool, passages that count for nothing. A term that the query holds twice counts twice.
    """
    total = blocks[-1].last if blocks else 0
    scores = np.zeros(total, dtype=np.float32)
    live = np.ones(total, dtype=bool) if deleted is None else ~deleted
    N = int(live.sum())
    if not N:
        return scores
    mean = max(1.0, sum(float(block.lengths[live[block.first : block.last]].sum(dtype=np.int64)) for block in blocks) / N)
    for term, times in query.items():
        found = [(block, *block.find(term)) for block in blocks]
        n = sum(int(live[passages + block.first].sum()) for block, passages, _ in found)
        if not n:
            continue
        weight = times * math.log(1 + (N - n + 0.5) / (n + 0.5)) * (_SATURATION + 1)
        for block, passages, counts in found:
            c = counts.astype(np.float32)
            length = block.lengths[passages] / np.float32(mean)
            scores[passages + block.first] += weight * c / (c + _SATURATION * (1 - _LENGTH + _LENGTH * length))
    scores[~live] = 0
    return scores


def match_blocks(blocks: Sequence[Block], query: Counter[str], deleted: Array) -> Array:
    """Count, for every passage of an index, how many different terms of a query it holds: (N,) float32; the plainest way to rank."""
    scores = np.zeros(len(deleted), dtype=np.float32)
    for term in query:
        for block in blocks:
            scores[block.find(term)[0] + block.first] += 1
    scores[deleted] = 0
    return scores
