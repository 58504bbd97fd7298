"""Label the words of sentences, by one model or several whose scores are added with weights; find words where none are given.

A tagger's directory has `task.json` beside the models: the labels, which models there are (the directory itself, or folders in it), the
weight of each one's scores, whether words have spaces between, and whether `segmenter` holds a model that finds them where they have not.
A tagger of others (`...ForTokenClassification`) needs no task.json; its words are then those of `myna.tokenizer.atoms`.

    tagger = WordTagger.open(Path("my-tagger"))
    [found] = tagger.tag(["我去咗香港"])
    [(word.text, word.tag, word.probability) for word in found.words], found.entities

T tokens · K labels
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, shown
from myna.files import read_json, write_json
from myna.metrics.tagging import spans_of
from myna.models.chain import Chain, Steps, decode, legal_steps, marginals, scheme_of
from myna.models.hmm_tagger import Tagger
from myna.models.pretrained import read_config
from myna.tokenizer.atoms import find_atoms, join_words

Array = npt.NDArray[Any]

TASK, SEGMENTER = "task.json", "segmenter"
_MOST_BYTES = 1 << 20  # of task.json
_MOST_TAGS = 2000  # as many as data may have (`myna.data.tagged`); their steps take 32 MB
_FOLDERS = (".", "chain", "baseline")
_OWN = ("format", "task", "labels", "spaced", "segmenter", "members")  # what task.json says that is not `about`


@dataclass(frozen=True)
class TaggedWord:
    """A word with its label ('' where words alone are found), the probability of that, and where it stands in the text, in characters."""

    text: str
    tag: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True)
class Entity:
    """A name: words of one B- and its I- labels. The probability is the least of its words'."""

    kind: str
    text: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True)
class TaggedText:
    """A text, its words with labels, and the names among them where labels are B-, I- and O."""

    text: str
    words: tuple[TaggedWord, ...]
    entities: tuple[Entity, ...] = ()

    def __str__(self) -> str:
        return " ".join(f"{word.text}/{word.tag}" if word.tag else word.text for word in self.words)


