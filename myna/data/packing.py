"""Examples of any length in rows of one length, several to a row, each seeing only itself.

Every example is placed once an epoch: the longest first, each into the fullest row that still has room (best fit decreasing; Johnson
et al. 1974, "Worst-case performance bounds for simple one-dimensional packing algorithms"). Rows are visited in another random order
every epoch, that of `myna.data.order`, so a batch is a pure function of (seed, step, rows). Positions begin anew in every example and
`segment_ids` tell examples apart; a model that honours both gives each the loss it has alone.

    packed = Packed([(ids, trained)], context=512, seed=0, pad_id=0)
    packed.read(step=0, rows=4)["input_ids"]        # (4, 512)

B rows, T = context
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.data.order import Order
from myna.errors import UserError

IGNORED = -100  # the label where nothing is to be predicted, in the words of PyTorch and Hugging Face


class Packed:
    """Rows of examples in training order."""

    def __init__(self, examples: Sequence[tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.bool_]]], context: int, seed: int,
                 pad_id: int) -> None:
        """examples: ids and which of them are learned, of at most `context` + 1 each. Raises UserError when there is none.

        pad_id: what stands where nothing is; it is neither seen nor learned.
        """
        self.context, self.pad_id = context, pad_id
        self.examples = [(ids, trained) for ids, trained in examples if trained[1:].any()]  # what precedes everything is never predicted
        if not self.examples:
            raise UserError("there is no example to learn from", "at least one")
        longest = max(len(ids) - 1 for ids, _ in self.examples)
        if longest > context:
            raise ValueError(f"an example takes {longest} places of a row of {context}")
        self.rows = _fill([len(ids) - 1 for ids, _ in self.examples], context, seed)
        "Which examples each row holds."
        # a circle of two copies when there is one row: an order needs two places
        self._order = Order(max(2, len(self.rows)), 1, seed)

    @property
    def fill(self) -> float:
        """Share of the places that hold a token."""
        return sum(len(ids) - 1 for ids, _ in self.examples) / (len(self.rows) * self.context)

    def read(self, step: int, rows: int) -> dict[str, npt.NDArray[np.int64]]:
        """Return the rows of a step: input_ids, labels, position_ids and segment_ids, (B, T) each."""
        chosen = (self._order.starts(step, rows) % len(self.rows)).tolist()
        return self.lay([[self.examples[number] for number in self.rows[row]] for row in chosen])

    def lay(self, rows: Sequence[Sequence[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]]) -> dict[str, npt.NDArray[np.int64]]:
        """Lay examples out in rows, in the order given."""
        return lay_rows(rows, self.context, self.pad_id)


def lay_rows(rows: Sequence[Sequence[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]], context: int, pad_id: int,
             ) -> dict[str, npt.NDArray[np.int64]]:
    """Lay examples out in rows of `context` places: each id but its last is read, each learned id but its first predicted."""
    shape = (len(rows), context)
    batch = {"input_ids": np.full(shape, pad_id, np.int64), "labels": np.full(shape, IGNORED, np.int64),
             "position_ids": np.zeros(shape, np.int64), "segment_ids": np.zeros(shape, np.int64)}
    for row, examples in enumerate(rows):
        at = 0
        for segment, (ids, trained) in enumerate(examples, 1):
            place = (row, slice(at, at + len(ids) - 1))
            batch["input_ids"][place] = ids[:-1]
            batch["labels"][place] = np.where(trained[1:], ids[1:], IGNORED)
            batch["position_ids"][place] = np.arange(len(ids) - 1)
            batch["segment_ids"][place] = segment
            at += len(ids) - 1
    return batch


def _fill(lengths: Sequence[int], context: int, seed: int) -> list[list[int]]:
    """Put every example into the fullest row that has room for it, longest first; equal lengths in an order of the seed's."""
    def rank(number: int) -> tuple[int, bytes]:
        return -lengths[number], hashlib.blake2b(f"myna packing {seed} {number}".encode(), digest_size=8).digest()

    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(context + 1)]  # rows by the places they have left
    some = 0  # bit n is set when a row has n places left
    for number in sorted(range(len(lengths)), key=rank):
        length = lengths[number]
        fitting = some >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            some &= ~(0 if with_room[room] else 1 << room)
        else:
            room, row = context, len(rows)
            rows.append([])
        rows[row].append(number)
        left = room - length
        with_room[left].append(row)
        some |= 1 << left
    return rows
