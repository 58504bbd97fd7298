"""A linear-chain conditional random field: labels of a sequence's tokens, chosen together.

A sequence of labels has a score: the sum of a weight for each feature of a token with its label, and of one for each label after
another; probabilities of whole sequences are their exponentials, divided by their sum. Features are what is written: of words the
word, its neighbours, its first and last characters and the kind of its characters; of atoms (characters that are to be put together to
words) the atoms around and pairs of them. A weight exists only for a feature with a label that it was seen with. Labels that cannot
follow each other (an entity that goes on without having begun, see `legal_steps`) never do.

Sources: Lafferty, McCallum and Pereira 2001, "Conditional Random Fields"; features after Ratnaparkhi 1996, "A Maximum Entropy Model for
Part-Of-Speech Tagging", table 1, and Xue 2003, "Chinese Word Segmentation as Character Tagging", section 3.2.

    chain = Chain.open(Path("my-tagger"))
    path = decode(chain.emissions(["我", "去"]), chain.steps)     # numbers of labels

T tokens · K labels · F features · P pairs of feature and label
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.directory import choice, whole
from myna.models.hmm import best_path
from myna.models.linear import describe_labels, read_label_names
from myna.tokenizer.atoms import WIDTHS

Array = npt.NDArray[Any]

FORBIDDEN = -1e9  # the score of a step that cannot be
SEGMENTS = ("B", "E", "M", "S")  # the labels of a segmentation: begin, end, middle of a word, and a word alone
_MOST_FEATURES, _MOST_BYTES = 1 << 23, 1 << 29
_AFFIX = 3  # characters at a word's ends that are a feature, at most


class Steps(NamedTuple):
    """Scores of a label at the beginning (K,), after another (K, K), and at the end (K,)."""

    start: Array
    between: Array
    end: Array


def scheme_of(tags: Sequence[str]) -> str:
    """Tell what labels are: 'segments' (B, M, E, S), 'spans' (B-X, I-X and O), or 'tags'."""
    if set(tags) <= set(SEGMENTS) and set(tags) & {"B", "E", "S"}:
        return "segments"
    marked = [tag for tag in tags if tag != "O"]
    if "O" in tags and marked and all(tag[:2] in ("B-", "I-") and len(tag) > 2 for tag in marked):
        return "spans"
    return "tags"


def legal_steps(tags: Sequence[str]) -> Steps:
    """Return 0 for what may stand at the beginning, after each other and at the end, FORBIDDEN for what may not."""
    scheme, size = scheme_of(tags), len(tags)
    start, between, end = np.zeros(size), np.zeros((size, size)), np.zeros(size)
    for at, tag in enumerate(tags):
        if scheme == "segments":
            inside = tag in ("B", "M")  # the word goes on after it
            between[at] = [0 if (after in ("M", "E")) == inside else FORBIDDEN for after in tags]
            start[at], end[at] = FORBIDDEN * (tag in ("M", "E")), FORBIDDEN * inside
        elif scheme == "spans" and tag.startswith("I-"):
            between[:, at] = [0 if before in (tag, "B-" + tag[2:]) else FORBIDDEN for before in tags]
            start[at] = FORBIDDEN
    return Steps(start, between, end)


def decode(emissions: Array, steps: Steps) -> Array:
    """Return the best sequence of labels, (T,), of emissions (T, K)."""
    emitted = emissions.copy()
    emitted[-1] += steps.end
    return best_path(steps.start, steps.between, emitted)


def marginals(emissions: Array, steps: Steps) -> Array:
    """Return the probability of every label of every token, over all sequences: (T, K). The forward and backward algorithm, scaled."""
    emitted = np.exp(emissions - emissions.max(axis=1, keepdims=True))
    top = steps.between.max()
    between = np.exp(steps.between - top)
    forward, backward = np.zeros_like(emitted), np.zeros_like(emitted)
    row = np.exp(steps.start - steps.start.max()) * emitted[0]
    for t in range(len(emitted)):
        if t:
            row = (forward[t - 1] @ between) * emitted[t]
        forward[t] = row / max(row.sum(), 1e-300)
    row = np.exp(steps.end - steps.end.max())
    for t in range(len(emitted) - 1, -1, -1):
        if t < len(emitted) - 1:
            row = between @ (emitted[t + 1] * backward[t + 1])
        backward[t] = row / max(row.sum(), 1e-300)
    both = forward * backward
    return np.asarray(both / np.maximum(both.sum(axis=1, keepdims=True), 1e-300))


# ---- features ----

def word_features(words: Sequence[str]) -> list[list[str]]:
    """List the features of every word of a sentence."""
    held = ["<<", "<", *(word.translate(WIDTHS) for word in words), ">", ">>"]
    kinds = [_kind(word) for word in held]
    found = []
    for at in range(2, len(held) - 2):
        word, before, after = held[at], held[at - 1], held[at + 1]
        ends = [name for size in range(1, min(_AFFIX, len(word)) + 1) for name in (f"p{word[:size]}", f"s{word[-size:]}")]
        found.append(["", f"w{word}", f"l{word.lower()}", f"b{before}", f"a{after}", f"c{held[at - 2]}", f"d{held[at + 2]}",
                      f"e{before}\t{word}", f"f{word}\t{after}", f"g{before}\t{after}", f"k{kinds[at]}{min(len(word), 5)}",
                      f"m{kinds[at - 1]}{kinds[at]}{kinds[at + 1]}", f"n{before[-1:]}\t{word[:1]}", f"o{word[-1:]}\t{after[:1]}",
                      f"q{held[at - 2]}\t{before}", f"r{after}\t{held[at + 2]}", *ends])
    return found


def atom_features(atoms: Sequence[str]) -> list[list[str]]:
    """List the features of every atom of a sentence that is to be cut into words."""
    held = ["<<", "<", *(atom.translate(WIDTHS) for atom in atoms), ">", ">>"]
    kinds = [_kind(atom) for atom in held]
    found = []
    for at in range(2, len(held) - 2):
        c, d, e, f, g = held[at - 2 : at + 3]
        found.append(["", f"c{c}", f"d{d}", f"e{e}", f"f{f}", f"g{g}", f"h{c}\t{d}", f"i{d}\t{e}", f"j{e}\t{f}", f"k{f}\t{g}",
                      f"l{d}\t{f}", f"m{d}\t{e}\t{f}", f"n{c}\t{d}\t{e}", f"o{e}\t{f}\t{g}", f"p{kinds[at - 1]}{kinds[at]}{kinds[at + 1]}",
                      f"q{d == e}{e == f}{c == e}{e == g}"])
    return found


def _kind(word: str) -> str:
    """Say in a letter what a word is made of: d digits inside, p no letter, U capitals, u capital first, l letters, o without case."""
    if any(character.isdigit() for character in word):
        return "d"
    if not any(character.isalpha() for character in word):
        return "p"
    if word.lower() == word.upper():
        return "o"
    return "U" if word.isupper() else "u" if word[0].isupper() else "l"


FEATURES = {"words": word_features, "atoms": atom_features}


# ---- the model ----

@dataclass
class Chain:
    """Labels, features with their weights, and the scores of steps."""

    tags: list[str]
    tokens: str
    "'words' or 'atoms': which features are looked at."
    features: list[str]
    starts: Array
    "(F + 1,): the pairs of feature f are those from starts[f] to starts[f + 1]."
    labels: Array
    "(P,): the label of each pair."
    weight: Array
    "(P,) float32."
    steps: Steps

    def __post_init__(self) -> None:
        self._place = {name: number for number, name in enumerate(self.features)}
        forbidden = legal_steps(self.tags)
        self.steps = Steps(*(np.where(rule < 0, FORBIDDEN, learned.astype(np.float64))
                             for rule, learned in zip(forbidden, self.steps, strict=True)))

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        return "conditional random field"

    def emissions(self, tokens: Sequence[str]) -> Array:
        """Score every label of every token by itself: (T, K) float64."""
        size = len(self.tags)
        found = [[self._place[name] for name in names if name in self._place] for names in FEATURES[self.tokens](tokens)]
        known = np.array([feature for row in found for feature in row], np.int64)
        rows = np.repeat(np.arange(len(found)), [len(row) for row in found])
        begin, counts = self.starts[known], self.starts[known + 1] - self.starts[known]
        ends = np.cumsum(counts)
        pairs = np.arange(ends[-1] if len(ends) else 0) + np.repeat(begin - ends + counts, counts)
        places = np.repeat(rows, counts) * size + self.labels[pairs]
        return np.bincount(places, self.weight[pairs], minlength=len(found) * size).reshape(len(found), size)

    def emit(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Score the tokens of many sentences: (T, K) each."""
        return [self.emissions(tokens) for tokens in sentences]

    def save(self, folder: Path) -> None:
        """Write config.json, features.json and model.safetensors."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": self.weight.astype(np.float32),
                   **{name: np.where(part > FORBIDDEN / 2, part, 0).astype(np.float32) for name, part in self.steps._asdict().items()}}
        write_atomic(folder / "model.safetensors", save(tensors))
        write_json(folder / "features.json", {"features": self.features, "counts": np.diff(self.starts).tolist(),
                                              "labels": self.labels.tolist()})
        named = {key: value for key, value in describe_labels(self.tags, False).items() if key != "problem_type"}
        write_json(folder / "config.json", {"model_type": "chain", "tokens": self.tokens, "num_features": len(self.features),
                                            "num_pairs": len(self.labels), **named})

    @classmethod
    def open(cls, folder: Path) -> Chain:
        """Read a directory that `save` wrote. Raises UserError when anything in it does not fit."""
        path = folder / "config.json"
        config = read_json(path, _MOST_BYTES)
        if not isinstance(config, dict) or config.get("model_type") != "chain":
            raise UserError(f"{path} tells of no conditional random field", 'model_type "chain"', "give a tagger's directory")
        tags, _ = read_label_names(path, config)
        tokens = str(choice(path, config, "tokens", "words", "atoms"))
        size, pairs = whole(path, config, "num_features", high=_MOST_FEATURES), whole(path, config, "num_pairs", high=_MOST_BYTES)
        wanted = {"weight": (pairs,), "start": (len(tags),), "between": (len(tags),) * 2, "end": (len(tags),)}
        stored = open_weights(folder)
        if {name: tensor.shape for name, tensor in stored.items()} != wanted:  # before anything of that size is made
            raise UserError(f"{folder / 'model.safetensors'} has other weights than config.json says", str(wanted), "restore the files")
        read = read_json(folder / "features.json", _MOST_BYTES)
        features, counts, labels = (read.get(name) for name in ("features", "counts", "labels")) if isinstance(read, dict) else (None,) * 3
        if (not isinstance(features, list) or len(features) != size or not all(isinstance(one, str) for one in features)
                or len(set(features)) != size or not _numbers(counts, size, pairs) or not _numbers(labels, pairs, len(tags) - 1)
                or sum(counts) != pairs):
            raise UserError(f"{folder / 'features.json'} is damaged", f"{size:,} different features with the labels of each",
                            "restore the file")
        held = {name: tensor.read() for name, tensor in stored.items()}
        if not all(np.isfinite(part).all() for part in held.values()):
            raise UserError(f"{folder / 'model.safetensors'} holds numbers that are not finite", "weights", "restore the file")
        return cls(tags, tokens, features, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), np.array(labels, np.int64),
                   held["weight"], Steps(held["start"], held["between"], held["end"]))


def _numbers(values: Any, count: int, most: int) -> TypeGuard[list[int]]:
    return isinstance(values, list) and len(values) == count and all(type(value) is int and 0 <= value <= most for value in values)
