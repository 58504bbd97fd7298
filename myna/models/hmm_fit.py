"""Fit a hidden Markov model to token ids: Baum-Welch over many rows at once, with an update after every few thousand tokens.

The text is cut into rows. A row that begins a document starts from the model's `initial`, any other from `middle`, the mean use of the
states, which is learned beside it and then forgotten: a row's past is worth a fraction of a bit at its first few ids and nothing after.
All rows of a batch advance together, so that the sums over pairs of states are matrix products; each position is scaled to a sum of 1
and the log-likelihood is the sum of the scales' logarithms, which is the log-space recursion with one logarithm a position instead of S.

Sources: L. E. Baum et al., "A maximization technique occurring in the statistical analysis of probabilistic functions of Markov
chains" (1970); L. R. Rabiner (1989), equations 36-40 and the scaling of section V.A. Updates within a pass: O. Cappé and E. Moulines,
"On-line expectation-maximization algorithm for latent data models", JRSS B 71 (2009), section 2.2, as P. Liang and D. Klein, "Online
EM for unsupervised models", NAACL 2009, section 3, apply it to HMMs (there "stepwise EM").

    model = fit_hmm(train.ids, valid.ids, vocab_size=2048, separator_id=0, options=HmmOptions(states=256), seconds=60)

B rows, T tokens, S hidden states, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from myna.console import say, track
from myna.errors import UserError
from myna.models.hmm import Hmm
from myna.models.options import HmmOptions

Array = npt.NDArray[Any]

_ROW = 64  # tokens of a row
_FORGET = 0.6  # an update's weight is (its number + 2) ** -0.6; between 0.5 and 1 stepwise EM converges (Liang and Klein, section 3.2)
_PSEUDO = 10.0  # counts added in training to each state's row, spread like the unigram (emissions) or the states' use (transitions)
_STATES = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)  # tried, when the number is to be chosen
_NUMBERS_PER_TOKEN = 8  # of the model, at most, when their number is to be chosen
_PASSES = 3  # that must fit into the time, when their number is to be chosen: more states gain more than more passes do
_TIMED = 3  # batches, of which the fastest counts: the first touches memory, and others use the machine too
_WITHOUT_TIME = 256  # states at most, when their number is to be chosen and no time is given
_TRIAL = 0.1  # of a pass: how long each restart runs before the best goes on
_FOR_SMOOTHING = 0.1  # of the time: kept for choosing the finished model's pseudo-counts
_LEAST_PSEUDO, _MOST_PSEUDO = 1e-2, 1e3  # tried for the finished model
_VALID_TOKENS = 1 << 16  # enough to see when training stops helping
_CLOSE, _PATIENCE = 1e-4, 2  # so many passes that each save less than this share of the bits end training
_UPDATES = 32  # in a pass, at least, where the text is short
_TINY = 1e-30


class Parameters(NamedTuple):
    """A hidden Markov model while it is trained: probabilities, in the type that all products are done in."""

    initial: Array  # (S,) of a document's first state
    middle: Array  # (S,) of the first state of a row that continues a document
    transition: Array  # (S, S)
    emission: Array  # (V, S): a row for each id; columns sum to 1


class Expected(NamedTuple):
    """How often everything is expected to have happened in some rows, given their ids."""

    log_likelihood: float
    initial: Array
    middle: Array
    transitions: Array  # (S, S)
    emissions: Array  # (V, S)

    def plus(self, other: Expected) -> Expected:
        """Add up."""
        return Expected(self.log_likelihood + other.log_likelihood, self.initial + other.initial, self.middle + other.middle,
                        self.transitions + other.transitions, self.emissions + other.emissions)

    def scaled(self, factor: float) -> Expected:
        """Count everything `factor` times."""
        return Expected(factor * self.log_likelihood, factor * self.initial, factor * self.middle, factor * self.transitions,
                        factor * self.emissions)


class Rows(NamedTuple):
    """Rows of one length."""

    ids: Array  # (B, T)
    begins: Array  # (B,) whether a document begins with the row

    def take(self, rows: Array) -> Rows:
        """Return some of the rows."""
        return Rows(self.ids[rows], self.begins[rows])


class Text(NamedTuple):
    """A token stream as rows of one length and the shorter row that is left at its end, if any."""

    rows: Rows
    tail: Rows | None

    @property
    def tokens(self) -> int:
        """How many ids there are."""
        return self.rows.ids.size + (self.tail.ids.size if self.tail else 0)


def cut_rows(ids: Array, separator_id: int, length: int = _ROW, limit: int | None = None) -> Text:
    """Cut a stream (documents, each followed by the separator) into rows; at most about `limit` tokens, evenly spaced."""
    length = max(1, min(length, len(ids)))
    count = len(ids) // length
    starts = np.arange(count + (len(ids) % length > 0)) * length
    begins = np.asarray(ids[np.maximum(starts - 1, 0)]) == separator_id
    begins[:1] = True
    rows = Rows(ids[:count * length].reshape(count, length), begins[:count])  # a view: the ids may be larger than memory
    tail = Rows(ids[None, count * length:], begins[count:]) if len(ids) % length else None
    if limit is not None and count * length > limit:
        return Text(rows.take(np.linspace(0, count - 1, max(1, limit // length)).astype(np.int64)), None)
    return Text(rows, tail)


def _forward(parameters: Parameters, rows: Rows, separator_id: int) -> tuple[Array, Array, Array, Array]:
    """Return p(state at t | ids to t), (T, B, S), each id's probability, (T, B), p(id | state), (T, B, S), and where chains restart."""
    ids = np.ascontiguousarray(rows.ids.T).astype(np.int64)
    emitted = parameters.emission[ids]  # (T, B, S)
    restarts = np.zeros(ids.shape, bool)
    restarts[1:] = ids[:-1] == separator_id
    filtered, scales = np.empty_like(emitted), np.empty(ids.shape, emitted.dtype)
    for t, now in enumerate(filtered):
        if t == 0:
            now[:] = np.where(rows.begins[:, None], parameters.initial, parameters.middle)
        else:
            np.matmul(filtered[t - 1], parameters.transition, out=now)
            if restarts[t].any():
                now[restarts[t]] = parameters.initial
        now *= emitted[t]
        scales[t] = now.sum(1)
        now /= scales[t][:, None]
    return filtered, scales, emitted, restarts


