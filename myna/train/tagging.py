"""Train a neural tagger (see `myna.train.examples`): on a base that has learned to read, or from nothing.

From nothing, a small GRU that reads in both directions: characters where text has no spaces, else pieces of words; before each word
stands a space, so that it knows where words begin.

    made = train_neural_tagger("new", material, Path("my-tagger"), TuneOptions(minutes=5), TrainOptions(), lambda: 200.0, {})

N sentences · W words
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from myna.console import say
from myna.errors import UserError
from myna.models.families import family_of
from myna.models.fetched import resolve_model
from myna.models.pretrained import load_model, read_config
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.models.token_head import NO_LABEL, NeuralTagger, Pieces, TokenClassifier, WordEncoder, lay_out
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import learn_tokenizer
from myna.train.examples import RESERVED, Reader, Trainee, Work, fit, has_begun
from myna.train.loop import Batch
from myna.train.options import EPOCHS, NEW_EPOCHS, TrainOptions, TuneOptions

Array = npt.NDArray[Any]

_LEAST_SENTENCES, _LEAST_SECONDS = 500, 45.0  # to train a model from nothing on, and for it
_VOCABULARY, _LEAST_CHARACTERS = 8192, 2  # of a tokenizer made here, and how often a character must stand to be one of its tokens
_WIDTH, _DROPOUT = 128, 0.5  # of the GRU in each direction; of its states: half, as usual for small models on little text
_LENGTHS = (64, 128, 256, 512)
_FITTING = 0.98  # share of the sentences that fit the length chosen; longer ones are read in parts
_RATES = {"new": 3e-3, "encoder": 1e-4, "recurrent": 1e-3}  # AdamW's peak rates: usual values, not swept


@dataclass(frozen=True)
class TagMaterial:
    """What is learned from, and what it is judged by: sentences of tokens with the label of each."""

    sentences: Sequence[Sequence[str]]
    labels: Sequence[Sequence[str]]
    valid_sentences: Sequence[Sequence[str]]
    valid_labels: Sequence[Sequence[str]]
    tags: Sequence[str]
    tokens: str
    "'words' or 'atoms'."
    test: int
    "How many sentences are measured at the end."


def train_neural_tagger(base: str, material: TagMaterial, out: Path, options: TuneOptions, train_options: TrainOptions,
                        left: Callable[[], float] | None, kept: Mapping[str, Any]) -> NeuralTagger | str:
    """Train, or go on from the checkpoint in `out`; returns the model, or why none was trained.

    left, kept: as `myna.train.examples.fit` takes them. Raises UserError when the base cannot be used, or time or memory will not do.
    """
    if base == "new" and not has_begun(out):
        if len(material.sentences) < _LEAST_SENTENCES and options.steps is None:
            return f"no neural model: {len(material.sentences):,} sentences, and one from nothing wants {_LEAST_SENTENCES}"
        if left is not None and left() < _LEAST_SECONDS + RESERVED:
            return f"no neural model: {max(0.0, left()):.0f} s are left, and one from nothing wants {_LEAST_SECONDS + RESERVED:.0f}"
    maker = _Maker(base, material, options)
    rows, labels = _encode(maker, material)
    targets = [np.array(row, np.int64) for row in labels]

    def collate(chosen: Array) -> Batch:
        batch = lay_out([rows[at] for at in chosen])
        table = np.full(tuple(batch["first"].shape), NO_LABEL, np.int64)
        for row, at in zip(table, chosen, strict=True):
            row[: len(targets[at])] = targets[at]
        return {**batch, "labels": torch.from_numpy(table)}

    def put_to_use(model: TokenClassifier) -> NeuralTagger:
        return NeuralTagger(model, maker.tokenizer, maker.length, material.tokens)

    def validate(model: TokenClassifier) -> dict[str, float]:
        return _judge(put_to_use(model), material)

    reader = Reader([len(row.ids) for row in rows], collate, options.seed)
    looked = float(reader.lengths.mean()) * len(material.valid_sentences)
    work = Work(validate, lambda model: put_to_use(model).emit(material.valid_sentences[:2]), looked,
                lambda per_token: 2 * per_token * looked * (1 + material.test / max(1, len(material.valid_sentences))))
    trainee = Trainee(f"{maker.kind} tagger", maker.make, lambda model, folder: put_to_use(model).save(folder),
                      lambda folder: NeuralTagger.open(folder).model, maker.tokenizer, maker.length, _RATES[maker.source],
                      NEW_EPOCHS if base == "new" else EPOCHS)
    return put_to_use(fit(trainee, reader, work, out, options, train_options, left, kept))


def _encode(maker: _Maker, material: TagMaterial) -> tuple[list[Pieces], list[list[int]]]:
    """Turn sentences into rows, long ones into several, with the numbers of their labels."""
    number = {tag: at for at, tag in enumerate(material.tags)}
    rows: list[Pieces] = []
    labels: list[list[int]] = []
    divided = 0
    for words, tags in zip(material.sentences, material.labels, strict=True):
        parts = maker.words.encode(words)
        divided += len(parts) > 1
        at = 0
        for part in parts:
            rows.append(part)
            labels.append([number[tag] for tag in tags[at : at + len(part.first)]])
            at += len(part.first)
    if divided:
        say(f"  {divided:,} of {len(material.sentences):,} sentences have more than {maker.length} pieces and are read in parts")
    return rows, labels


def _judge(tagger: NeuralTagger, material: TagMaterial) -> dict[str, float]:
    """Return the loss in nats a word, and the share of labels that are right, of the validation part."""
    number = {tag: at for at, tag in enumerate(tagger.tags)}
    loss = right = total = 0.0
    for table, tags in zip(tagger.emit(material.valid_sentences), material.valid_labels, strict=True):
        known = [(at, number[tag]) for at, tag in enumerate(tags) if tag in number]
        rows, columns = [at for at, _ in known], [column for _, column in known]
        loss -= float(table[rows, columns].sum())
        right += float((table.argmax(axis=1)[rows] == columns).sum())
        total += len(tags)
    return {"loss": loss / max(1.0, total), "accuracy": right / max(1.0, total)}


class _Maker:
    """Makes the model to be trained, the same each time."""

    def __init__(self, base: str, material: TagMaterial, options: TuneOptions) -> None:
        self.material, self.options = material, options
        if base == "new":
            glue = " " if material.tokens == "words" else ""
            self.tokenizer = learn_tokenizer([glue.join(words) for words in material.sentences], _VOCABULARY, _LEAST_CHARACTERS)
            self.source, self.folder = "new", None
        else:
            self.folder = resolve_model(base)
            family = family_of(str(read_config(self.folder).get("model_type")))
            if family not in ("encoder", "rnn", "lstm", "gru"):
                raise UserError(f"{base} holds a {family or 'model of an unknown family'}",
                                "an encoder (minilm) or a recurrent model, or new for one from nothing", "choose another base")
            self.tokenizer = Tokenizer.open(self.folder)
            self.source = "encoder" if family == "encoder" else "recurrent"
        body = self._body()
        self.kind: str = body.config.model_type
        longest = getattr(body, "max_length", None) or _LENGTHS[-1]
        whole = WordEncoder(self.tokenizer, 1 << 30, material.tokens == "words")
        lengths = sorted(len(whole.encode(words)[0].ids) for words in list(material.sentences)[:2000])
        wanted = lengths[math.ceil(_FITTING * len(lengths)) - 1]
        chosen = next((length for length in _LENGTHS if length >= wanted), _LENGTHS[-1])
        self.length = min(longest, options.context or chosen)
        self.words = WordEncoder(self.tokenizer, self.length, material.tokens == "words")

    def _body(self) -> Any:
        if self.folder is not None:
            return load_model(self.folder)
        return Recurrent(RecurrentConfig("gru", self.tokenizer.vocab_size, _WIDTH, 1, 2 * _WIDTH, dropout=_DROPOUT, bidirectional=True),
                         self.options.seed)

    def make(self) -> TokenClassifier:
        """Make the model, ready to be trained."""
        model = TokenClassifier(self._body(), self.material.tags, 0.1 if self.folder else _DROPOUT, self.options.seed)
        return model.requires_grad_(True).train()
