"""What every neural model's `step` does around its layers: check and pad the rows' new ids, and give back log-probabilities row by row.

    counts = check_step([[5, 6], [7]], lengths=[0, 3], longest=128)     # [2, 1]
    ids, mask = pad_rows([[5, 6], [7]])                                 # [[5, 6], [7, 0]], [[True, True], [True, False]]

B rows · T new ids · C hidden_size · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from myna.models.protocol import Ids, LogProbs


def check_step(ids: Ids, lengths: Sequence[int], longest: int | None = None) -> list[int]:
    """Return how many ids each row takes. Raises ValueError when one takes none, or would grow beyond `longest`."""
    counts = [len(row) for row in ids]
    if len(counts) != len(lengths) or min(counts) < 1:
        raise ValueError(f"step wants at least one id for each of {len(lengths)} rows, got {counts}")
    used = max(length + count for length, count in zip(lengths, counts, strict=True))
    if longest is not None and used > longest:
        raise ValueError(f"{used} ids do not fit the context of {longest}")
    return counts


def pad_rows(rows: Ids) -> tuple[Tensor, Tensor]:
    """Put rows of ids side by side: ids (B, T), zeros at the end of the shorter, and a mask that is true at ids."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.as_tensor(np.asarray(row, dtype=np.int64))
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def score_step(hidden: Tensor, counts: Sequence[int], last: bool, logits: Callable[[Tensor], Tensor]) -> LogProbs:
    """Turn hidden states (B, T, C) into log-probabilities: (B, V) after each row's last id, or (B, T, V) with 0 at padding.

    logits: the model's head.
    """
    if last:
        hidden = hidden[torch.arange(len(counts)), torch.tensor(counts) - 1]  # (B, C)
    log_probs = logits(hidden).float().log_softmax(-1)
    if not last:
        for row, count in enumerate(counts):
            log_probs[row, count:] = 0
    out: LogProbs = log_probs.numpy()
    return out
