"""Any score that is a formula of sums, with its interval, beside a baseline's on the same items.

Accuracy, F1, BLEU, ROUGE, recall@k and bits per byte all are: each item (a document, a sentence, a question) gives a row of
statistics, the rows are added up, and a formula turns the sums into the score. So one bootstrap serves them all: items are
drawn with replacement, the same draw for every score, for model and baseline (see `intervals`).

    right = Measure(np.array([[1, 1], [0, 1], [1, 1]]), ratio, "accuracy|v1")
    measured_report({"accuracy": right}).metrics["accuracy"].value      # 0.667

N items · M statistics of an item · R resamples
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.metrics.intervals import RESAMPLES, percentile_interval, resampled_sums
from myna.metrics.report import Report, Score

Array = npt.NDArray[Any]
Formula = Callable[[Array], Array]  # sums (R, M) to scores (R,)


@dataclass(frozen=True)
class Measure:
    """A score of a model, and of its baseline where there is one."""

    statistics: Array
    "(N, M): what each item adds."
    formula: Formula
    signature: str
    "How it was measured; scores compare only when theirs are equal."
    baseline: Array | None = None
    "The baseline's statistics of the same items."
    baseline_signature: str | None = None
    "Where it differs from the model's: then the two are shown and not compared."
    lower_is_better: bool = False


def measured_report(measures: Mapping[str, Measure], baseline: str = "", resamples: int = RESAMPLES, seed: int = 0) -> Report:
    """Score every measure with its 95 % interval, and compare with the baseline `baseline` names, item by item.

    Raises UserError when there are fewer than two items, ValueError when measures have not the same items.
    """
    columns: list[Array] = []
    for name, measure in measures.items():
        columns += [measure.statistics, *([] if measure.baseline is None else [measure.baseline])]
        if len(measure.statistics) != len(columns[0]) or len(columns[-1]) != len(columns[0]):
            raise ValueError(f"{name} has {len(measure.statistics)} items, not {len(columns[0])}")
    if len(columns[0]) < 2:
        raise UserError(f"{len(columns[0])} items to measure", "at least 2, for an interval", "give more of them")
    table = np.concatenate([part.astype(np.float64) for part in columns], axis=1)
    sums = np.concatenate([table.sum(axis=0)[None], resampled_sums(table, resamples, seed)])  # the whole first
    metrics: dict[str, Score] = {}
    beside: dict[str, Score] = {}
    differences: dict[str, Score] = {}
    improvements: dict[str, Score] = {}
    at = 0
    for name, measure in measures.items():
        width = measure.statistics.shape[1]
        values, at = measure.formula(sums[:, at : at + width]), at + width
        metrics[name] = _score(values, measure.signature)
        if measure.baseline is None:
            continue
        others, at = measure.formula(sums[:, at : at + width]), at + width
        signature = measure.baseline_signature or measure.signature
        beside[name] = _score(others, signature)
        if signature == measure.signature:
            differences[name] = _score(values - others, signature)
            gained = others - values if measure.lower_is_better else values - others
            if (others != 0).all():
                improvements[name] = _score(100 * gained / np.abs(others), signature)
    return Report(metrics, baseline, beside, differences, improvements)


def _score(values: Array, signature: str) -> Score:
    return Score(float(values[0]), *percentile_interval(values[1:]), signature)


def ratio(sums: Array) -> Array:
    """Divide the first column by the second: (R, 2) to (R,); 0 where nothing was counted."""
    return divided(sums[:, 0], sums[:, 1])


def divided(above: Array, below: Array) -> Array:
    """Divide element by element, 0 where `below` is 0: the convention of precision, recall and F1."""
    out: Array = np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below != 0)
    return out


def means(values: Array) -> Array:
    """Turn a value for each item (N,) into the statistics of `ratio`, whose score is the mean."""
    values = np.asarray(values, dtype=np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)