def score(parameters: Parameters, text: Text, separator_id: int, batch: int = 64) -> float:
    """Return the mean bits of a token."""
    total = 0.0
    parts = [text.rows.take(np.arange(a, min(a + batch, len(text.rows.ids)))) for a in range(0, len(text.rows.ids), batch)]
    for rows in [*parts, *([text.tail] if text.tail else [])]:
        total += float(np.log2(_forward(parameters, rows, separator_id)[1].astype(np.float64)).sum())
    return -total / text.tokens


def expect(parameters: Parameters, rows: Rows, separator_id: int) -> Expected:
    """Count what is expected to have happened in the rows: forward, backward, and one product for all pairs of states (the E step)."""
    filtered, scales, weights, restarts = _forward(parameters, rows, separator_id)
    states = len(parameters.initial)
    used = np.empty_like(filtered)  # p(state at t | all ids of the row)
    ahead = np.ones_like(filtered[0])  # p(ids after t | state at t) over p(ids after t | ids to t)
    initial = np.zeros_like(parameters.initial)
    turned = np.ascontiguousarray(parameters.transition.T)
    for t in range(len(filtered) - 1, -1, -1):
        np.multiply(filtered[t], ahead, out=used[t])
        weights[t] *= ahead
        weights[t] /= scales[t][:, None]
        if t > 0:
            np.matmul(weights[t], turned, out=ahead)
            if restarts[t].any():  # what follows a separator does not depend on the state that emitted it
                initial += used[t][restarts[t]].sum(0)
                ahead[restarts[t]] = 1
                weights[t][restarts[t]] = 0
    initial += used[0][rows.begins].sum(0)
    pairs = filtered[:-1].reshape(-1, states).T @ weights[1:].reshape(-1, states)
    return Expected(float(np.log(scales.astype(np.float64)).sum()), initial, used[0][~rows.begins].sum(0),
                    pairs * parameters.transition, _sum_by_id(used.reshape(-1, states), rows.ids.T.reshape(-1), len(parameters.emission)))