class Labeller(Protocol):
    """A model that scores labels of tokens."""

    @property
    def tags(self) -> list[str]:
        """The labels in order."""

    @property
    def name(self) -> str:
        """What a table's heading calls it."""

    def emit(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Score every label of every token: (T, K) each."""

    def save(self, folder: Path) -> None:
        """Write the model's directory."""


@dataclass(frozen=True)
class Member:
    """A model of a tagger: its folder within the directory ('.' for the directory itself), and the weight of its scores."""

    folder: str
    model: Labeller
    weight: float = 1.0


FindWords = Callable[[str], list[tuple[int, int]]]


class WordTagger:
    """One model or several that label tokens together, and what finds the words of a text."""

    def __init__(self, members: Sequence[Member], spaced: bool, segmenter: WordTagger | None = None,
                 about: Mapping[str, Any] | None = None) -> None:
        """Take members that have the same labels in the same order. about: what else task.json says."""
        self.members, self.spaced, self.segmenter, self.about = list(members), spaced, segmenter, dict(about or {})
        self.tags = members[0].model.tags
        if len(self.tags) > _MOST_TAGS:
            raise UserError(f"{len(self.tags):,} labels", f"at most {_MOST_TAGS:,}, for each is weighed after each other",
                            "use another model")
        self.scheme = scheme_of(self.tags)
        self.steps = legal_steps(self.tags)
        for member in members:
            if isinstance(member.model, Chain):
                self.steps = Steps(*(rule + member.weight * learned for rule, learned in zip(self.steps, member.model.steps, strict=True)))

    @property
    def name(self) -> str:
        """What a table's heading calls it."""
        return " + ".join(member.model.name for member in self.members)

    def emit(self, sentences: Sequence[Sequence[str]]) -> list[Array]:
        """Score every label of every token by itself, all members together: (T, K) each."""
        return self.combine([member.model.emit(sentences) for member in self.members])

    def combine(self, emitted: Sequence[Sequence[Array]]) -> list[Array]:
        """Add what the members said of the same sentences, by their weights: (T, K) each."""
        weights = [member.weight for member in self.members]
        return [sum((weight * row for weight, row in zip(weights, rows, strict=True)), np.zeros(())) for rows in zip(*emitted, strict=True)]

    def label_rows(self, rows: Sequence[Array]) -> list[list[str]]:
        """Give the best labels, together, of sentences whose scores (T, K) are known."""
        return [[self.tags[at] for at in decode(row, self.steps)] if len(row) else [] for row in rows]

    def chances_rows(self, rows: Sequence[Array]) -> list[Array]:
        """Give the probability of every label of every token (T, K), of sentences whose scores (T, K) are known."""
        return [marginals(row, self.steps) if len(row) else row for row in rows]

    def label(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Give the best labels of each sentence's tokens, together."""
        return self.label_rows(self.emit(sentences))

    def find_words(self, text: str) -> list[tuple[int, int]]:
        """List the (start, end) of a text's words, in characters: by the segmenter, by this model if it is one, else the atoms."""
        if self.segmenter is not None:
            return self.segmenter.find_words(text)
        atoms = find_atoms(text)
        if self.scheme != "segments" or not atoms:
            return atoms
        [labels] = self.label([[text[start:end] for start, end in atoms]])
        return put_together(atoms, labels)

    def tag(self, texts: Sequence[str | Sequence[str]], find_words: FindWords | None = None) -> list[TaggedText]:
        """Label texts, whose words are found, or sentences of given words, which stand as a text with their offsets.

        find_words: what finds the words of a text, where not this tagger itself. Raises UserError on a text that is empty.
        """
        found = []
        for number, text in enumerate(texts, 1):
            if not (text.strip() if isinstance(text, str) else any(word.strip() for word in text)):
                raise UserError(f"text {number} is empty", "a text to label", "leave it out")
            if isinstance(text, str):
                found.append(self._tag(text, (find_words or self.find_words)(text)))
                continue
            if self.scheme == "segments":
                raise UserError(f"text {number} is given as words, and this model finds them", "a text", "give it in one piece")
            if blank := next((word for word in text if not word or word != word.strip()), None):
                raise UserError(f"text {number} has the word {shown(blank)}", "words without spaces around them", "strip it")
            joined, starts = join_words(text, self.spaced)
            found.append(self._tag(joined, [(start, start + len(word)) for start, word in zip(starts, text, strict=True)]))
        return found

    def _tag(self, text: str, words: Sequence[tuple[int, int]]) -> TaggedText:
        if self.scheme == "segments":
            return TaggedText(text, tuple(self._cut(text)))
        pieces = [text[start:end] for start, end in words]
        [row] = self.emit([pieces])
        path, chances = decode(row, self.steps), marginals(row, self.steps)
        labels = [self.tags[at] for at in path]
        found = tuple(TaggedWord(piece, label, float(chance[at]), *span)
                      for piece, label, chance, at, span in zip(pieces, labels, chances, path, words, strict=True))
        entities = [] if self.scheme != "spans" else [
            Entity(kind, text[found[first].start : found[last - 1].end], min(word.probability for word in found[first:last]),
                   found[first].start, found[last - 1].end) for kind, first, last in spans_of(labels)]
        return TaggedText(text, found, tuple(entities))

    def _cut(self, text: str) -> list[TaggedWord]:
        """Cut a text into words; the probability of one is the least of its atoms' labels."""
        atoms = find_atoms(text)
        [row] = self.emit([[text[start:end] for start, end in atoms]])
        path, chances = decode(row, self.steps), marginals(row, self.steps)
        sure = {start: float(chance[at]) for (start, _), chance, at in zip(atoms, chances, path, strict=True)}
        words = put_together(atoms, [self.tags[at] for at in path])
        return [TaggedWord(text[start:end], "", min(sure[at] for at, _ in atoms if start <= at < end), start, end) for start, end in words]

    def save_task(self, folder: Path) -> None:
        """Write task.json; the members are saved by whoever made them."""
        write_json(folder / TASK, {"format": 1, "task": "tag", "labels": self.tags, "spaced": self.spaced,
                                   "segmenter": self.segmenter is not None, **self.about,
                                   "members": [{"folder": member.folder, "weight": member.weight} for member in self.members]})

    @classmethod
    def open(cls, folder: Path) -> WordTagger:
        """Open a tagger's directory. Raises UserError when it is none, or is damaged."""
        path = folder / TASK
        if not path.is_file():
            return cls([Member(".", open_labeller(folder))], True)
        task = read_json(path, _MOST_BYTES)
        if not isinstance(task, dict) or task.get("task") != "tag":
            raise UserError(f"{path} tells of {shown(task.get('task')) if isinstance(task, dict) else 'no task'}", "a tagger",
                            "restore the file")
        listed, spaced, cuts = task.get("members"), task.get("spaced"), task.get("segmenter")
        if (not isinstance(listed, list) or not 1 <= len(listed) <= len(_FOLDERS) or not isinstance(spaced, bool)
                or not isinstance(cuts, bool)):
            raise UserError(f"{path} is damaged", "members, and whether words have spaces and a segmenter finds them", "restore the file")
        members = []
        for one in listed:
            inside, weight = (one.get("folder"), one.get("weight")) if isinstance(one, dict) else (None, None)
            if inside not in _FOLDERS or not isinstance(weight, int | float) or not 0 < weight <= 1e6:
                raise UserError(f"{path} has the member {shown(one)}", "a folder (., chain or baseline) and a weight", "restore the file")
            members.append(Member(inside, open_labeller(folder / inside), float(weight)))
        if any(member.model.tags != task.get("labels") for member in members):
            raise UserError(f"{path} and the models beside it have other labels", "the labels of their config.json", "restore the files")
        segmenter = cls([Member(".", Chain.open(folder / SEGMENTER))], False) if cuts else None
        if segmenter is not None and segmenter.scheme != "segments":
            raise UserError(f"{folder / SEGMENTER} finds no words", "a model of the labels B, M, E and S", "restore the directory")
        return cls(members, spaced, segmenter, {key: value for key, value in task.items() if key not in _OWN})


def put_together(atoms: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[tuple[int, int]]:
    """Put atoms (start, end) together to words by their labels: a word begins at B and S, and at the first."""
    words: list[tuple[int, int]] = []
    for (start, end), label in zip(atoms, labels, strict=True):
        if label in ("B", "S") or not words:
            words.append((start, end))
        else:
            words[-1] = (words[-1][0], end)
    return words


def is_tagger(folder: Path) -> bool:
    """Tell whether a directory is opened as a tagger: by its task.json, or by its config.json."""
    if (folder / TASK).is_file():
        task = read_json(folder / TASK, 64 << 20)
        return isinstance(task, dict) and task.get("task") == "tag"
    try:
        config = read_config(folder)
    except UserError:  # whoever opens it says what is wrong
        return False
    return config.get("model_type") == "chain" or _has_head(config)


def open_labeller(folder: Path) -> Labeller:
    """Open one model that scores labels of tokens, by its model_type; of a hidden Markov model, what each token says by itself.

    Raises UserError when it has no head for that.
    """
    config = read_config(folder)
    match config.get("model_type"):
        case "chain":
            return Chain.open(folder)
        case "hmm_tagger":
            return Tagger.open(folder)
        case "bert" | "roberta" | "albert" | "rnn" | "lstm" | "gru" if _has_head(config):
            from myna.models.token_head import NeuralTagger

            return NeuralTagger.open(folder)
        case other:
            raise UserError(f"{folder} holds a {shown(other)} that labels no words", "a tagger",
                            f"make one of it: myna tune {folder} DATA --task tag --out DIR")


def _has_head(config: Mapping[str, Any]) -> bool:
    return any("ForTokenClassification" in str(name) for name in config.get("architectures") or ())
