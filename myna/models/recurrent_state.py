"""What a recurrent model remembers of the rows it is continuing: their state, and the latest states to cut back to.

A state has a fixed size, but what was forgotten cannot be got back from it. So the states after the latest ids of every row
are kept, which is where speculation cuts; a cut further back reads the row's ids again from the start, the same numbers but slower.

    state = Recurrent(config).start(rows=2)
    state.lengths       # [0, 0]

B rows · T tokens · L layers · H hidden size
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

States = tuple[Tensor, ...]  # h, and an LSTM's c
_KEPT = 64  # latest states of a row: more than any draft is long


class RecurrentState:
    """The rows' states (B, L, H), the ids that led there, and the latest states of each row, (L, H) each, oldest first."""

    def __init__(self, carry: States, replay: Callable[[Sequence[int]], States]) -> None:
        """carry: the state of rows with nothing seen. replay: from ids to the state after them."""
        self.carry, self._replay, self._empty = carry, replay, tuple(part[:1] for part in carry)
        self._ids: list[list[int]] = [[] for _ in carry[0]]
        self._latest: list[deque[States]] = [deque(maxlen=_KEPT) for _ in carry[0]]

    @property
    def lengths(self) -> list[int]:
        """How many ids each row has taken."""
        return [len(ids) for ids in self._ids]

    def extend(self, ids: Sequence[list[int]], states: States) -> None:
        """Append new ids of every row, with the states after each of them, (T, B, L, H)."""
        for row, new in enumerate(ids):
            self._ids[row] = [*self._ids[row], *new]
            low = max(0, len(new) - _KEPT)
            parts = [part[low : len(new), row].clone() for part in states]  # not a view, which would keep all T
            self._latest[row].extend(zip(*parts, strict=True))
        self._gather()

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids."""
        if any(new > old or new < 0 for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot cut rows of {self.lengths} ids to {list(lengths)}")
        for row, length in enumerate(lengths):
            for _ in range(min(len(self._latest[row]), len(self._ids[row]) - length)):
                self._latest[row].pop()
            self._ids[row] = self._ids[row][:length]
            if length and not self._latest[row]:
                self._latest[row].append(self._replay(self._ids[row]))
        self._gather()

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; repeats are allowed."""
        self._ids = [self._ids[row] for row in rows]
        self._latest = [self._latest[row].copy() for row in rows]
        self._gather()

    def _gather(self) -> None:
        """Put the rows' last states side by side."""
        last = [latest[-1] if latest else tuple(part[0] for part in self._empty) for latest in self._latest]
        self.carry = tuple(torch.stack(parts) for parts in zip(*last, strict=True)) if last else tuple(part[:0] for part in self.carry)
