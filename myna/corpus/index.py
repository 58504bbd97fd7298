"""The index of a corpus: every place in it, sorted by what came before, so that any sequence of ids is found at once.

A suffix array of the corpus read backwards. Reading backwards makes it an index of histories: the places where a history
occurs are neighbours, longer histories are narrower ranges inside, and what follows them can be counted on the spot. One
structure for the unbounded n-gram model, draft tokens, tracing text to its source, and looking for memorised or leaked text.

    index = build_index(shard.ids, Path("my-model/index"))       # 6 bytes a token on disk for a vocabulary below 65,537
    index.count([17, 5, 99])                                     # how often these ids stand in a row
    index.positions([17, 5, 99], limit=3)                        # where: positions in shard.ids
    index.next_counts([17, 5])                                   # what followed, and how often
    index.longest_suffix(context)                                # how much of a context has been seen, and where

Sources: U. Manber and G. Myers, "Suffix arrays: a new method for on-line string searches", SIAM J. Computing 22 (1993);
J. Liu et al., "Infini-gram: scaling unbounded n-gram language models to a trillion tokens", COLM 2024 (one over token ids).
Built by libdivsufsort (Y. Mori) through pydivsufsort.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import find_damage, new_directory, read_json, write_json, write_manifest

Array = npt.NDArray[Any]
Query = Sequence[int] | Array

_LARGEST = 1 << 32  # ids are stored in 16 or 32 bits
_SMALL_VOCABULARY = 1 << 22  # above every published tokenizer's; more must have the text to show for it


class Matches(NamedTuple):
    """Per id of a text, the longest run of ids ending with it that occurs in the corpus, and its rows."""

    lengths: Array  # (T,) int64; 0 where the id itself does not occur
    lows: Array  # (T,) int64
    highs: Array  # (T,) int64; highs - lows is how often that run occurs


class Index:
    """Every place of a token stream, sorted by history.

    ids: (N,) uint16 or uint32. ends: (N + 1,) int32 (int64 from 2**31 ids), the place of each row: how many ids stand before it.
    vocab_size: ids are below it. Raises UserError when `ends` is not the sorted order of all places of `ids`.
    """

    def __init__(self, ids: Array, ends: Array, vocab_size: int) -> None:
        from myna.corpus.suffixes import connect

        self.ids, self.ends, self.vocab_size = _plain(ids), _plain(ends), vocab_size
        starts = np.ones(vocab_size + 1, np.int64)  # row 0 is the beginning of the corpus, which no id stands before
        if len(ids):
            if int(ids.max()) >= vocab_size:
                raise UserError(f"a corpus with id {int(ids.max())}", f"ids below the vocabulary's {vocab_size}", "use its own tokenizer")
            starts[1:] += np.cumsum(np.bincount(ids, minlength=vocab_size))
        self.starts = _plain(starts)
        earlier, following = np.empty(len(ends), ends.dtype), np.empty(len(ends), ids.dtype)
        if len(ends) != len(ids) + 1 or not connect(self.ids, self.ends, self.starts, earlier, following):
            raise UserError("an index that is not the sorted order of its ids", "one that Myna built", "build it again")
        self.earlier, self.following = _plain(earlier), _plain(following)
        self.last_row = int(np.flatnonzero(self.ends == len(ids))[0])  # the end of the corpus, which nothing follows

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(cls, ids: Array, vocab_size: int) -> Index:
        """Sort the places of a flat stream of ids (kept by reference where its type is already the stored one)."""
        from pydivsufsort import divsufsort

        if not 0 < vocab_size <= _LARGEST or (len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocab_size)):
            raise UserError(f"ids from {int(ids.min()) if len(ids) else 0} to {int(ids.max()) if len(ids) else 0} for an index",
                            f"ids below the vocabulary's {vocab_size}", "use the corpus's own tokenizer")
        stored = np.ascontiguousarray(ids, np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        ends = np.zeros(len(stored) + 1, np.int32 if len(stored) < (1 << 31) - 1 else np.int64)
        if len(stored):
            np.subtract(len(stored), divsufsort(stored[::-1].copy()), out=ends[1:], casting="unsafe")
        return cls(stored, ends, vocab_size)

    def save(self, folder: Path) -> None:
        """Write ids, order and sizes as a finished directory, whole or not at all; it needs nothing else when it is moved."""
        with new_directory(folder) as new:
            np.save(new / "ids.npy", self.ids, allow_pickle=False)
            np.save(new / "ends.npy", self.ends, allow_pickle=False)
            write_json(new / "index.json", {"ids": len(self.ids), "vocab_size": self.vocab_size})
            write_manifest(new, "index", {}, {"vocab_size": self.vocab_size})

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Open a directory that `save` wrote, through memory maps.

        Raises UserError unless every file has the hash of the manifest and the order is that of the ids. Both are checked here
        because searching checks nothing.
        """
        damage = find_damage(folder)
        if damage:
            raise UserError(f"the index {folder} is damaged: {damage}", "the directory as it was written", "restore it or build it again")
        sizes = read_json(folder / "index.json")
        try:
            count, vocab_size = sizes["ids"], sizes["vocab_size"]
            if any(not isinstance(n, int) or isinstance(n, bool) for n in (count, vocab_size)):
                raise ValueError("its sizes are no whole numbers")
            if count < 0 or not 0 < vocab_size <= max(_SMALL_VOCABULARY, 4 * count):  # a table of 8 bytes for each id of it is made
                raise ValueError("its sizes cannot be")
            kind = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
            ids = _map(folder / "ids.npy", kind, count)
            ends = _map(folder / "ends.npy", np.dtype(np.int32 if count < (1 << 31) - 1 else np.int64), count + 1)
            return cls(ids, ends, vocab_size)
        except (OSError, ValueError, KeyError, TypeError, EOFError, OverflowError) as error:
            raise UserError(f"the index {folder} cannot be read ({error})", "a directory that Myna wrote", "build it again") from None
        except UserError as error:
            raise UserError(f"the index {folder} is damaged: {error.got}", error.expected, error.action) from None

    def find(self, ids: Query) -> tuple[int, int]:
        """Return the rows (low, high) of the places right after `ids`; low == high when they do not occur in a row.

        Nothing finds every place, the beginning included. Ids outside the vocabulary do not occur.
        """
        length, low, high = self.longest_suffix(ids)
        return (low, high) if length == len(ids) else (low, low)

    def count(self, ids: Query) -> int:
        """Count how often `ids` stand in a row. Sequences may overlap; separators match only themselves."""
        low, high = self.find(ids)
        return high - low

    def count_batch(self, queries: Sequence[Query]) -> Array:
        """Count each query: (len(queries),) int64."""
        from myna.corpus.suffixes import descend_all

        bounds = np.zeros(len(queries) + 1, np.int64)
        np.cumsum([len(query) for query in queries], out=bounds[1:])
        flat = np.concatenate([np.asarray(query, np.int64) for query in queries]) if len(queries) else np.zeros(0, np.int64)
        counts = np.empty(len(queries), np.int64)
        descend_all(self.ids, self.ends, self.starts, flat, bounds, counts)
        return counts

    def positions(self, ids: Query, limit: int | None = None) -> Array:
        """Return where `ids` begin, in corpus order, at most `limit` places (the first ones): int64."""
        low, high = self.find(ids)
        places = np.sort(self.ends[low:high])[:limit].astype(np.int64)
        return places - len(ids)

    def next_counts(self, ids: Query) -> tuple[Array, Array]:
        """Return what follows `ids`, in id order, and how often: (n,) ids and (n,) counts, int64."""
        low, high = self.find(ids)
        after = self.following[low:high]
        if low <= self.last_row < high:
            after = np.delete(after, self.last_row - low)
        if len(after) > self.vocab_size:
            counts = np.bincount(after, minlength=self.vocab_size)
            seen = np.flatnonzero(counts)
            return seen, counts[seen]
        seen, counts = np.unique(after, return_counts=True)
        return seen.astype(np.int64), counts.astype(np.int64)

    def longest_suffix(self, ids: Query) -> tuple[int, int, int]:
        """Return (length, low, high): how many of the last ids of a context occur in a row, and the rows after them."""
        from myna.corpus.suffixes import descend

        return descend(self.ids, self.ends, self.starts, np.array(ids, np.int64))

    def match(self, ids: Query) -> Matches:
        """Match a whole text: per id, the longest run ending with it that occurs. Linear in the text, whatever repeats."""
        from myna.corpus.suffixes import follow

        text = np.asarray(ids, np.int64)
        found = Matches(*(np.empty(len(text), np.int64) for _ in range(3)))
        follow(self.earlier, self.starts, text, *found)
        return found


def build_index(ids: Array, out: Path, vocab_size: int) -> Index:
    """Index a flat stream of ids (a shard's, with its separators) and write the directory `out`; opens it from there."""
    Index.build(ids, vocab_size).save(out)
    return Index.open(out)


def _plain(array: Array) -> Array:
    """Drop the memory map's class and the right to write: one machine type for built and opened indexes."""
    view = np.asarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _map(path: Path, kind: np.dtype[Any], count: int) -> Array:
    """Map a flat array of one allowed type and size; the size is compared with the file before anything is made."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.dtype != kind or mapped.shape != (count,) or mapped.offset + mapped.nbytes != path.stat().st_size:
        raise ValueError(f"{path.name} is {mapped.dtype}{list(mapped.shape)}, not {kind}[{count}]")
    return np.asarray(mapped)
