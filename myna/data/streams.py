"""Batches for models that carry a state: every row of a step goes on where the same row of the step before ended.

The stream of tokens is taken as a circle (its last token is a separator) and cut into as many equal stretches as there are
rows; a step takes the next `context` tokens of each. Truncated back-propagation (Williams & Peng 1990) needs this order: the
gradient reaches back over `context` tokens, the carried state further. When the stretches are used up an epoch ends and the
circle is cut at another place, so that windows begin elsewhere. What is left over at the end of every stretch, less than
`context` + 1 tokens a row, falls on other tokens in the next epoch.

Every row forgets its state (`fresh`) at the start of an epoch, where its text jumps, and every 1,024 tokens. A model that was never
put back to nothing learns to rely on what its first steps left behind, and is far off when it later starts from nothing, as every
evaluation does: 9.03 against 7.25 bits per token in one run of docs/log.md. Rows forget at different steps.

    streams = Streams(np.arange(1000), context=16, seed=0)
    streams.read(step=0, rows=4)["input_ids"]       # (4, 16)

B rows · T context
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from myna.errors import UserError

_REMEMBERED = 1024  # tokens that a row reads until it forgets: own choice; 128 and 512 were measured (docs/log.md) and were alike


class Streams:
    """A token stream read by several rows at once; a pure function of (seed, step, rows)."""

    def __init__(self, ids: NDArray[np.integer], context: int, seed: int) -> None:
        """ids: the token stream (N,). context: tokens of a row in a step."""
        self.ids, self.context, self.seed = ids, context, seed

    def steps_per_epoch(self, rows: int) -> int:
        """Return how many steps read the stream once. Raises UserError when it does not fill one."""
        steps = len(self.ids) // rows // self.context
        if steps < 1 or len(self.ids) < rows * self.context + 1:
            raise UserError(f"the training text has {len(self.ids):,} tokens", f"more than {rows} rows of {self.context:,}",
                            "give more text, or choose a smaller context or batch")
        return steps

    def starts(self, step: int, rows: int) -> NDArray[np.int64]:
        """Return where each row (B,) begins in the stream at optimizer step `step`, from 0."""
        epoch, inside = divmod(step, self.steps_per_epoch(rows))
        digest = hashlib.blake2b(f"myna streams {self.seed} {epoch}".encode(), digest_size=8).digest()
        stretch = len(self.ids) // rows
        first = int.from_bytes(digest, "little") % len(self.ids) + inside * self.context
        return (first + stretch * np.arange(rows, dtype=np.int64)) % len(self.ids)

    def read(self, step: int, rows: int) -> dict[str, NDArray[np.int64]]:
        """Return the rows of a step: input_ids and labels (B, T), each label the id after; fresh (B,) is 1 where a row forgets."""
        places = (self.starts(step, rows)[:, None] + np.arange(self.context + 1)) % len(self.ids)  # (B, T + 1)
        batch = self.ids[places].astype(np.int64)
        inside, period = step % self.steps_per_epoch(rows), max(1, _REMEMBERED // self.context)
        fresh = (inside + np.arange(rows) * period // rows) % period == 0
        return {"input_ids": batch[:, :-1], "labels": batch[:, 1:], "fresh": (fresh | (inside == 0)).astype(np.int64)}
