"""Which word of a sentence stands for which of its translation, learned from pairs alone.

IBM Model 1 (Brown et al. 1993) with a prior for the diagonal (Dyer, Chahuneau and Smith 2013, "A simple, fast, and effective
reparameterization of IBM Model 2"), in both directions; the two are joined by grow-diag-final-and (Koehn, Och and Marcu 2003).

    align([[0, 1]], [[5, 6]])     # [[(0, 0), (1, 1)]]

i place in the source · j place in the target
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Links = list[tuple[int, int]]

_ITERATIONS, _TENSION, _NULL = 5, 4.0, 0.08  # as in fast_align, its tension not fitted
_SMOOTHING = 0.01  # added to every count: own choice
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


def align(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[Links]:
    """Link words of each source with those of its target. Words are numbers; neither side is empty."""
    there = _best_sources(sources, targets)
    back = _best_sources(targets, sources)
    return [_grow({(int(i), j) for j, i in enumerate(one) if i >= 0}, {(i, int(j)) for i, j in enumerate(other) if j >= 0})
            for one, other in zip(there, back, strict=True)]


def _best_sources(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[Array]:
    """Return, for each target, the likeliest place in its source of every word, -1 for none."""
    given, made, priors, rows = [], [], [], []
    for source, target in zip(sources, targets, strict=True):
        m, n = len(source), len(target)
        grid = np.exp(-_TENSION * np.abs((np.arange(m) + 0.5) / m - ((np.arange(n) + 0.5) / n)[:, None]))  # (n, m)
        prior = np.empty((n, m + 1))
        prior[:, 0] = _NULL
        prior[:, 1:] = (1 - _NULL) * grid / grid.sum(axis=1, keepdims=True)
        given.append(np.tile(np.array([0, *(word + 1 for word in source)]), n))
        made.append(np.repeat(np.array(target), m + 1))
        priors.append(prior.ravel())
        rows.append(np.full(n, m + 1))
    words, prior_of, sizes = np.concatenate(given), np.concatenate(priors), np.concatenate(rows)
    width = int(max(int(part.max()) for part in made)) + 1
    cells, cell = np.unique(words * width + np.concatenate(made), return_inverse=True)
    owner = cells // width
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    chances = np.full(len(cells), 1.0)
    for _ in range(_ITERATIONS):
        scores = prior_of * chances[cell]
        scores /= np.repeat(np.add.reduceat(scores, starts), sizes)
        counts = np.bincount(cell, scores, minlength=len(cells)) + _SMOOTHING
        chances = counts / np.bincount(owner, counts)[owner]
    scores = prior_of * chances[cell]
    best = np.repeat(np.maximum.reduceat(scores, starts), sizes) == scores
    places = np.flatnonzero(best)
    row = np.repeat(np.arange(len(starts)), sizes)[places]
    first = places[np.unique(row, return_index=True)[1]]
    chosen = first - starts - 1
    return np.split(chosen, np.cumsum([len(target) for target in targets])[:-1])


def _grow(there: set[tuple[int, int]], back: set[tuple[int, int]]) -> Links:
    """Begin with the links of both directions, add neighbours that one has, then those between words that have none."""
    links, union = there & back, there | back
    used_i, used_j = {i for i, _ in links}, {j for _, j in links}
    waiting = sorted(links)
    while waiting:
        i, j = waiting.pop(0)
        for di, dj in _NEIGHBOURS:
            new = (i + di, j + dj)
            if new in union and new not in links and (new[0] not in used_i or new[1] not in used_j):
                links.add(new)
                used_i.add(new[0])
                used_j.add(new[1])
                waiting.append(new)
    for one in (there, back):
        for i, j in sorted(one):
            if i not in used_i and j not in used_j:
                links.add((i, j))
                used_i.add(i)
                used_j.add(j)
    return sorted(links)
