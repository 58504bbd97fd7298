"""The mixture: several language models over one vocabulary, added up with weights learned on the validation split.

p(w | h) = sum over members m of weight_m * p_m(w | h). Where the members err on different ids, their sum is better than the best of
them: an n-gram knows by heart what a small Transformer has not yet learned, and the other way round. The weights are those with
the fewest bits on held-out text, found by expectation-maximisation (Jelinek and Mercer, "Interpolated estimation of Markov source
parameters from sparse data", 1980): each round a weight becomes the mean share of its member in the probability of the ids.

    mixture = Mixture([decoder, ngram], ["decoder", "ngram"], fit_weights([decoder, ngram], documents).weights)
    mixture.log_probs([17, 5, 99])

A directory keeps `mixture.json` beside the first member, whose files stay as they are; the others are folders inside it.

B rows, T tokens, V vocabulary, M members.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from myna.errors import UserError, nearest
from myna.files import read_json, write_json
from myna.models.protocol import Hidden, HiddenModel, Ids, LanguageModel, LogProbs, State

MIXTURE = "mixture.json"
_ROUNDS, _CLOSE = 200, 1e-7  # EM rounds at most; nats a token below which another round changes nothing that is ever shown
_INSIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # a member's folder: a plain name, so never a path out of the directory


class MixtureState:
    """The members' states, which have always taken the same ids."""

    def __init__(self, states: list[State]) -> None:
        self.states = states

    @property
    def lengths(self) -> list[int]:
        return self.states[0].lengths

    def truncate(self, lengths: Sequence[int]) -> None:
        """Cut row b back to `lengths[b]` ids."""
        for state in self.states:
            state.truncate(lengths)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows in this order."""
        for state in self.states:
            state.select(rows)


class Mixture:
    """A weighted sum of language models (`LanguageModel` itself). Raises ValueError when they do not speak of the same ids."""

    def __init__(self, members: Sequence[LanguageModel], names: Sequence[str], weights: Sequence[float]) -> None:
        if len({(member.vocab_size, member.separator_id) for member in members}) != 1:
            raise ValueError("the members of a mixture have different vocabularies")
        if not len(members) == len(names) == len(weights) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"{len(members)} members need as many names, and weights that add up to 1; got {list(weights)}")
        self.members, self.names, self.weights = list(members), list(names), list(weights)
        self.vocab_size, self.separator_id = members[0].vocab_size, members[0].separator_id
        limits = [member.max_length for member in members if member.max_length is not None]
        self.max_length: int | None = min(limits) if limits else None

    @property
    def name(self) -> str:
        """Say what it is, as a table's heading does."""
        return " + ".join(f"{weight:.2f} {name}" for name, weight in zip(self.names, self.weights, strict=True))

    def start(self, rows: int = 1, source: Any = None) -> MixtureState:
        """Return a state of `rows` rows with nothing seen."""
        return MixtureState([member.start(rows, source) for member in self.members])

    def step(self, ids: Ids, state: MixtureState, last: bool = True) -> LogProbs:
        """Append `ids` to the state; (B, V) after each row's last id, or (B, T, V) after every id with last=False."""
        parts = [member.step(ids, one, last) for member, one in zip(self.members, state.states, strict=True)]
        mixed = _add(parts, self.weights)
        if not last:
            for row, given in enumerate(ids):
                mixed[row, len(given):] = 0
        return mixed

    def step_hidden(self, ids: Ids, state: MixtureState) -> tuple[LogProbs, Hidden]:
        """Append ids as `step` does; returns log-probabilities (B, V), and the last layer's states (B, T, C) of the first member with any.

        Raises UserError when no member has any.
        """
        chosen = next((place for place, member in enumerate(self.members) if hasattr(member, "step_hidden")), None)
        if chosen is None:
            raise UserError(f"a mixture of {' and '.join(self.names)}", "a member that has hidden states, as a decoder")
        parts: list[LogProbs] = []
        hidden = np.zeros(0, np.float32)
        for place, (member, one) in enumerate(zip(self.members, state.states, strict=True)):
            if place == chosen:
                scores, hidden = cast(HiddenModel, member).step_hidden(ids, one)
            else:
                scores = member.step(ids, one)
            parts.append(scores)
        return _add(parts, self.weights), hidden

    def log_probs(self, ids: Sequence[int], source: Any = None) -> LogProbs:
        """Score one document after the separator: (T,)."""
        return _add([member.log_probs(ids, source) for member in self.members], self.weights)


