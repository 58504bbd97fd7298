"""A linear classifier: every short run of characters and words has a weight for every label, and a text's score is their sum.

The oldest text classifier that is still hard to beat, in seconds. A text is the set of its n-grams (Chinese: characters, spaced scripts:
words and characters), divided by the root of their number; the score of a label is the sum of its weights, plus one of its own. How the
weights are fitted, and how each n-gram is weighted first, says `myna.models.linear_fit`. `transformers` has no such model.

Source: Wang and Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification".

    model = fit_linear(texts, targets, ["bad", "good"], LinearConfig(characters=(1, 3)))     # myna.models.linear_fit
    model.score(["a fine book"])                                                            # (1, 2)

N texts · K labels · F n-grams
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, shown
from myna.files import read_json, write_atomic, write_json
from myna.formats.weights import open_weights
from myna.models.directory import choice, whole

Array = npt.NDArray[Any]

LONGEST = 20  # units of an n-gram at most
MOST_LABELS = 10_000
FEATURES = "features.json"
_MOST_FEATURES = 1 << 22
_MOST_BYTES = 1 << 29  # of features.json
_WORDS, _SPACES = re.compile(r"\w+"), re.compile(r"\s+")


@dataclass(frozen=True)
class LinearConfig:
    """Which n-grams a text is made of: (shortest, longest) of characters and of words, (0, 0) for none."""

    characters: tuple[int, int] = (0, 0)
    words: tuple[int, int] = (0, 0)
    naive_bayes: bool = True
    "Whether n-grams were weighted by naive Bayes before the fit; it tells how the model came to be, and changes nothing later."

    def __str__(self) -> str:
        parts = [f"{name} {low}-{high}" for name, (low, high) in (("characters", self.characters), ("words", self.words)) if high]
        return " and ".join(parts)


def find_ngrams(text: str, config: LinearConfig) -> set[str]:
    """Return the n-grams of a text: characters as `c...`, over word borders, and words as `w...`.

    Compatibility forms (full-width letters) are one, letters small, white space is one space.
    """
    text = _SPACES.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    found: set[str] = set()
    low, high = config.characters
    for length in range(low, high + 1) if high else ():
        found.update(["c" + text[at : at + length] for at in range(len(text) - length + 1)])
    low, high = config.words
    words = _WORDS.findall(text) if high else []
    for length in range(low, high + 1) if high else ():
        found.update(["w" + " ".join(words[at : at + length]) for at in range(len(words) - length + 1)])
    return found


class Linear:
    """Weights for n-grams, made by `fit_linear` or `Linear.open`."""

    name = "linear model"

    def __init__(self, config: LinearConfig, labels: Sequence[str], features: Sequence[str], weight: npt.NDArray[np.float32],
                 bias: npt.NDArray[np.float32], several: bool = False) -> None:
        """Take the labels (K), the n-grams (F), weight (F, K) and bias (K). several: whether a text may have more than one label."""
        self.config, self.labels, self.features, self.several = config, list(labels), list(features), several
        self.weight, self.bias = weight, bias
        self._rows = {feature: row for row, feature in enumerate(features)}

    def find_rows(self, text: str) -> list[int]:
        """Return the rows of a text's n-grams that have a weight, in order."""
        rows = self._rows
        return sorted(rows[ngram] for ngram in find_ngrams(text, self.config) if ngram in rows)

    def score(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Score every label of every text: (N, K), not yet probabilities. A text without a known n-gram has the labels' own scores."""
        out = np.tile(self.bias, (len(texts), 1))
        for number, text in enumerate(texts):
            if rows := self.find_rows(text):
                out[number] += self.weight[rows].sum(axis=0) / np.float32(len(rows) ** 0.5)
        return out

    def explain(self, text: str, label: str) -> list[tuple[str, float]]:
        """List a text's n-grams with what each adds to a label's score beyond the mean of all labels, the strongest first."""
        rows = self.find_rows(text)
        column = self.labels.index(label)
        parts = (self.weight[rows, column] - self.weight[rows].mean(axis=1)) / max(1, len(rows)) ** 0.5
        order = np.argsort(-np.abs(parts), kind="stable")
        return [(self.features[rows[place]][1:], float(parts[place])) for place in order.tolist()]

    def save(self, folder: Path) -> None:
        """Write config.json, features.json and model.safetensors."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "model.safetensors", save({"weight": np.ascontiguousarray(self.weight, np.float32),
                                                         "bias": np.ascontiguousarray(self.bias, np.float32)}))
        write_json(folder / FEATURES, {"features": self.features})
        write_json(folder / "config.json", {"model_type": "linear", "architectures": ["LinearClassifier"], **asdict(self.config),
                                            "num_features": len(self.features), **describe_labels(self.labels, self.several)})

    @classmethod
    def open(cls, folder: Path) -> Linear:
        """Read a directory that `save` wrote. Raises UserError when anything in it cannot be."""
        path = folder / "config.json"
        config = read_json(path, _MOST_BYTES)
        if not isinstance(config, dict) or config.get("model_type") != "linear":
            raise UserError(f"{path} tells of no linear model", "model_type linear", "give the directory of a classifier")
        labels, several = read_label_names(path, config)
        size = whole(path, config, "num_features", high=_MOST_FEATURES)
        shape = LinearConfig(_read_range(path, config, "characters"), _read_range(path, config, "words"),
                             choice(path, config, "naive_bayes", True, False))
        stored = open_weights(folder)
        wanted = {"weight": (size, len(labels)), "bias": (len(labels),)}
        if {name: tensor.shape for name, tensor in stored.items()} != wanted:  # before anything of that size is made
            raise UserError(f"{folder / 'model.safetensors'} has other weights than config.json says", str(wanted), "restore the files")
        read = read_json(folder / FEATURES, _MOST_BYTES)
        features = read.get("features") if isinstance(read, dict) else None
        if (not isinstance(features, list) or len(features) != size or not all(isinstance(one, str) and one for one in features)
                or len(set(features)) != size):
            raise UserError(f"{folder / FEATURES} is damaged", f"{size:,} different n-grams, as config.json says", "restore the file")
        weight, bias = stored["weight"].read(), stored["bias"].read()
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise UserError(f"{folder / 'model.safetensors'} holds numbers that are not finite", "weights", "restore the file")
        return cls(shape, labels, features, weight, bias, several)


def _read_range(path: Path, config: Mapping[str, Any], name: str) -> tuple[int, int]:
    value = config.get(name)
    if (not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, int) and not isinstance(one, bool) for one in value)
            or not (value == [0, 0] or 1 <= value[0] <= value[1] <= LONGEST)):
        raise UserError(f"{name} in {path} is {shown(value)}", f"the lengths of the shortest and longest, up to {LONGEST}",
                        "restore the file")
    return value[0], value[1]


# ---- labels in config.json, in Hugging Face's words ----

def describe_labels(labels: Sequence[str], several: bool) -> dict[str, Any]:
    """Return what config.json says of labels, as `transformers` reads it."""
    return {"id2label": {str(number): label for number, label in enumerate(labels)},
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": "multi_label_classification" if several else "single_label_classification"}


def read_label_names(path: Path, config: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return the labels of a config.json, and whether a text may have several. Raises UserError when they are not all there."""
    names = config.get("id2label")
    if (not isinstance(names, dict) or not 1 <= len(names) <= MOST_LABELS or not all(isinstance(label, str) for label in names.values())
            or set(names) != set(map(str, range(len(names)))) or len(set(names.values())) != len(names)):
        raise UserError(f"id2label in {path} is {shown(names)}", "a different label for every number from 0 on", "restore the file")
    kind = config.get("problem_type") or "single_label_classification"
    if kind not in ("single_label_classification", "multi_label_classification"):
        raise UserError(f"problem_type in {path} is {shown(kind)}", "single_label_classification or multi_label_classification")
    return [names[str(number)] for number in range(len(names))], kind == "multi_label_classification"
