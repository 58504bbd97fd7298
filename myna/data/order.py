"""The order in which training sees the text: a pure function of (seed, epoch, index), so that a resumed run needs no history.

The stream of tokens is taken as a circle (its last token is a separator, after which any document may follow) and cut into
windows of `context` tokens. Every epoch cuts it at another random place and visits the windows in another random order, so
each token is predicted once per epoch, but for the `tokens % context` left over. The order is a permutation computed point by
point, with nothing stored: a Feistel network over the next power of four, walked until it falls below the number of windows
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, section 3). Ranks and micro-batches take slices of a
step's rows, so the order does not depend on them; nor on NumPy's version, whose generators may change their streams (NEP 19).

    order = Order(total_tokens=1_000_000, context=256, seed=0)
    read_batch(ids, order.starts(step=0, rows=16), context=256)

Letters: B rows, T = context + 1.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from myna.errors import UserError

_ROUNDS = 8  # four make a pseudorandom permutation (Luby and Rackoff 1988); twice that, as the halves here can be a few bits
_MASK = (1 << 64) - 1
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64's finaliser (Steele, Lea and Flood 2014, figure 16, variant 13)


class Order:
    """The windows of a token stream in training order, epoch after epoch."""

    def __init__(self, total_tokens: int, context: int, seed: int) -> None:
        """total_tokens: length of the stream. context: tokens predicted per window. Raises UserError when there is not one window."""
        if total_tokens <= context:
            raise UserError(f"the training text has {total_tokens:,} tokens", f"more than one context of {context:,}",
                            "give more text or choose a smaller context")
        self.total_tokens, self.context, self.seed = total_tokens, context, seed
        self.windows = total_tokens // context
        "Windows in one epoch."
        self._bits = max(1, (self.windows - 1).bit_length() + 1 >> 1)  # of a half

    def window(self, index: int) -> int:
        """Return the start token of window `index`, counted over all epochs; the readable twin of `starts`."""
        epoch, number = divmod(index, self.windows)
        phase, keys = self._keys(epoch)
        half = (1 << self._bits) - 1
        while True:
            left, right = number >> self._bits, number & half
            for key in keys:
                mixed = (right + key) & _MASK
                mixed = (mixed ^ mixed >> 30) * _MIX[0] & _MASK
                mixed = (mixed ^ mixed >> 27) * _MIX[1] & _MASK
                left, right = right, left ^ (mixed ^ mixed >> 31) & half
            number = left << self._bits | right
            if number < self.windows:
                return (phase + number * self.context) % self.total_tokens

    def starts(self, step: int, rows: int) -> NDArray[np.int64]:
        """Return the start tokens (B,) of the windows of optimizer step `step` (from 0) when every step takes `rows` windows."""
        indices = np.arange(step * rows, (step + 1) * rows, dtype=np.int64)
        epochs = indices // self.windows
        found = np.empty(rows, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):  # a step may span the end of an epoch, or several
            here = epochs == epoch
            phase, keys = self._keys(epoch)
            numbers = self._permute(indices[here] - epoch * self.windows, keys)
            found[here] = (phase + numbers * self.context) % self.total_tokens
        return found

    def _keys(self, epoch: int) -> tuple[int, list[int]]:
        """Derive an epoch's phase, where the circle is first cut, and its round keys."""
        digest = b"".join(hashlib.blake2b(f"myna order {self.seed} {epoch} {half}".encode()).digest() for half in (0, 1))
        words = [int.from_bytes(digest[place:place + 8], "little") for place in range(0, len(digest), 8)]
        return words[0] % self.total_tokens, words[1:1 + _ROUNDS]

    def _permute(self, numbers: NDArray[np.int64], keys: list[int]) -> NDArray[np.int64]:
        bits, half = np.uint64(self._bits), np.uint64((1 << self._bits) - 1)
        walked = numbers.astype(np.uint64)
        outside = np.arange(len(walked))  # rows whose number is not yet, or no longer, one of a window
        while len(outside):
            value = walked[outside]
            left, right = value >> bits, value & half
            for key in keys:
                mixed = right + np.uint64(key)  # wraps modulo 2**64, as meant
                mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(_MIX[0])
                mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(_MIX[1])
                left, right = right, left ^ (mixed ^ mixed >> np.uint64(31)) & half
            walked[outside] = value = left << bits | right
            outside = outside[value >= self.windows]
        return walked.astype(np.int64)


class Windows:
    """Batches for next-token prediction: windows of the stream in `Order`'s order, each position labelled with the id after it."""

    def __init__(self, ids: NDArray[np.integer], context: int, seed: int) -> None:
        """ids: the token stream (N,). Raises UserError when it does not fill one window."""
        self.ids, self.context = ids, context
        self.order = Order(len(ids), context, seed)

    def read(self, step: int, rows: int) -> dict[str, NDArray[np.int64]]:
        """Return the rows of a step: input_ids and labels (B, context)."""
        batch = read_batch(self.ids, self.order.starts(step, rows), self.context)
        return {"input_ids": batch[:, :-1], "labels": batch[:, 1:]}


def read_batch(ids: NDArray[np.integer], starts: NDArray[np.int64], context: int) -> NDArray[np.int64]:
    """Gather windows from a token stream: (B,) starts to (B, T) ids, each window with the token after it; wraps at the end."""
    batch = np.empty((len(starts), context + 1), dtype=np.int64)  # (B, T)
    for row, start in zip(batch, starts.tolist(), strict=True):
        head = ids[start:start + context + 1]
        row[:len(head)] = head
        row[len(head):] = ids[:context + 1 - len(head)]
    return batch
