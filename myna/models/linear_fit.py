"""Fit a linear classifier: one label against the rest, each a support vector machine over weighted n-grams.

An n-gram that stands in few texts says more where it stands: each is multiplied by its inverse document frequency, as scikit-learn
counts it (Spärck Jones 1972). One that stands mostly with one label should begin with more say than one that stands with all: where
naive Bayes is asked for, each is multiplied too by the logarithm of how much more frequent it is with the label than without (Wang and
Manning 2012, section 2.3). A linear SVM with squared hinge loss is fitted to that by dual coordinate descent (Hsieh et al. 2008,
algorithm 1): one text at a time, in random order, its dual variable is set to the best value while all others stay. The weights are
multiplied into one. Two such models over the same n-grams add up to one.

    minimise  |w|² / 2 + C Σ max(0, 1 - y (w·x + b))²      (b is the weight of a feature that is always 1, and counts in |w|)

    fit_linear(["a fine book", "a bad book"], targets, ["bad", "good"], LinearConfig(characters=(1, 3)))

N texts · K labels · F n-grams
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from myna.models.linear import Linear, LinearConfig, find_ngrams

Array = npt.NDArray[Any]

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # C: how much fitting the texts weighs against small weights; chosen on the validation part
_MOST = 1 << 20  # n-grams kept, the most frequent first
_SEEN = 2  # texts that an n-gram must stand in; of one that stands in one text alone nothing general is learned
_FEW = 200  # texts, up to which n-grams of one text are kept too
_SMOOTHING = 1.0  # added to counts, as in the paper
_PASSES, _TOLERANCE = 200, 0.01  # over the texts at most; how far a gradient may be from the optimum (LIBLINEAR stops at 0.1)


class Table(NamedTuple):
    """Texts as the rows of their n-grams, one after another: row i has columns[starts[i] : starts[i + 1]]."""

    columns: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    features: list[str]

    def widths(self) -> Array:
        """How many n-grams each text has: (N,)."""
        return np.diff(self.starts)


def tabulate_texts(texts: Sequence[str], config: LinearConfig) -> Table:
    """Count the n-grams of texts, choose which are kept, and lay the texts out as rows of them."""
    sets = [find_ngrams(text, config) for text in texts]
    counts: Counter[str] = Counter()
    for found in sets:
        counts.update(found)
    least = 1 if len(texts) <= _FEW else _SEEN
    kept = sorted((ngram for ngram, count in counts.items() if count >= least), key=lambda ngram: (-counts[ngram], ngram))[:_MOST]
    place = {ngram: number for number, ngram in enumerate(kept)}
    rows = [np.array(sorted(place[ngram] for ngram in found if ngram in place), np.int32) for found in sets]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Table(np.concatenate(rows) if rows else np.zeros(0, np.int32), starts, kept)


def weigh_ngrams(table: Table, positive: Array) -> Array:
    """Return the log-count ratio of every n-gram (F,): how much more frequent it is in the texts where `positive` (N,) is true."""
    owners = np.repeat(positive, table.widths())
    size = len(table.features)
    with_label = _SMOOTHING + np.bincount(table.columns[owners], minlength=size)
    without = _SMOOTHING + np.bincount(table.columns[~owners], minlength=size)
    return np.asarray(np.log(with_label / with_label.sum()) - np.log(without / without.sum()))


def weigh_rarity(table: Table) -> Array:
    """Return the inverse document frequency of every n-gram (F,): the logarithm of how few texts it stands in, and 1."""
    texts = len(table.starts) - 1
    return np.asarray(np.log((1 + texts) / (1 + np.bincount(table.columns, minlength=len(table.features)))) + 1)


def fit_linear(table: Table, targets: Array, labels: Sequence[str], config: LinearConfig, strength: float = 1.0, several: bool = False,
               seed: int = 0) -> Linear:
    """Fit one label against the rest, for every label. targets: (N, K) of 0 and 1. strength: C of the formula above."""
    columns = 1 if len(labels) == 2 and not several else len(labels)  # of two labels the second is what the first is not
    weight = np.zeros((len(table.features), len(labels)), np.float32)
    bias = np.zeros(len(labels), np.float32)
    scale, rarity = 1 / np.sqrt(np.maximum(1, table.widths())), weigh_rarity(table)
    for column in range(columns):
        positive = targets[:, column] > 0
        ratios = rarity * weigh_ngrams(table, positive) if config.naive_bayes else rarity
        fitted = _descend(table.columns, table.starts, scale, ratios, np.where(positive, 1.0, -1.0), strength, _PASSES, _TOLERANCE, seed)
        weight[:, column], bias[column] = fitted[:-1] * ratios, fitted[-1]
    if columns < len(labels):
        weight[:, 1], bias[1] = -weight[:, 0], -bias[0]
    return Linear(config, labels, table.features, weight, bias, several)


def add_linear(one: Linear, other: Linear, shares: tuple[float, float]) -> Linear:
    """Add two models over the same n-grams, multiplied by shares, to one that scores what both would together."""
    if one.features != other.features or one.labels != other.labels:
        raise ValueError("the two models have other n-grams or labels")
    weight, bias = (shares[0] * first + shares[1] * second
                    for first, second in ((one.weight, other.weight), (one.bias, other.bias)))
    return Linear(other.config, one.labels, one.features, weight.astype(np.float32), bias.astype(np.float32), one.several)


@numba.njit("float64[::1](int32[::1], int64[::1], float64[::1], float64[::1], float64[::1], float64, int64, float64, int64)", nogil=True)
def _descend(columns: Array, starts: Array, scale: Array, ratios: Array, signs: Array, strength: float, passes: int, tolerance: float,
             seed: int) -> Array:
    """Fit one SVM; returns the weights and, last, the bias: (F + 1,). x of text i at n-gram f is scale[i] * ratios[f]."""
    texts, bias = len(signs), len(ratios)
    weight, dual = np.zeros(bias + 1), np.zeros(texts)
    diagonal = 1 / (2 * strength)  # what the squared loss adds to the dual's diagonal
    curvature = np.full(texts, 1.0 + diagonal)
    for i in range(texts):
        for place in range(starts[i], starts[i + 1]):
            curvature[i] += (scale[i] * ratios[columns[place]]) ** 2
    np.random.seed(seed)
    for _ in range(passes):
        worst = 0.0
        for i in np.random.permutation(texts):
            score = weight[bias]
            for place in range(starts[i], starts[i + 1]):
                score += scale[i] * ratios[columns[place]] * weight[columns[place]]
            gradient = signs[i] * score - 1 + diagonal * dual[i]
            if dual[i] == 0:
                gradient = min(gradient, 0.0)  # a dual variable is never below 0
            worst = max(worst, abs(gradient))
            if gradient != 0:
                before = dual[i]
                dual[i] = max(before - gradient / curvature[i], 0.0)
                step = (dual[i] - before) * signs[i]
                weight[bias] += step
                for place in range(starts[i], starts[i + 1]):
                    weight[columns[place]] += step * scale[i] * ratios[columns[place]]
        if worst < tolerance:
            break
    return weight
