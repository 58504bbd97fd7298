"""The key-value cache: what a Transformer decoder remembers of the rows it is continuing.

Rows may differ in length: row b holds `lengths[b]` positions, its slots beyond that are free. Cutting a row back
(`truncate`) only lowers its length; the next step overwrites the slots.

B rows · K key-value heads · D head_dim · S slots
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GROWTH = 256  # slots added at a time, so that a step rarely copies


class Cache:
    """Keys and values of every layer, (B, K, S, D) each, and the length of every row."""

    def __init__(self, layers: int, rows: int, key_value_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        empty = torch.zeros(rows, key_value_heads, 0, head_dim, dtype=dtype)
        self.keys = [empty.clone() for _ in range(layers)]
        self.values = [empty.clone() for _ in range(layers)]
        self.lengths = [0] * rows

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` positions."""
        if any(new > old or new < 0 for new, old in zip(lengths, self.lengths, strict=True)):
            raise ValueError(f"cannot cut rows of {self.lengths} ids to {list(lengths)}")
        self.lengths = list(lengths)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order; repeats are allowed."""
        index = torch.tensor(list(rows), dtype=torch.int64)
        self.keys = [k[index] for k in self.keys]
        self.values = [v[index] for v in self.values]
        self.lengths = [self.lengths[row] for row in rows]

    def reserve(self, slots: int) -> None:
        """Make room for `slots` positions in every row."""
        missing = slots - self.keys[0].shape[2]
        if missing > 0:
            missing = -(-missing // _GROWTH) * _GROWTH
            self.keys = [torch.nn.functional.pad(k, (0, 0, 0, missing)) for k in self.keys]
            self.values = [torch.nn.functional.pad(v, (0, 0, 0, missing)) for v in self.values]

    def append(self, layer: int, positions: Tensor, k: Tensor, v: Tensor, used: int) -> tuple[Tensor, Tensor]:
        """Write k and v (B, K, T, D) at `positions` (B, T) and return the first `used` slots of keys and values."""
        where = positions[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        self.keys[layer].scatter_(2, where, k)
        self.values[layer].scatter_(2, where, v)
        return self.keys[layer][:, :, :used], self.values[layer][:, :, :used]
