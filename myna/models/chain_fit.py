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
_RATE, _HIDDEN = 0.2, 0.4  # of AdaGrad; share of a token's features hidden in training (docs/tasks/tag.md says what others gave)
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
    given = (bounds, token_starts, numbers, target, pair_starts, pair_labels, weight, squares, start, between, end, *totals, _RATE, _HIDDEN)
    _climb(np.zeros(0, np.int64), *given, seed)  # no sentence: compiled here, so that no pass is taken to last as long as compiling
    lasted: list[float] = []
    for number_of_pass in range(passes):
        passed = time.monotonic()
        order = generator.permutation(len(sentences))
        _climb(order, *given, seed + number_of_pass)
        chain = Chain(list(tags), tokens, names, pair_starts, pair_labels, weight.astype(np.float32), Steps(start, between, end))
        shares.append(share_right(chain, held_out, held_labels))
        if best is None or shares[-1] > max(shares[:-1]):
            best = chain
        recent = max(shares[-_PATIENCE:])
        lasted.append(time.monotonic() - passed)
        if len(shares) > _PATIENCE and recent < max(shares[:-_PATIENCE]) + _LEAST_GAIN:
            break
        if seconds is not None and time.monotonic() - began + min(lasted) > seconds:
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


_compiled = numba.njit(nogil=True, fastmath={"reassoc", "contract"}, error_model="numpy")
_TINY = 1e-8  # a slope below it changes nothing worth its time


@_compiled
def _update(at: int, slope: float, weight: Array, squares: Array, rate: float) -> None:
    """Take a step of AdaGrad against a slope; what is forbidden stays so."""
    if abs(slope) > _TINY and weight[at] > -1e8:
        squares[at] += slope * slope
        weight[at] -= rate * slope / np.sqrt(squares[at])


@_compiled
def _score(emitted: Array, numbers: Array, starts: Array, seen: Array, pair_starts: Array, pair_labels: Array, weight: Array,
           scale: float) -> None:
    """Fill emitted (T, K) with the exponentials of the tokens' scores, the largest of each token 1."""
    length, size = emitted.shape
    for t in range(length):
        for k in range(size):
            emitted[t, k] = 0.0
        for at in range(starts[t], starts[t + 1]):
            if seen[at - starts[0]]:
                feature = numbers[at]
                for pair in range(pair_starts[feature], pair_starts[feature + 1]):
                    emitted[t, pair_labels[pair]] += weight[pair]
        top = emitted[t, 0]
        for k in range(size):
            top = max(top, emitted[t, k])
        for k in range(size):
            emitted[t, k] = np.exp((emitted[t, k] - top) * scale)


@_compiled
def _expect(emitted: Array, start: Array, between: Array, end: Array, forward: Array, backward: Array, steps: Array,
            expected: Array) -> None:
    """Fill forward with the probability of every label of every token (T, K), expected (K, K) with how often one follows another."""
    length, size = emitted.shape
    for i in range(size):
        for k in range(size):
            steps[i, k], expected[i, k] = np.exp(between[i, k]), 0.0
    for t in range(length):
        for k in range(size):
            forward[t, k] = np.exp(start[k]) if t == 0 else 0.0
        if t:
            for i in range(size):
                share = forward[t - 1, i]
                if share > 1e-12:
                    for k in range(size):
                        forward[t, k] += share * steps[i, k]
        total = 1e-300
        for k in range(size):
            forward[t, k] *= emitted[t, k]
            total += forward[t, k]
        for k in range(size):
            forward[t, k] /= total
    for k in range(size):
        backward[length - 1, k] = np.exp(end[k])
    for t in range(length - 2, -1, -1):
        for k in range(size):  # from here on what is seen at t + 1 and after
            backward[t + 1, k] *= emitted[t + 1, k]
        total, mass = 1e-300, 1e-300
        for i in range(size):
            value = 0.0
            for k in range(size):
                value += steps[i, k] * backward[t + 1, k]
            backward[t, i] = value
            total += value
            mass += forward[t, i] * value
        for i in range(size):
            share = forward[t, i] / mass
            if share > 1e-12:
                for k in range(size):
                    expected[i, k] += share * steps[i, k] * backward[t + 1, k]
        for i in range(size):
            backward[t, i] /= total
        for k in range(size):  # as it was, for the probabilities below
            backward[t + 1, k] /= max(emitted[t + 1, k], 1e-300)
    for t in range(length):
        total = 1e-300
        for k in range(size):
            forward[t, k] *= backward[t, k]
            total += forward[t, k]
        for k in range(size):
            forward[t, k] /= total


@_compiled
def _climb(order: Array, bounds: Array, token_starts: Array, numbers: Array, target: Array, pair_starts: Array, pair_labels: Array,
           weight: Array, squares: Array, start: Array, between: Array, end: Array, start_squares: Array, between_squares: Array,
           end_squares: Array, rate: float, hidden: float, seed: int) -> None:
    """Go once over the sentences in `order`; changes the weights and their sums of squares."""
    size = len(start)
    np.random.seed(seed)
    steps, expected = np.empty((size, size)), np.empty((size, size))
    for sentence in order:
        first, last = bounds[sentence], bounds[sentence + 1]
        length = last - first
        starts = token_starts[first : last + 1]
        seen = np.empty(starts[length] - starts[0], np.bool_)
        for at in range(len(seen)):
            seen[at] = np.random.random() >= hidden
        emitted, forward, backward = np.empty((length, size)), np.empty((length, size)), np.empty((length, size))
        _score(emitted, numbers, starts, seen, pair_starts, pair_labels, weight, 1 / (1 - hidden))
        _expect(emitted, start, between, end, forward, backward, steps, expected)
        # the slope of each score is what is expected less what is there
        for t in range(length):
            label = target[first + t]
            forward[t, label] -= 1.0
            if t + 1 < length:
                expected[label, target[first + t + 1]] -= 1.0
            for at in range(starts[t], starts[t + 1]):
                if seen[at - starts[0]]:
                    feature = numbers[at]
                    for pair in range(pair_starts[feature], pair_starts[feature + 1]):
                        _update(pair, forward[t, pair_labels[pair]], weight, squares, rate)
        for k in range(size):
            _update(k, forward[0, k], start, start_squares, rate)
            _update(k, forward[length - 1, k], end, end_squares, rate)
            for i in range(size):
                _update(i, expected[k, i], between[k], between_squares[k], rate)