def _add(parts: Sequence[LogProbs], weights: Sequence[float]) -> LogProbs:
    """Return log sum of weight * exp(part), without underflow."""
    total = np.full(parts[0].shape, -np.inf, np.float32)
    for part, weight in zip(parts, weights, strict=True):
        if weight > 0:
            np.logaddexp(total, part + np.float32(np.log(weight)), out=total)
    return total


class Fitted(NamedTuple):
    """What `fit_weights` found: the weights, and the mean bits a token of each member alone and of their mixture."""

    weights: list[float]
    member_bits: list[float]
    bits: float
    tokens: int


def fit_weights(members: Sequence[LanguageModel], documents: Iterable[Any]) -> Fitted:
    """Find the weights with the fewest bits on documents (ids each) that no member was trained on.

    Raises UserError when there is no token.
    """
    texts = [list(map(int, document)) for document in documents]
    if not any(texts):
        raise UserError("the validation split is empty", "text to learn the mixture's weights on", "add text")
    scores = np.stack([np.concatenate([member.log_probs(ids) for ids in texts if ids]) for member in members]).astype(np.float64)  # (M, T)
    highest = scores.max(0)
    chances = np.exp(scores - highest)  # each id's largest is 1
    weights = np.full(len(members), 1 / len(members))
    before = -np.inf
    for _ in range(_ROUNDS):
        shares = weights[:, None] * chances
        sums = shares.sum(0)
        mean = float((np.log(sums) + highest).mean())
        if mean - before < _CLOSE:
            break
        before = mean
        weights = (shares / sums).mean(1)
    weights /= weights.sum()
    return Fitted(weights.tolist(), (-scores.mean(1) / np.log(2)).tolist(), -mean / float(np.log(2)), scores.shape[1])


def write_mixture(folder: Path, names: Sequence[str], paths: Sequence[str], fitted: Fitted) -> None:
    """Write mixture.json: each member's name and folder ("." for the directory itself), the weights and what they gain."""
    members = [{"name": name, "path": path, "weight": weight, "bits_per_token": bits}
               for name, path, weight, bits in zip(names, paths, fitted.weights, fitted.member_bits, strict=True)]
    write_json(folder / MIXTURE, {"members": members, "tokens": fitted.tokens, "bits_per_token": fitted.bits})


def read_mixture(folder: Path) -> list[tuple[str, Path, float]]:
    """Read mixture.json: (name, folder, weight) of every member. Raises UserError when it is damaged or points elsewhere."""
    path = folder / MIXTURE
    value = read_json(path)
    listed = value.get("members") if isinstance(value, dict) else None
    damage = UserError(f"{path} is damaged", "members, each with a name, a path inside the directory and a weight", "restore or remove it")
    if not isinstance(listed, list) or not 2 <= len(listed) <= 100:
        raise damage
    found: list[tuple[str, Path, float]] = []
    for one in listed:
        name, inside, weight = (one.get(key) for key in ("name", "path", "weight")) if isinstance(one, dict) else (None, None, None)
        if not (isinstance(name, str) and isinstance(inside, str) and isinstance(weight, int | float) and not isinstance(weight, bool)
                and 0 <= weight <= 1 and (inside == "." or _INSIDE.fullmatch(inside)) and name not in [known for known, _, _ in found]):
            raise damage
        found.append((name, folder / inside, float(weight)))
    if abs(sum(weight for _, _, weight in found) - 1) > 1e-6 or sum(inside == folder / "." for _, inside, _ in found) > 1:
        raise damage
    return found


def open_mixture(folder: Path, open_member: Callable[[Path], LanguageModel], member: str | None = None) -> LanguageModel:
    """Open the mixture in a directory, or one of its members by name. Raises UserError when they do not fit each other."""
    listed = read_mixture(folder)
    if member is not None:
        names = [name for name, _, _ in listed]
        if member not in names:
            raise UserError(f"{folder} has no member {member!r}{nearest(member, names)}", "one of " + ", ".join(names))
        return open_member(dict(zip(names, (inside for _, inside, _ in listed), strict=True))[member])
    members = [open_member(inside) for _, inside, _ in listed]
    if len({(one.vocab_size, one.separator_id) for one in members}) != 1:
        raise UserError(f"the members in {folder / MIXTURE} have vocabularies of {', '.join(f'{one.vocab_size:,}' for one in members)}",
                        "members with one tokenizer", "mix models that were trained on the same tokens")
    return Mixture(members, [name for name, _, _ in listed], [weight for _, _, weight in listed])
