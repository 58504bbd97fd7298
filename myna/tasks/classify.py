"""Give texts labels with probabilities, by one model or several whose scores are added with weights.

A classifier's directory has `task.json` beside the model: the labels, which models there are (the directory itself, or folders in
it), the weight of each one's scores, which makes probabilities of them too (see `myna.models.calibration`), and the threshold from
which a label is given where a text may have several. A classifier of others (`...ForSequenceClassification`) needs no task.json.

    classifier = Classifier.open(Path("my-classifier"))
    [result] = classifier.classify(["a fine book"])
    result.label, result.probability

N texts · K labels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from myna.console import say
from myna.errors import UserError, shown
from myna.files import read_json, write_json
from myna.models.calibration import to_log_probs
from myna.models.families import family_of
from myna.models.linear import Linear
from myna.models.pretrained import read_config

Array = npt.NDArray[Any]

TASK = "task.json"
_MOST_BYTES = 64 << 20  # of task.json: ten thousand labels take far less
_MOST_MEMBERS = 8
_ROWS = 4096  # texts at a time; models sort these by length, so that little is padded


@dataclass(frozen=True)
class Classified:
    """What a text was labelled: the likeliest label, those given (exactly that one, unless a text may have several), and all chances."""

    text: str
    label: str
    probability: float
    labels: tuple[str, ...]
    probabilities: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(self.labels) or "(none)"


class Scorer(Protocol):
    """A model that scores labels."""

    @property
    def labels(self) -> list[str]:
        """The labels in order."""

    @property
    def several(self) -> bool:
        """Whether a text may have several labels."""

    def save(self, folder: Path) -> None:
        """Write the model's directory."""

    def score(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Score every label of every text: (N, K), not yet probabilities."""


@dataclass(frozen=True)
class Member:
    """A model of a classifier: its folder within the directory ('.' for the directory itself), and the weight of its scores."""

    folder: str
    model: Scorer
    weight: float = 1.0


class Classifier:
    """One model or several that label texts together."""

    def __init__(self, members: Sequence[Member], threshold: float = 0.5, about: Mapping[str, Any] | None = None) -> None:
        """Take members that have the same labels in the same order. about: what else task.json says."""
        self.members, self.threshold, self.about = list(members), threshold, dict(about or {})
        self.labels, self.several = members[0].model.labels, members[0].model.several

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        return " + ".join(getattr(member.model, "name", type(member.model).__name__) for member in self.members)

    def log_probs(self, texts: Sequence[str]) -> Array:
        """Return natural log-probabilities (N, K) of every label; says how many texts were cut."""
        before = self._count_cut()
        parts = [self._score(texts[at : at + _ROWS]) for at in range(0, len(texts), _ROWS)]
        if cut := self._count_cut() - before:
            longest = min(member.model.max_length for member in self.members if hasattr(member.model, "max_length"))
            say(f"{cut:,} of {len(texts):,} texts have more than {longest:,} tokens: their beginning was read")
        return to_log_probs(np.concatenate(parts), self.several) if parts else np.zeros((0, len(self.labels)))

    def _count_cut(self) -> int:
        return max(int(getattr(member.model, "cut", 0)) for member in self.members)

    def _score(self, texts: Sequence[str]) -> Array:
        return np.asarray(sum(member.weight * member.model.score(texts).astype(np.float64) for member in self.members))

    def decide(self, log_probs: Array) -> list[tuple[str, ...]]:
        """Choose labels from log-probabilities (N, K): the likeliest, or all from the threshold on where a text may have several."""
        if self.several:
            return [tuple(self.labels[place] for place in np.flatnonzero(np.exp(row) >= self.threshold)) for row in log_probs]
        return [(self.labels[int(row.argmax())],) for row in log_probs]

    def classify(self, texts: Sequence[str], threshold: float | None = None) -> list[Classified]:
        """Label texts. threshold: the least probability of a label that is given, where a text may have several.

        Raises UserError on a text that is empty: nothing can be said of it.
        """
        if empty := next((number for number, text in enumerate(texts, 1) if not text.strip()), None):
            raise UserError(f"text {empty} is empty", "a text to classify", "leave it out")
        if threshold is not None:
            if not self.several:
                raise UserError("a threshold, and every text has exactly one label", "a classifier of several labels", "leave it out")
            if not 0 < threshold < 1:
                raise UserError(f"threshold is {threshold:g}", "a number between 0 and 1")
        log_probs = self.log_probs(texts)
        chosen = Classifier(self.members, threshold or self.threshold).decide(log_probs)
        found = []
        for text, row, labels in zip(texts, np.exp(log_probs), chosen, strict=True):
            best = int(row.argmax())
            found.append(Classified(text, self.labels[best], float(row[best]), labels, dict(zip(self.labels, row.tolist(), strict=True))))
        return found

    def save_task(self, folder: Path) -> None:
        """Write task.json; the members are saved by whoever made them."""
        write_json(folder / TASK, {"format": 1, "task": "classify", "labels": self.labels, "multi_label": self.several,
                                   "threshold": self.threshold, **self.about,
                                   "members": [{"folder": member.folder, "weight": member.weight} for member in self.members]})

    @classmethod
    def open(cls, folder: Path) -> Classifier:
        """Open a classifier's directory. Raises UserError when it is none, or is damaged."""
        config = read_config(folder)
        if not (folder / TASK).is_file():
            return cls([Member(".", open_scorer(folder, config))])
        path = folder / TASK
        task = read_json(path, _MOST_BYTES)
        if not isinstance(task, dict) or task.get("task") != "classify":
            told = shown(task.get("task")) if isinstance(task, dict) else "no task"
            raise UserError(f"{path} tells of {told}", "a classifier", "restore the file")
        listed, threshold = task.get("members"), task.get("threshold", 0.5)
        if not _is_share(threshold) or not isinstance(listed, list) or not 1 <= len(listed) <= _MOST_MEMBERS:
            raise UserError(f"{path} is damaged", "a threshold, and from 1 to 8 members", "restore the file")
        members = []
        for one in listed:
            inside, weight = (one.get("folder"), one.get("weight")) if isinstance(one, dict) else (None, None)
            if inside not in (".", "linear", "neural") or not isinstance(weight, int | float) or not abs(weight) <= 1e6:
                raise UserError(f"{path} has the member {shown(one)}", "a folder (., linear or neural) and a weight", "restore the file")
            members.append(Member(inside, open_scorer(folder / inside, read_config(folder / inside)), float(weight)))
        if any(member.model.labels != task.get("labels") or member.model.several != task.get("multi_label") for member in members):
            raise UserError(f"{path} and the models beside it have other labels", "the labels of their config.json", "restore the files")
        own = ("format", "task", "labels", "multi_label", "threshold", "members")
        about = {key: value for key, value in task.items() if key not in own}
        return cls(members, float(threshold), about)


def is_classifier(folder: Path) -> bool:
    """Tell whether a directory is opened as a classifier: by its task.json, or by its config.json."""
    if (folder / TASK).is_file():
        task = read_json(folder / TASK, _MOST_BYTES)
        return not isinstance(task, dict) or task.get("task") in ("classify", None)  # a damaged one is told of when it is opened
    try:
        config = read_config(folder)
    except UserError:  # whoever opens it says what is wrong
        return False
    return config.get("model_type") == "linear" or _has_head(config)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def open_scorer(folder: Path, config: Mapping[str, Any]) -> Scorer:
    """Open one model that scores labels, by its model_type. Raises UserError when it has no head for that."""
    match config.get("model_type"):
        case "linear":
            return Linear.open(folder)
        case str() as kind if family_of(kind) in ("encoder", "decoder", "rnn", "lstm", "gru") and _has_head(config):
            from myna.models.heads import Neural

            return Neural.open(folder)
        case other:
            raise UserError(f"{folder} holds a {shown(other)} that gives no labels", "a classifier",
                            f"make one of it: myna tune {folder} DATA --task classify --out DIR")


def _has_head(config: Mapping[str, Any]) -> bool:
    return any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ())


def say_unseen(labels: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
    """Say in one line which labels of measured texts the classifier does not know; returns them."""
    unknown = sorted({label for row in references for label in row} - set(labels))
    if unknown:
        count = sum(any(label in unknown for label in row) for row in references)
        say(f"{count:,} texts have labels that were never seen in training, so they are always wrong: {', '.join(unknown[:8])}"
            + (", ..." if len(unknown) > 8 else ""))
    return unknown
