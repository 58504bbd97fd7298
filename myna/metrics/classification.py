"""Accuracy, precision, recall and F1, of one label an item or of several.

Each item gives, for every label, whether it was rightly given, wrongly given or missed; all scores are formulas of the sums of
these, so their intervals come from `paired`. Macro is the mean over labels, micro counts decisions; with one label an item micro
F1 is the accuracy. A label that never occurs and is never given counts 0, as in scikit-learn with zero_division=0.

Source: Manning, Raghavan and Schütze, "Introduction to Information Retrieval" (2008), section 13.6.

    counted = count_decisions([{"good"}, {"bad"}], [{"good"}, {"good"}], ["bad", "good"])
    macro_f1(counted.sum(axis=0)[None])      # [0.333]

N items · K labels · R resamples
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.metrics.paired import divided

Array = npt.NDArray[Any]


def count_decisions(references: Sequence[Collection[str]], predictions: Sequence[Collection[str]], labels: Sequence[str]) -> Array:
    """Count what was right, wrongly given and missed of each label: (N, 3K), the K rights first.

    Raises ValueError on a label that is not among `labels`, or when the two are not of one length.
    """
    place = {label: number for number, label in enumerate(labels)}
    given, true = (np.zeros((len(rows), len(labels)), dtype=bool) for rows in (predictions, references))
    for table, rows in ((given, predictions), (true, references)):
        for number, row in enumerate(rows):
            for label in row:
                if label not in place:
                    raise ValueError(f"{label!r} is not one of the {len(labels)} labels")
                table[number, place[label]] = True
    if given.shape != true.shape:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} items")
    return np.concatenate([given & true, given & ~true, true & ~given], axis=1).astype(np.int64)


def count_exact(references: Sequence[Collection[str]], predictions: Sequence[Collection[str]]) -> Array:
    """Return whether all of an item's labels are right, and 1: (N, 2), the statistics of accuracy (of subsets, with several labels)."""
    return np.array([[set(a) == set(b), 1] for a, b in zip(references, predictions, strict=True)], dtype=np.int64).reshape(-1, 2)


def _thirds(sums: Array) -> tuple[Array, Array, Array]:
    right, wrong, missed = np.split(sums, 3, axis=-1)
    return right, wrong, missed


def precision(sums: Array) -> Array:
    """Return the share of what was given that was right, by label: (R, 3K) to (R, K)."""
    right, wrong, _ = _thirds(sums)
    return divided(right, right + wrong)


def recall(sums: Array) -> Array:
    """Return the share of what there was that was found, by label: (R, 3K) to (R, K)."""
    right, _, missed = _thirds(sums)
    return divided(right, right + missed)


def f1(sums: Array) -> Array:
    """Return the harmonic mean of precision and recall, by label: (R, 3K) to (R, K)."""
    right, wrong, missed = _thirds(sums)
    return divided(2 * right, 2 * right + wrong + missed)


def macro_precision(sums: Array) -> Array:
    """Return the mean of the labels' precisions: (R, 3K) to (R,)."""
    return np.asarray(precision(sums).mean(axis=-1))


def macro_recall(sums: Array) -> Array:
    """Return the mean of the labels' recalls: (R, 3K) to (R,)."""
    return np.asarray(recall(sums).mean(axis=-1))


def macro_f1(sums: Array) -> Array:
    """Return the mean of the labels' F1: (R, 3K) to (R,)."""
    return np.asarray(f1(sums).mean(axis=-1))


def micro_precision(sums: Array) -> Array:
    """Return precision over all decisions together: (R, 3K) to (R,)."""
    right, wrong, _ = (part.sum(axis=-1) for part in _thirds(sums))
    return divided(right, right + wrong)


def micro_recall(sums: Array) -> Array:
    """Return recall over all decisions together: (R, 3K) to (R,)."""
    right, _, missed = (part.sum(axis=-1) for part in _thirds(sums))
    return divided(right, right + missed)


def micro_f1(sums: Array) -> Array:
    """Return F1 over all decisions together: (R, 3K) to (R,)."""
    right, wrong, missed = (part.sum(axis=-1) for part in _thirds(sums))
    return divided(2 * right, 2 * right + wrong + missed)


def confusion_matrix(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> Array:
    """Count items by true label (rows) and given label (columns): (K, K)."""
    place = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for true, given in zip(references, predictions, strict=True):
        table[place[true], place[given]] += 1
    return table


def calibration_error(confidences: Array, right: Array, bins: int = 10) -> float:
    """Return the expected calibration error: the mean distance, over equal-width bins, of confidence (N,) from what is right (N,).

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    confidences, right = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    place = np.minimum((confidences * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gaps = np.abs(np.bincount(place, confidences, minlength=bins) - np.bincount(place, right, minlength=bins))
    return float(gaps.sum() / max(1, counts.sum()))
