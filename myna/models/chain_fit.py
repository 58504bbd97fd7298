"""Fit a conditional random field: the likelihood of the right labels is climbed, a sentence at a time.

    maximise  Σ log p(labels | tokens)

The gradient of a weight is how often its feature and label stand together, less how often the model expects it, by the forward and
backward algorithm. Each weight has its own rate, which falls with the gradients it has seen (AdaGrad). In training a part of the
features of each token is hidden, so that no single one, as the word itself, is relied on. After every pass the held-out sentences are
labelled; the weights of the best pass are kept, and it ends when passes no longer help.

Sources: Lafferty, McCallum and Pereira 2001; Duchi, Hazan and Singer 2011, "Adaptive Subgradient Methods"; hiding features: Wang and
Manning 2013, "Fast dropout training".

    chain = fit_chain(sentences, labels, tags, "words", held_out, held_out_labels, seconds=60.0)

T tokens · K labels · F features · P pairs of feature and label
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from myna.models.chain import FEATURES, FORBIDDEN, Chain, Steps, decode, legal_steps

Array = npt.NDArray[Any]

_PASSES, _PATIENCE = 30, 3  # over the sentences at most, and how many without a gain end the fit: own choice
_RATE, _HIDDEN = 0.2, 0.2  # of AdaGrad; share of a token's features hidden in training (docs/tasks/tag.md says what others gave)
_LEAST_GAIN = 1e-4  # of the share of labels that are right


def tabulate(sentences: Iterable[Sequence[str]], tokens: str, place: dict[str, int], grow: bool) -> tuple[Array, Array]:
    """Number the features of all tokens, one after another: token i has numbers[starts[i] : starts[i + 1]]. With `grow`, add new ones."""
    numbers: list[int] = []
    starts = [0]
    for sentence in sentences:
        for names in FEATURES[tokens](sentence):
            numbers += [place.setdefault(name, len(place)) for name in names] if grow else [place[name] for name in names if name in place]
            starts.append(len(numbers))
    return np.array(numbers, np.int64), np.array(starts, np.int64)


def fit_chain(sentences: Sequence[Sequence[str]], labels: Sequence[Sequence[str]], tags: Sequence[str], tokens: str,
              held_out: Sequence[Sequence[str]], held_labels: Sequence[Sequence[str]], seconds: float | None = None, seed: int = 0,
              passes: int = _PASSES) -> tuple[Chain, list[float]]:
    """Fit sentences (of one token or more) and their labels; returns the model, and the share right of the held-out after each pass.

    tokens: 'words' or 'atoms'. seconds: no pass is begun that would not end by then; one is made in any case.
    """
    began = time.monotonic()
    place: dict[str, int] = {}
    numbers, token_starts = tabulate(sentences, tokens, place, grow=True)
    number = {tag: at for at, tag in enumerate(tags)}
    target = np.array([number[tag] for row in labels for tag in row], np.int64)
    pair_keys = np.unique(numbers * len(tags) + np.repeat(target, np.diff(token_starts)))
    pair_labels = pair_keys % len(tags)
    pair_starts = np.searchsorted(pair_keys, np.arange(len(place) + 1) * len(tags)).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum([len(row) for row in sentences])]).astype(np.int64)
    legal = legal_steps(tags)
    weight, squares = np.zeros(len(pair_keys)), np.zeros(len(pair_keys))
    start, between, end = (np.where(rule < 0, FORBIDDEN, 0.0) for rule in legal)
    totals = np.zeros_like(start), np.zeros_like(between), np.zeros_like(end)
    generator = np.random.default_rng(seed)
    names = list(place)
    best: Chain | None = None
    shares: list[float] = []
    for number_of_pass in range(passes):
        order = generator.permutation(len(sentences))
        _climb(order, bounds, token_starts, numbers, target, pair_starts, pair_labels, weight, squares, start, between, end, *totals,
               _RATE, _HIDDEN, seed + number_of_pass)
        chain = Chain(list(tags), tokens, names, pair_starts, pair_labels, weight.astype(np.float32), Steps(start, between, end))
        shares.append(share_right(chain, held_out, held_labels))
        if best is None or shares[-1] > max(shares[:-1]) :
            best = chain
        recent = max(shares[-_PATIENCE:])
        spent = time.monotonic() - began
        if len(shares) > _PATIENCE and recent < max(shares[:-_PATIENCE]) + _LEAST_GAIN:
            break
        if seconds is not None and spent * (1 + 1 / len(shares)) > seconds:
            break
    assert best is not None
    return best, shares


def share_right(chain: Chain, sentences: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> float:
    """Return the share of tokens whose label is the right one."""
    right = total = 0
    for tokens, true in zip(sentences, labels, strict=True):
        path = decode(chain.emissions(tokens), chain.steps)
        right += sum(chain.tags[at] == tag for at, tag in zip(path, true, strict=True))
        total += len(true)
    return right / max(1, total)


_SIGNATURE = ("void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], float64[::1], "
              "float64[::1], float64[:, ::1], float64[::1], float64[::1], float64[:, ::1], float64[::1], float64, float64, int64)")


@numba.njit(_SIGNATURE, nogil=True, fastmath={"reassoc", "contract"})
def _climb(order: Array, bounds: Array, token_starts: Array, numbers: Array, target: Array, pair_starts: Array, pair_labels: Array,
           weight: Array, squares: Array, start: Array, between: Array, end: Array, start_squares: Array, between_squares: Array,
           end_squares: Array, rate: float, hidden: float, seed: int) -> None:
    """Go once over the sentences in `order`; changes the weights and their sums of squares."""
    size = len(start)
    np.random.seed(seed)
    tiny = 1e-8
    for sentence in order:
        first, last = bounds[sentence], bounds[sentence + 1]
        length = last - first
        seen = np.random.random(token_starts[last] - token_starts[first]) >= hidden
        emitted = np.zeros((length, size))
        for t in range(length):
            for at in range(token_starts[first + t], token_starts[first + t + 1]):
                if seen[at - token_starts[first]]:
                    feature = numbers[at]
                    for pair in range(pair_starts[feature], pair_starts[feature + 1]):
                        emitted[t, pair_labels[pair]] += weight[pair]
        for t in range(length):
            top = emitted[t].max()
            for k in range(size):
                emitted[t, k] = np.exp(emitted[t, k] / (1 - hidden) - top / (1 - hidden))
        steps = np.exp(between)
        forward, backward = np.zeros((length, size)), np.zeros((length, size))
        for t in range(length):
            row = forward[t]
            if t == 0:
                for k in range(size):
                    row[k] = np.exp(start[k]) * emitted[0, k]
            else:
                for i in range(size):
                    share = forward[t - 1, i]
                    if share > 1e-12:
                        for k in range(size):
                            row[k] += share * steps[i, k]
                for k in range(size):
                    row[k] *= emitted[t, k]
            total = row.sum() + 1e-300
            for k in range(size):
                row[k] /= total
        backward[length - 1] = np.exp(end)
        expected = np.zeros((size, size))
        for t in range(length - 2, -1, -1):
            after = emitted[t + 1] * backward[t + 1]
            total = 0.0
            mass = 0.0
            for i in range(size):
                value = 0.0
                for k in range(size):
                    value += steps[i, k] * after[k]
                backward[t, i] = value
                total += value
                mass += forward[t, i] * value
            for i in range(size):
                share = forward[t, i] / (mass + 1e-300)
                if share > 1e-12:
                    for k in range(size):
                        expected[i, k] += share * after[k]
            for i in range(size):
                backward[t, i] /= total + 1e-300
        expected *= steps
        # the gradient of each score is what is expected less what is there
        for t in range(length):
            both = forward[t] * backward[t]
            both /= both.sum() + 1e-300
            both[target[first + t]] -= 1.0
            if t == 0:
                for k in range(size):
                    if abs(both[k]) > tiny and start[k] > -1e8:
                        start_squares[k] += both[k] ** 2
                        start[k] -= rate * both[k] / np.sqrt(start_squares[k])
            if t == length - 1:
                for k in range(size):
                    if abs(both[k]) > tiny and end[k] > -1e8:
                        end_squares[k] += both[k] ** 2
                        end[k] -= rate * both[k] / np.sqrt(end_squares[k])
            else:
                expected[target[first + t], target[first + t + 1]] -= 1.0
            for at in range(token_starts[first + t], token_starts[first + t + 1]):
                if seen[at - token_starts[first]]:
                    feature = numbers[at]
                    for pair in range(pair_starts[feature], pair_starts[feature + 1]):
                        slope = both[pair_labels[pair]]
                        if abs(slope) > tiny:
                            squares[pair] += slope * slope
                            weight[pair] -= rate * slope / np.sqrt(squares[pair])
        for i in range(size):
            for k in range(size):
                slope = expected[i, k]
                if abs(slope) > tiny and between[i, k] > -1e8:
                    between_squares[i, k] += slope * slope
                    between[i, k] -= rate * slope / np.sqrt(between_squares[i, k])
