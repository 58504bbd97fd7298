"""Logistic regression: the probability that something is so, from a few numbers about it.

Fitted by Newton's method (iteratively reweighted least squares) on standardised features with a ridge, so that few examples do and it
always ends; the intercept is not drawn to zero. Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning"
(2009), section 4.4.1.

    model = fit_logistic(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]), ["size"])
    model.probabilities(np.array([[3.0]]))       # above a half

N examples · F features
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, shown

Array = npt.NDArray[Any]

_STEPS, _ENOUGH = 50, 1e-9  # of Newton's method; the change of a weight below which it has ended
_LARGEST = 30.0  # of a logit: beyond it float64 says 0 or 1
_MOST_FEATURES, _MOST_WEIGHT = 64, 1e9


@dataclass(frozen=True)
class Logistic:
    """Weights (F,) of the features named, and an intercept: the logit is their sum."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float

    def logits(self, features: Array) -> Array:
        """Return the logit of each row of features: (N, F) to (N,)."""
        return np.asarray(np.clip(features @ np.array(self.weights) + self.intercept, -_LARGEST, _LARGEST))

    def probabilities(self, features: Array) -> Array:
        """Return the probability of each row of features: (N, F) to (N,)."""
        return np.asarray(1 / (1 + np.exp(-self.logits(features))))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"features": dict(zip(self.names, self.weights, strict=True)), "intercept": self.intercept}


def read_logistic(value: Any, names: Sequence[str], where: str) -> Logistic:
    """Read back what `to_json` gave. Raises UserError when it is not a weight for each of the features named, in any order."""
    given = value.get("features") if isinstance(value, dict) else None
    if not isinstance(given, dict) or len(given) > _MOST_FEATURES or set(given) != set(names):
        raise UserError(f"{where} has the features {shown(given)}", f"weights for {', '.join(names)}", "restore the file")
    numbers = [given[name] for name in names] + [value.get("intercept")]
    if not all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= _MOST_WEIGHT for one in numbers):
        raise UserError(f"{where} has the weights {shown(numbers)}", "numbers", "restore the file")
    return Logistic(tuple(names), tuple(map(float, numbers[:-1])), float(numbers[-1]))


def fit_logistic(features: Array, targets: Array, names: Sequence[str], ridge: float = 1.0) -> Logistic:
    """Fit features (N, F) to targets (N,) of 0 and 1.

    ridge: how strongly the weights of standardised features are drawn to zero, in examples.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)  # what never changes says nothing
    x = np.concatenate([(x - mean) / spread, np.ones((len(x), 1))], axis=1)  # (N, F + 1)
    drawn = np.diag([*[ridge] * len(names), 1e-9])
    share = min(max(float(y.mean()), 1e-3), 1 - 1e-3)
    beta = np.zeros(x.shape[1])
    beta[-1] = math.log(share / (1 - share))

    def loss(at: Array) -> float:
        logits = x @ at
        return float((np.logaddexp(0, logits) - y * logits).sum() + at @ drawn @ at / 2)

    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -_LARGEST, _LARGEST)))
        gradient = x.T @ (y - p) - drawn @ beta
        hessian = (x * (p * (1 - p))[:, None]).T @ x + drawn
        step = np.linalg.solve(hessian, gradient)
        now = loss(beta)
        while np.abs(step).max() > _ENOUGH and loss(beta + step) > now:  # Newton's step goes too far where p is near 0 or 1
            step = step / 2
        beta += step
        if np.abs(step).max() < _ENOUGH:
            break
    scaled = beta[:-1] / spread
    return Logistic(tuple(names), tuple(scaled.tolist()), float(beta[-1] - (scaled * mean).sum()))
