"""What models with a source share: sources checked, batches cut to what is in them, long documents scored in windows.

    check_source(None, rows=2, separator_id=0, longest=128)     # [[0], [0]]

B rows · S source ids · T target ids
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from myna.models.protocol import Ids, LogProbs
from myna.models.steps import check_step, pad_rows

_SCORED_AT_ONCE = 8192  # target ids per forward pass when a document is scored: bounds memory, large enough for full speed


def check_source(source: Sequence[Sequence[int]] | None, rows: int, separator_id: int, longest: int) -> list[list[int]]:
    """Return a source of at least one id for each row. Raises ValueError when their number is another or one is too long."""
    found = [[separator_id]] * rows if source is None else [list(row) or [separator_id] for row in source]
    if len(found) != rows:
        raise ValueError(f"{rows} rows want as many sources, got {len(found)}")
    if max(map(len, found)) > longest:
        raise ValueError(f"a source of {max(map(len, found))} ids does not fit the context of {longest}")
    return found


def pad_step(ids: Ids, lengths: Sequence[int], longest: int, separator_id: int, start_id: int) -> tuple[Tensor, list[int]]:
    """Check and pad the new target ids of rows that have `lengths`; a first separator becomes `start_id`. Returns (B, T) and counts."""
    counts = check_step(ids, lengths, longest)
    padded, _ = pad_rows(ids)
    padded[(torch.tensor(lengths) == 0) & (padded[:, 0] == separator_id), 0] = start_id
    return padded, counts


def cut_alike(batch: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    """Yield rows of like lengths together, cut to the longest of them: source ids, its mask (None: no padding), inputs, labels.

    Blanks have short targets and beginnings short sources: what is padding in every row is not computed.
    """
    labels, ids = batch["labels"], batch["input_ids"]
    mask = batch["attention_mask"].bool() if "attention_mask" in batch else torch.ones_like(ids, dtype=torch.bool)
    sources, targets = _ends(mask), _ends(labels != -100)
    kinds = 2 * (sources > ids.shape[1] // 2).long() + (targets > labels.shape[1] // 2).long()
    for kind in range(4):
        rows = torch.nonzero((kinds == kind) & (targets > 0))[:, 0]
        if len(rows):
            S, T = max(1, int(sources[rows].max())), int(targets[rows].max())
            seen = mask[rows, :S]
            yield ids[rows, :S], None if bool(seen.all()) else seen, batch["decoder_input_ids"][rows, :T], labels[rows, :T]


def _ends(wanted: Tensor) -> Tensor:
    """Return the length of each row up to its last true place: (B, T) to (B,)."""
    return (wanted.long() * torch.arange(1, wanted.shape[1] + 1)).amax(1)


def score_in_windows(ids: Sequence[int], source: Sequence[int] | None, separator_id: int, longest: int,
                     score: Callable[[list[list[int]], list[list[int]]], Iterable[Tensor]]) -> LogProbs:
    """Score a document in windows of `longest` ids, each begun half of that after the one before and scored where that one ended.

    The source of a window is the document before it, as much as fits, and the separator; or, for one window alone, the `source` given.
    score: log-probabilities of the ids of each target, given the sources.
    """
    if source is not None and len(ids) > longest:
        raise ValueError(f"a target of {len(ids)} ids does not fit the context of {longest}")
    length, stride = len(ids), max(1, longest // 2)
    starts = [0, *range(stride, length - longest + stride, stride)] if length > longest else [0] if length else []
    scores = np.empty(length, dtype=np.float32)
    rows = max(1, _SCORED_AT_ONCE // longest)
    for first in range(0, len(starts), rows):
        group = starts[first : first + rows]
        given = [[*ids[max(0, at - longest + 1) : at], separator_id] if source is None else list(source) or [separator_id] for at in group]
        for at, found in zip(group, score(given, [list(ids[at : at + longest]) for at in group]), strict=True):
            new = longest - stride if at else 0
            scores[at + new : at + len(found)] = found[new:].float().numpy()
    return scores


def drop(x: Tensor, rate: float, module: torch.nn.Module) -> Tensor:
    """Apply dropout where a module is being trained: not when it is measured in between, without gradients."""
    return torch.nn.functional.dropout(x, rate) if rate and module.training and torch.is_grad_enabled() else x
