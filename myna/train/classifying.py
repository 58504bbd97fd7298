"""Train a neural classifier (see `myna.train.examples`): on a base that has learned to read, or from nothing.

Of an encoder or a recurrent base all weights are trained; of a decoder what `--method` says, by itself LoRA, merged in the end. From
nothing, a small GRU that reads in both directions: of characters where text has no spaces, else of pieces of words.

    made = train_neural("new", material, Path("my-classifier"), TuneOptions(minutes=5), TrainOptions(), lambda: 200.0, {})

N texts · K labels
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
from safetensors.torch import load_file, save

from myna.console import say
from myna.errors import UserError
from myna.files import write_atomic
from myna.models.calibration import mean_loss
from myna.models.families import family_of
from myna.models.fetched import resolve_model
from myna.models.heads import Neural, TextClassifier, encode_texts, pad_rows
from myna.models.pretrained import load_model, read_config
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import learn_tokenizer
from myna.train.examples import RESERVED, ROWS, Reader, Trainee, Work, fit, has_begun
from myna.train.loop import Batch
from myna.train.lora import add_lora, load_adapter, merge_lora, save_adapter
from myna.train.options import EPOCHS, NEW_EPOCHS, TrainOptions, TuneOptions
from myna.train.tuning import RATES as METHOD_RATES

Array = npt.NDArray[Any]

_LEAST_TEXTS, _LEAST_SECONDS = 500, 45.0  # to train a model from nothing on, and for it
_VOCABULARY, _LEAST_CHARACTERS = 8192, 3  # of a tokenizer made here, and how often a character must stand to be one of its tokens
_WIDTH, _DROPOUT = 96, 0.5  # of the GRU in each direction; of its states: half, as usual for small models on little text
_LENGTHS = (64, 128, 256, 512)
_FITTING = 0.95  # share of the texts that fit the length chosen
_RATES = {"new": 3e-3, "encoder": 1e-4, "recurrent": 1e-3, **METHOD_RATES}  # AdamW's peak rates: usual values, not swept
_LOOKED_AT = 256  # validation texts at each look in the training of a large base, evenly over all: own choice
_SLOWER = 1.5  # times as long as the timed step that measuring may take on a machine that other work shares
_HEAD = "head.safetensors"  # of the rehearsal
_LARGE, _FEW_ROWS = 50_000_000, 8  # weights, from which a step has few texts: one of 32 would take minutes on a processor


@dataclass(frozen=True)
class Material:
    """What is learned from, and what it is judged by. Targets are (N, K) of 0 and 1."""

    texts: Sequence[str]
    targets: Array
    valid_texts: Sequence[str]
    valid_targets: Array
    labels: Sequence[str]
    several: bool
    test: int
    "How many texts are measured at the end."


def train_neural(base: str, material: Material, out: Path, options: TuneOptions, train_options: TrainOptions,
                 left: Callable[[], float] | None, kept: Mapping[str, Any]) -> Neural | str:
    """Train, or go on from the checkpoint in `out`; returns the model, or why none was trained.

    left, kept: as `myna.train.examples.fit` takes them. Raises UserError when the base cannot be used, or time or memory will not do.
    """
    if base == "new" and not has_begun(out):
        if len(material.texts) < _LEAST_TEXTS and options.steps is None:
            return f"no neural model: {len(material.texts):,} texts, and one from nothing wants {_LEAST_TEXTS}"
        if left is not None and left() < _LEAST_SECONDS + RESERVED:
            return f"no neural model: {max(0.0, left()):.0f} s are left, and one from nothing wants {_LEAST_SECONDS + RESERVED:.0f}"
    maker = _Maker(base, material, options)
    rows, cut = encode_texts(maker.tokenizer, material.texts, maker.length)
    if cut:
        say(f"  {cut:,} of {len(rows):,} texts have more than {maker.length} tokens: their beginning is read")

    def collate(chosen: Array) -> Batch:
        ids, mask = pad_rows([rows[at] for at in chosen])
        targets = material.targets[chosen]
        return {"input_ids": ids, "attention_mask": mask,
                "labels": torch.from_numpy(targets if material.several else targets.argmax(axis=1))}

    def put_to_use(model: TextClassifier) -> Neural:
        return Neural(model, maker.tokenizer, maker.length)

    most = len(material.valid_texts) if maker.source in ("new", "recurrent") else _LOOKED_AT
    seen = np.linspace(0, len(material.valid_texts) - 1, min(most, len(material.valid_texts))).astype(int)
    seen_texts, seen_targets = [material.valid_texts[at] for at in seen], material.valid_targets[seen]

    def validate(model: TextClassifier) -> dict[str, float]:
        scores = put_to_use(model).score(seen_texts)
        return {"loss": mean_loss(scores, seen_targets, material.several), "accuracy": _accuracy(scores, seen_targets, material.several)}

    reader = Reader([len(row) for row in rows], collate, options.seed, maker.rows)
    length = float(reader.lengths.mean())
    work = Work(validate, lambda model: put_to_use(model).score(material.valid_texts[:2]), length * len(seen_texts),
                lambda per_token: _SLOWER * per_token * length * (len(material.valid_texts) + material.test))
    trainee = Trainee(f"{maker.kind} classifier", maker.make, maker.save, maker.open,
                      maker.tokenizer, maker.length, _RATES[maker.source], NEW_EPOCHS if base == "new" else EPOCHS)
    model = fit(trainee, reader, work, out, options, train_options, left, kept)
    if maker.source == "lora":
        merge_lora(model.body)
    return put_to_use(model)


def _accuracy(scores: Array, targets: Array, several: bool) -> float:
    right = ((scores > 0) == (targets > 0)).all(axis=1) if several else targets[np.arange(len(scores)), scores.argmax(axis=1)]
    return float(right.mean())


class _Maker:
    """Makes the model to be trained, the same each time."""

    def __init__(self, base: str, material: Material, options: TuneOptions) -> None:
        self.base, self.material, self.options = base, material, options
        if base == "new":
            self.tokenizer = learn_tokenizer(list(material.texts), _VOCABULARY, _LEAST_CHARACTERS)
            self.source, self.folder = "new", None
        else:
            self.folder = resolve_model(base)
            family = family_of(str(read_config(self.folder).get("model_type")))
            if family not in ("encoder", "decoder", "rnn", "lstm", "gru"):
                raise UserError(f"{base} holds a {family or 'model of an unknown family'}",
                                "an encoder (minilm), a decoder (smollm2), a recurrent model, or new for one from nothing",
                                "choose another base")
            self.tokenizer = Tokenizer.open(self.folder)
            self.source = {"encoder": "encoder", "decoder": options.method}.get(str(family), "recurrent")
        body = self._body()
        self.kind: str = body.config.model_type
        self.rows = _FEW_ROWS if sum(parameter.numel() for parameter in body.parameters()) > _LARGE else ROWS
        longest = getattr(body, "max_length", None) or _LENGTHS[-1]
        sample = list(material.texts[:2000])
        lengths = sorted(map(len, self.tokenizer.encode_inputs(sample)))
        wanted = lengths[math.ceil(_FITTING * len(lengths)) - 1]
        chosen = next((length for length in _LENGTHS if length >= wanted), _LENGTHS[-1])
        self.length = min(longest, options.context or chosen)

    def _body(self) -> Any:
        if self.folder is not None:
            return load_model(self.folder)
        return Recurrent(RecurrentConfig("gru", self.tokenizer.vocab_size, _WIDTH, 1, 2 * _WIDTH, dropout=_DROPOUT, bidirectional=True),
                         self.options.seed)

    def make(self) -> TextClassifier:
        """Make the model, ready to be trained."""
        return self._head_on(self._body())

    def _head_on(self, body: Any) -> TextClassifier:
        """Put a head on a body, and what is trained of a decoder beside its matrices."""
        model = TextClassifier(body, self.material.labels, self.material.several, 0.1 if self.folder else _DROPOUT, self.options.seed)
        model.requires_grad_(True)
        if self.source in ("lora", "head"):
            body.requires_grad_(False)
            if self.source == "lora":
                alpha = 2.0 * self.options.rank if self.options.alpha is None else self.options.alpha
                add_lora(body, self.options.rank, alpha, self.options.targets, self.options.seed)
            else:
                body.norm.requires_grad_(True)
        return model.train()

    def save(self, model: TextClassifier, folder: Path) -> None:
        """Write a model of the rehearsal: whole, or with LoRA what was trained of it, since merging would change bits."""
        if self.source != "lora":
            Neural(model, self.tokenizer, self.length).save(folder)
            return
        assert self.folder is not None
        save_adapter(model.body, folder, self.folder)
        write_atomic(folder / _HEAD, save({name: part.detach() for name, part in model.out.named_parameters()}))
        self.tokenizer.save(folder, self.length)

    def open(self, folder: Path) -> TextClassifier:
        """Open what `save` wrote."""
        if self.source != "lora":
            return Neural.open(folder).model
        model = TextClassifier(self._body(), self.material.labels, self.material.several, 0.1, self.options.seed)
        load_adapter(model.body, folder, self.folder)
        model.out.load_state_dict(load_file(folder / _HEAD))
        return model.requires_grad_(False).eval()