def _sum_by_id(values: Array, ids: Array, vocab_size: int) -> Array:
    """Add up the rows of `values`, (N, S), that belong to each id: (V, S)."""
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    firsts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    sums = np.zeros((vocab_size, values.shape[1]), values.dtype)
    sums[ids[firsts]] = np.add.reduceat(values[order], firsts, axis=0)
    return sums


def maximize(expected: Expected, unigram: Array, transition_pseudo: float = 0.0, emission_pseudo: float = 0.0) -> Parameters:
    """Turn counts into probabilities (the M step): relative frequencies, of counts to which pseudo-counts are added.

    transition_pseudo, emission_pseudo: added to each state's row, spread as the states are used and as `unigram` (V,) says.
    """
    use = expected.transitions.sum(0) + expected.initial + expected.middle + _TINY
    use = transition_pseudo * (use / use.sum())
    transition = expected.transitions + use
    transition /= transition.sum(1, keepdims=True) + _TINY
    emission = expected.emissions + emission_pseudo * unigram.astype(expected.emissions.dtype)[:, None]
    emission /= emission.sum(0) + _TINY
    initial, middle = expected.initial + use, expected.middle + use
    return Parameters(initial / (initial.sum() + _TINY), middle / (middle.sum() + _TINY), transition, emission)


def draw_start(states: int, unigram: Array, seed: tuple[int, ...], dtype: Any = np.float32) -> Parameters:
    """Draw random parameters: each id belongs almost wholly to one state, which a uniform start would take many passes to find out.

    All rows of `transition` are equal, so that the first pass learns them from the ids alone.
    """
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(states, 0.003), len(unigram)) + 1e-4 / states
    joint = unigram[:, None] * share
    use = joint.sum(0)
    emission, use = (joint / use).astype(dtype), (use / use.sum()).astype(dtype)
    return Parameters(use, use, np.tile(use, (states, 1)), emission)


