"""The hidden Markov model over token ids: a chain of hidden states, each of which emits one id and then moves on.

A document's first state is drawn from `initial`, each next one from the row of `transition` of the state before, each id from the
row of `emission` of its state. The separator is an id like any other, so a document can end (and generation with it); the chain ends
with it, and what follows begins from `initial` again. What a state remembers of the past is one distribution over the hidden states.

Every distribution over hidden states is kept as logarithms, in float64. The sums over states are matrix products all the same: a row's
largest logarithm is taken out before `exp` and put back after `log`, so that nothing that matters can underflow.

Source: L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech recognition", Proceedings of the IEEE
77 (1989), section III: the forward procedure (18-21), the posterior (27), Viterbi (30-35). Training is in `myna.models.hmm_fit`.

    model = fit_hmm(train.ids, valid.ids, vocab_size=2048, separator_id=0)
    model.log_probs([17, 5, 99])                         # (3,) natural log-probabilities
    model.viterbi([17, 5, 99])                           # (3,) the most probable hidden states, together

B rows, T tokens, S hidden states, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.protocol import Ids, LogProbs

Array = npt.NDArray[Any]

_LEAST = 1e-30  # no probability is smaller: logarithms stay finite, and 1e-30 is a normal number in float32 as well
_LARGEST = 1 << 24  # of a size in config.json: far above what fits into memory as a table
_KEYS = ("model_type", "vocab_size", "num_states", "separator_id")  # of config.json; all else in it are facts


class HmmState:
    """What each row knows after each id it took: log p(next hidden state | the ids so far), (S,) float64."""

    def __init__(self, initial: Array, rows: int) -> None:
        self.initial = initial
        self.rows: list[list[Array]] = [[] for _ in range(rows)]

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]

    @property
    def next(self) -> Array:
        """Log p(next hidden state) of each row now: (B, S)."""
        return np.stack([row[-1] if row else self.initial for row in self.rows])

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids."""
        for row, length in zip(self.rows, lengths, strict=True):
            if not 0 <= length <= len(row):
                raise ValueError(f"cannot cut a row of {len(row)} ids to {length}")
            del row[length:]

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order."""
        self.rows = [list(self.rows[row]) for row in rows]


class Hmm:
    """A hidden Markov model over token ids.

    log_initial (S,), log_transition (S, S), log_emission (S, V): logarithms of probabilities, kept as float32 (so that a saved model
    has the same bits) and brought to a sum of 1 in float64. facts: how it was made, JSON values written to config.json.
    """

    max_length: int | None = None

    def __init__(self, separator_id: int, log_initial: Array, log_transition: Array, log_emission: Array, facts: dict[str, Any]) -> None:
        self.states, self.vocab_size = log_emission.shape
        self.separator_id = separator_id
        self.facts = facts
        given = {"log_initial": log_initial, "log_transition": log_transition, "log_emission": log_emission}
        self._stored = {key: np.ascontiguousarray(values, np.float32) for key, values in given.items()}  # as safetensors wants them
        self.initial, self.transition, self.emission = (_distributions(values) for values in self._stored.values())
        self._log_initial = np.log(self.initial)
        self._by_id = np.ascontiguousarray(np.log(self.emission).T)  # (V, S): a row for each id

    @property
    def name(self) -> str:
        """Say what it is, as a table's heading does."""
        return f"HMM, {self.states} states"

    def start(self, rows: int = 1, source: Any = None) -> HmmState:
        """Return a state of `rows` rows with nothing seen: what follows is a document's beginning, as after a separator."""
        return HmmState(self._log_initial, rows)

    def log_probs(self, ids: Sequence[int], source: Any = None) -> LogProbs:
        """Score one document after the separator: (T,)."""
        row = self._checked(ids)
        scores, before = np.empty(len(row)), self._log_initial[None]
        for t in range(len(row)):
            scores[t:t + 1], before = self._advance(before, row[t:t + 1])
        return scores.astype(np.float32)

    def step(self, ids: Ids, state: HmmState, last: bool = True) -> LogProbs:
        """Append `ids` to the state; (B, V) after each row's last id, or (B, T, V) after every id with last=False."""
        if len(ids) != len(state.rows):
            raise ValueError(f"{len(ids)} rows of ids for a state of {len(state.rows)} rows")
        new = [self._checked(row) for row in ids]
        if any(len(row) == 0 for row in new):
            raise ValueError("every row takes at least one id")
        longest = max(map(len, new))
        out = np.zeros((len(new), 1 if last else longest, self.vocab_size), np.float32)
        now = state.next
        for t in range(longest):
            active = [b for b, row in enumerate(new) if t < len(row)]
            _, now[active] = self._advance(now[active], np.array([new[b][t] for b in active]))
            for b in active:
                state.rows[b].append(now[b].copy())
            if not last:
                out[active, t] = self._spread(now[active])
        if last:
            out[:, 0] = self._spread(now)
            return out[:, 0]
        return out

    def posterior(self, ids: Sequence[int]) -> Array:
        """Return log p(hidden state at t | all ids): (T, S). A separator in `ids` ends a chain; the next id begins another."""
        out = np.empty((len(ids), self.states))
        for start, part in self._chains(ids):
            ahead = np.zeros((len(part), self.states))  # log p(ids after t | state at t), up to a constant for each t
            before = self._log_initial[None]
            for t, id in enumerate(part):
                out[start + t] = before[0] + self._by_id[id]
                _, before = self._advance(before, part[t:t + 1])
            for t in range(len(part) - 2, -1, -1):
                joint = self._by_id[part[t + 1]] + ahead[t + 1]
                top = joint.max()
                ahead[t] = _log(self.transition @ np.exp(joint - top))
            whole = out[start:start + len(part)] + ahead
            top = whole.max(1, keepdims=True)
            out[start:start + len(part)] = whole - top - np.log(np.exp(whole - top).sum(1, keepdims=True))
        return out

    def viterbi(self, ids: Sequence[int]) -> Array:
        """Return the hidden states that are most probable together: (T,). A separator in `ids` ends a chain."""
        log_transition = _log(self.transition)
        paths = [best_path(self._log_initial, log_transition, self._by_id[part]) for _, part in self._chains(ids)]
        return np.concatenate(paths) if paths else np.zeros(0, np.int64)

    def _chains(self, ids: Sequence[int]) -> Iterator[tuple[int, Array]]:
        """Cut ids after each separator: (where the part begins, the part)."""
        row = self._checked(ids)
        cuts = [0, *(np.flatnonzero(row == self.separator_id) + 1).tolist(), len(row)]
        yield from ((a, row[a:b]) for a, b in itertools.pairwise(cuts) if b > a)

    def _checked(self, ids: Sequence[int] | Array) -> Array:
        row = np.asarray(ids, np.int64)
        if row.ndim != 1 or (len(row) and (row.min() < 0 or row.max() >= self.vocab_size)):
            raise ValueError(f"ids must be a flat list of numbers from 0 to {self.vocab_size - 1}")
        return row

    def _advance(self, before: Array, ids: Array) -> tuple[Array, Array]:
        """Take one id a row: from log p(state) before it, (B, S), to its log-probability, (B,), and log p(next state), (B, S)."""
        joint = before + self._by_id[ids]
        top = joint.max(1, keepdims=True)
        weights = np.exp(joint - top)
        total = weights.sum(1, keepdims=True)
        after = _log((weights / total) @ self.transition)
        after[ids == self.separator_id] = self._log_initial
        return (top + np.log(total))[:, 0], after

    def _spread(self, before: Array) -> Array:
        """Return log p(next id), (B, V), of log p(next state), (B, S)."""
        top = before.max(1, keepdims=True)
        return np.asarray(top + np.log(np.exp(before - top) @ self.emission))

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder` (the tokenizer's files are the caller's)."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "model.safetensors", save(self._stored))
        write_json(folder / "config.json", {"model_type": "hmm", "vocab_size": self.vocab_size, "num_states": self.states,
                                            "separator_id": self.separator_id, **self.facts})

    @classmethod
    def open(cls, folder: Path) -> Hmm:
        """Read a model directory. Raises UserError unless every size, type and number in it is a hidden Markov model's."""
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or config.get("model_type") != "hmm":
            raise UserError(f"{folder / 'config.json'} is not a hidden Markov model's", 'model_type "hmm"', "give an HMM's directory")
        vocab_size, states, separator_id = (config.get(key) for key in _KEYS[1:])
        if not (_whole(vocab_size, 1, _LARGEST) and _whole(states, 1, _LARGEST) and _whole(separator_id, 0, vocab_size - 1)):
            raise UserError(f"{folder / 'config.json'} has sizes that cannot be", "vocab_size, num_states and separator_id that agree",
                            "restore the directory or build it again")
        tensors = read_log_probabilities(folder, {"log_initial": (states,), "log_transition": (states, states),
                                                  "log_emission": (states, vocab_size)})
        return cls(int(separator_id), **tensors, facts={key: value for key, value in config.items() if key not in _KEYS})


def best_path(log_initial: Array, log_transition: Array, log_emitted: Array) -> Array:
    """Return the most probable sequence of states, (T,): Viterbi's algorithm.

    log_emitted (T, S): log p(what is seen at t | state). Of equally probable states the first is taken.
    """
    back = np.zeros(log_emitted.shape, np.int64)
    best = log_initial + log_emitted[0]
    for t in range(1, len(log_emitted)):
        reached = best[:, None] + log_transition
        back[t] = reached.argmax(0)
        best = reached[back[t], np.arange(len(best))] + log_emitted[t]
    path = np.empty(len(log_emitted), np.int64)
    path[-1] = best.argmax()
    for t in range(len(path) - 1, 0, -1):
        path[t - 1] = back[t, path[t]]
    return path


def read_log_probabilities(folder: Path, wanted: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Read float32 tensors of these shapes whose last axis is a distribution, as logarithms. Raises UserError when one is not."""
    stored, path = open_weights(folder), folder / "model.safetensors"
    if set(stored) != set(wanted):
        raise UserError(f"{path} differs from its config.json in {', '.join(sorted(set(stored) ^ set(wanted))[:3])[:120]!r}",
                        f"the tensors {', '.join(wanted)}", "restore the directory or build it again")
    tensors: dict[str, Array] = {}
    for name, shape in wanted.items():
        if stored[name].shape != shape or stored[name].dtype != "F32":
            raise UserError(f"{name} in {path} is {stored[name].dtype}{list(stored[name].shape)}", f"F32{list(shape)}",
                            "restore the directory or build it again")
        tensors[name] = stored[name].read()
        totals = np.exp(tensors[name].astype(np.float64)).sum(-1)
        if not np.all(np.isfinite(tensors[name])) or not np.allclose(totals, 1, rtol=0, atol=1e-3):  # float32 logs: 1e-5 at most
            raise UserError(f"{path} is damaged: {name} holds numbers that are no logarithms of probabilities", "rows that sum to 1",
                            "restore the file or build it again")
    return tensors


def _distributions(logs: Array) -> Array:
    values = np.maximum(np.exp(logs.astype(np.float64)), _LEAST)
    return np.asarray(values / values.sum(-1, keepdims=True))


def _log(values: Array) -> Array:
    """Take logarithms of probabilities that a sum may have rounded to zero."""
    return np.log(np.maximum(values, np.finfo(np.float64).tiny))


def _whole(value: Any, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
