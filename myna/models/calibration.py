"""Probabilities that mean what they say: scores divided by one number, fitted on texts that were not learned from.

A classifier's scores become probabilities by softmax (one label a text) or by the logistic function, label for label (several). Scores
that are too far apart claim too much; dividing them by a temperature mends this without changing which label is first.

Source: Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", section 4.2.

    temperature = fit_temperature(scores, targets, several=False)
    to_log_probs(scores / temperature, several=False)

N texts · K labels
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LOWEST, _HIGHEST = math.log(1e-3), math.log(1e3)  # of the temperature's logarithm
_STEPS = 60  # of the golden section: each leaves 0.618 of the range, so this is beyond float64


def to_log_probs(scores: Array, several: bool) -> Array:
    """Turn scores (N, K) into natural log-probabilities (N, K): of one label a text, or each label for itself."""
    scores = scores.astype(np.float64)
    if several:
        return -np.logaddexp(0, -scores)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def mean_loss(scores: Array, targets: Array, several: bool) -> float:
    """Return the mean of `text_losses`; nothing of no texts."""
    losses = text_losses(scores, targets, several)
    return float(losses.mean()) if len(losses) else 0.0


def text_losses(scores: Array, targets: Array, several: bool) -> Array:
    """Return each text's negative log-probability in nats of what is true, of several labels the mean over them. targets: (N, K), 0 or 1.

    A text without any of the labels counts only where several are allowed; where not, it is left out.
    """
    scores = scores.astype(np.float64)
    if several:
        return np.asarray((np.logaddexp(0, scores) - scores * targets).mean(axis=1))
    known = targets.sum(axis=1) > 0.5
    return np.asarray(-(to_log_probs(scores[known], False) * targets[known]).sum(axis=1))


def fit_temperature(scores: Array, targets: Array, several: bool) -> float:
    """Return the temperature with the least loss: scores (N, K), targets (N, K) of 0 and 1.

    Targets are drawn together a little, as if one more text spoke for every label, so that a model that makes no mistake on N texts does
    not claim to be certain (Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.2).
    """
    few = 1 / (len(targets) + 2)
    targets = (1 - few) * targets + few / (2 if several else targets.shape[1])
    low, high = _LOWEST, _HIGHEST
    shrink = (math.sqrt(5) - 1) / 2
    for _ in range(_STEPS):  # golden section: the loss has one valley in the logarithm
        one, two = high - shrink * (high - low), low + shrink * (high - low)
        if mean_loss(scores / math.exp(one), targets, several) <= mean_loss(scores / math.exp(two), targets, several):
            high = two
        else:
            low = one
    return math.exp((low + high) / 2)