class _Run:
    """Training from one random start."""

    def __init__(self, start: Parameters, text: Text, unigram: Array, separator_id: int, update_tokens: int, seed: tuple[int, ...]) -> None:
        self.parameters, self._text, self._unigram, self._separator_id = start, text, unigram, separator_id
        self._random = np.random.default_rng(seed)
        count = len(text.rows.ids)
        self._whole = not 0 < update_tokens < text.tokens
        wanted = _ROW * 64 if self._whole else max(_ROW, min(update_tokens, text.tokens // _UPDATES))
        self._batch = max(1, min(count, wanted // text.rows.ids.shape[1]))
        self.batches = -(-count // self._batch)
        self._queue: list[Array] = []
        self._updates = 0
        self.sums: Expected | None = None  # expected counts, scaled to the whole text
        self._passed: Expected | None = None  # of this pass, where the whole text makes one update

    def advance(self) -> int:
        """Work on one batch; returns its tokens."""
        if not self._queue:
            self._queue = np.array_split(self._random.permutation(len(self._text.rows.ids)), self.batches)
        rows = self._text.rows.take(np.sort(self._queue.pop()))
        expected, tokens = expect(self.parameters, rows, self._separator_id), rows.ids.size
        if not self._queue and self._text.tail:
            expected = expected.plus(expect(self.parameters, self._text.tail, self._separator_id))
            tokens += self._text.tail.ids.size
        if self._whole:
            self._passed = self._passed.plus(expected) if self._passed else expected
            if not self._queue:
                self.sums, self._passed = self._passed, None
                self.parameters = self.smoothed(_PSEUDO, _PSEUDO)
            return tokens
        weight = (self._updates + 2) ** -_FORGET if self.sums else 1.0
        scaled = expected.scaled(weight * self._text.tokens / tokens)
        self.sums = self.sums.scaled(1 - weight).plus(scaled) if self.sums else scaled
        self._updates += 1
        self.parameters = self.smoothed(_PSEUDO, _PSEUDO)
        return tokens

    def smoothed(self, transition_pseudo: float, emission_pseudo: float) -> Parameters:
        """Return the parameters of the counts so far under other pseudo-counts."""
        if self.sums is None:
            return self.parameters
        return maximize(self.sums, self._unigram, transition_pseudo, emission_pseudo)


def fit_hmm(train_ids: Array, valid_ids: Array, vocab_size: int, separator_id: int, options: HmmOptions | None = None,
            seconds: float | None = None, seed: int = 0) -> Hmm:
    """Fit a hidden Markov model; the start that is best on the validation split goes on until that no longer improves.

    train_ids, valid_ids: flat token streams, every document followed by the separator. seconds: the time for all of it; without it,
    the result depends on the seed alone. Raises UserError when there is nothing to learn from, or more states than tokens.
    """
    options, began = options or HmmOptions(), time.monotonic()
    _check(train_ids, valid_ids, vocab_size, separator_id, options)
    text, valid = cut_rows(train_ids, separator_id), cut_rows(valid_ids, separator_id, limit=_VALID_TOKENS)
    counts = np.bincount(np.asarray(train_ids), minlength=vocab_size) + 0.5  # an id that was never seen may still come
    unigram = counts / counts.sum()
    states = options.states or _choose_states(text, unigram, separator_id, options, seconds)
    deadline = began + (seconds or float("inf"))
    end = deadline - _FOR_SMOOTHING * (seconds or 0)

    def start(number: int) -> _Run:
        return _Run(draw_start(states, unigram, (seed, number)), text, unigram, separator_id, options.update_tokens, (seed, number, 1))

    run, trials = _best_start(start, options.restarts, valid, separator_id, end)
    passes = _train(run, text, valid, separator_id, options.iterations, end)
    parameters, pseudo, bits = _choose_smoothing(run, valid, separator_id, deadline)
    facts = {"tokens": text.tokens, "restarts": trials, "validation_bits_per_token": passes, "pseudo_counts": pseudo,
             "bits_per_token": bits, "seconds": round(time.monotonic() - began, 1), "seed": seed}
    say(f"HMM: {states} states, {len(passes)} passes, {bits:.3f} bits a token on the validation split "
        f"(unigram {-np.log2(unigram[np.asarray(valid_ids)]).mean():.3f})")
    return Hmm(separator_id, _logarithms(parameters.initial), _logarithms(parameters.transition), _logarithms(parameters.emission.T), facts)


def _check(train_ids: Array, valid_ids: Array, vocab_size: int, separator_id: int, options: HmmOptions) -> None:
    tokens = int(np.count_nonzero(np.asarray(train_ids) != separator_id))
    if not tokens or int(np.max(train_ids)) >= vocab_size:
        raise UserError("nothing an HMM could learn from", f"training ids below {vocab_size}", "check the corpus")
    if not len(valid_ids) or int(np.max(valid_ids)) >= vocab_size:
        raise UserError("the validation split is empty or has other ids", f"ids below {vocab_size} to choose the HMM by", "add text")
    for name, least in (("states", 1), ("restarts", 1), ("iterations", 1), ("update_tokens", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"{name} of the HMM is {value}", f"{least} or more")
    if options.states is not None and options.states > tokens:
        raise UserError(f"an HMM of {options.states:,} states for a text of {tokens:,} tokens", "fewer states than tokens",
                        "give fewer states or more text")


def _choose_states(text: Text, unigram: Array, separator_id: int, options: HmmOptions, seconds: float | None) -> int:
    """Take the most states that the text can fill and whose passes fit into the time, timed here on a batch of each size."""
    for states in _STATES:
        numbers = states * (states + len(unigram))
        if states > text.tokens or (numbers > _NUMBERS_PER_TOKEN * text.tokens and states > _STATES[-1]):
            continue
        if states > _WITHOUT_TIME and seconds is None:
            continue
        if seconds is None or states == _STATES[-1]:
            return states
        run = _Run(draw_start(states, unigram, (0,)), text, unigram, separator_id, options.update_tokens, (0,))
        taken = float("inf")  # seconds of a token
        for _ in range(_TIMED):
            began = time.monotonic()
            tokens = run.advance()
            taken = min(taken, (time.monotonic() - began) / tokens)
        if taken * text.tokens * (_PASSES + _TRIAL * options.restarts) <= seconds:
            return states
    return 1


def _best_start(start: Callable[[int], _Run], restarts: int, valid: Text, separator_id: int, end: float) -> tuple[_Run, list[float]]:
    """Run every start for a while; returns the one with the fewest validation bits, and the bits of all."""
    tried: list[float] = []
    best, fewest = start(0), float("inf")
    if restarts == 1:
        return best, tried
    for number in range(restarts):
        run = start(number)
        for _ in range(max(1, round(_TRIAL * run.batches))):
            run.advance()
            if time.monotonic() > end:
                break
        tried.append(score(run.parameters, valid, separator_id))
        if tried[-1] < fewest:
            best, fewest = run, tried[-1]
        if time.monotonic() > end:
            break
    return best, tried


def _train(run: _Run, text: Text, valid: Text, separator_id: int, iterations: int, end: float) -> list[float]:
    """Pass over the text until it no longer helps, and go back to the best; returns the validation bits a token after each pass."""
    passes: list[float] = []
    best = run.sums, run.parameters
    total = text.tokens * iterations if end == float("inf") else None  # with a time, nobody knows how many passes there will be
    with track("HMM", total, " tokens") as advance:
        while len(passes) < iterations and (not passes or time.monotonic() < end):
            for _ in range(run.batches):
                advance(run.advance())
                if time.monotonic() > end:
                    break
            passes.append(score(run.parameters, valid, separator_id))
            if passes[-1] <= min(passes):
                best = run.sums, run.parameters
            recent = itertools.pairwise(passes[-_PATIENCE - 1:])
            if len(passes) > _PATIENCE and all(now > before * (1 - _CLOSE) for before, now in recent):
                break
    run.sums, run.parameters = best
    return passes


def _choose_smoothing(run: _Run, valid: Text, separator_id: int, deadline: float) -> tuple[Parameters, list[float], float]:
    """Climb, one kind of pseudo-count after the other, to those with the fewest validation bits, as long as there is time."""
    if run.sums is None:  # the time ended before the first update of the whole text
        return run.parameters, [], score(run.parameters, valid, separator_id)
    tried: dict[tuple[float, float], float] = {}

    def bits(pseudo: tuple[float, float]) -> float:
        if pseudo not in tried:
            tried[pseudo] = score(run.smoothed(*pseudo), valid, separator_id)
        return tried[pseudo]

    best = (_PSEUDO, _PSEUDO)
    for factors in ((1.0, 3.0), (3.0, 1.0)):
        for direction in (1, -1):
            while True:
                further = (best[0] * factors[0] ** direction, best[1] * factors[1] ** direction)
                if not _LEAST_PSEUDO < min(further) <= max(further) < _MOST_PSEUDO or time.monotonic() > deadline:
                    break
                if bits(further) >= bits(best):
                    break
                best = further
    return run.smoothed(*best), list(best), bits(best)


def _logarithms(values: Array) -> Array:
    return np.log(np.maximum(values.astype(np.float64), _TINY))
