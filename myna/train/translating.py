"""Train an encoder-decoder on pairs of ids (see `myna.train.examples`): from nothing, or going on with one.

From nothing: a small Transformer in T5's form or a recurrent network with attention, with one vocabulary for both languages. What is
learned is smoothed: a tenth of the probability is asked for on all tokens alike (Szegedy et al. 2016, section 7; 0.1 as in Vaswani et
al. 2017), without which a small model on little text is soon too sure of itself.

    model = train_translator(new_model("t5", vocab_size=4096, length=256, seed=0), coder, material, Path("out"), options, TrainOptions(),
                             lambda: 200.0, {}, save)

N pairs · B rows · S source ids · T target ids · V vocabulary
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myna.data.coding import Coder
from myna.models.attention_rnn import AttentionRnn, AttentionRnnConfig
from myna.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from myna.models.pretrained import load_model, save_model
from myna.models.source import cut_alike
from myna.models.steps import pad_rows
from myna.train.examples import Reader, Trainee, Work, fit
from myna.train.loop import Batch
from myna.train.options import TrainOptions, TuneOptions

Array = npt.NDArray[Any]
Kind = Literal["t5", "attention_rnn"]

_SMOOTHING = 0.1
_ROWS = 64  # pairs of a step: short ones fill few places
_MEASURED = 512  # pairs of the validation part whose loss is looked at during training
_EPOCHS = 100.0  # over the pairs at most, unless told otherwise: a model from nothing needs many of few pairs
_RATES = {"t5": 0.02, "attention_rnn": 3e-3}  # of Muon for the Transformer's matrices, of AdamW for the network's
_WIDTH, _DROPOUT = {"t5": 128, "attention_rnn": 192}, 0.2


@dataclass(frozen=True)
class Material:
    """Sources and targets as ids, each with the separator at its end."""

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    valid_sources: Sequence[Sequence[int]]
    valid_targets: Sequence[Sequence[int]]
    seconds_after: float
    "Needed after training: to choose, measure and write."


class Smoothed(nn.Module):
    """An encoder-decoder (`Trainable`) whose loss asks for a share of the probability on all tokens alike."""

    def __init__(self, body: EncoderDecoder | AttentionRnn) -> None:
        super().__init__()
        self.body = body

    def table_names(self) -> set[str]:
        """Name the parameters that are looked up by id, position or distance, or score ids."""
        return {f"body.{name}" for name in self.body.table_names()}

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, int]:
        """Count the target ids that are predicted."""
        return self.body.counts(batch)

    def loss(self, batch: Mapping[str, Tensor], carry: tuple[Tensor, ...] | None = None,
             ) -> tuple[dict[str, tuple[Tensor, float]], tuple[Tensor, ...] | None]:
        """Cross-entropy of the target's ids in nats, summed, with smoothing."""
        total = torch.zeros(())
        for ids, mask, inputs, labels in cut_alike(batch):
            read = self.body.encode(ids, mask)
            hidden = self.body.decode(inputs, *read)[0] if isinstance(self.body, AttentionRnn) else self.body.decode(inputs, *read)
            wanted = labels != -100
            total = total + F.cross_entropy(self.body.logits(hidden[wanted]), labels[wanted], reduction="sum", label_smoothing=_SMOOTHING)
        return {"target_token": (total, 1.0)}, carry


def new_model(kind: Kind, vocab_size: int, length: int, seed: int, separator_id: int) -> EncoderDecoder | AttentionRnn:
    """Make a small encoder-decoder from nothing."""
    width = _WIDTH[kind]
    if kind == "attention_rnn":
        return AttentionRnn(AttentionRnnConfig(vocab_size, width, max_position_embeddings=length, dropout=_DROPOUT,
                                               eos_token_id=separator_id), seed)
    return EncoderDecoder(EncoderDecoderConfig(vocab_size, width, 2, width // 32, head_dim=32, max_position_embeddings=length,
                                               tie_word_embeddings=True, dropout=_DROPOUT, eos_token_id=separator_id), seed)


def train_translator(make: Callable[[], EncoderDecoder | AttentionRnn], coder: Coder, material: Material, out: Path, options: TuneOptions,
                     train_options: TrainOptions, left: Callable[[], float] | None, kept: Mapping[str, Any],
                     try_out: Callable[[EncoderDecoder | AttentionRnn], object]) -> EncoderDecoder | AttentionRnn:
    """Train, or go on from the checkpoint in `out`; returns the model as it was best, no longer trained.

    make: makes the model, the same each time. try_out: puts it to use once, in the rehearsal. left, kept: as `myna.train.examples.fit`.
    """
    kind: str = make().config.model_type
    start = int(getattr(make().config, "decoder_start_token_id", coder.separator_id))
    recurrent = kind == "attention_rnn"
    train_options = dataclasses.replace(train_options, optimizer=train_options.optimizer or ("adamw" if recurrent else "muon"))

    def collate(chosen: Array) -> Batch:
        return _collate([material.sources[at] for at in chosen], [material.targets[at] for at in chosen], start)

    def validate(model: Smoothed) -> dict[str, float]:
        total = count = 0.0
        with torch.inference_mode():
            for at in range(0, min(_MEASURED, len(material.valid_sources)), _ROWS):
                batch = _collate(material.valid_sources[at : at + _ROWS], material.valid_targets[at : at + _ROWS], start)
                losses, _ = model.body.loss(batch)
                total += float(losses["target_token"][0])
                count += model.counts(batch)["target_token"]
        return {"loss": total / max(1.0, count)}

    def save(model: Smoothed, folder: Path) -> None:
        save_model(model.body, folder, coder.tokenizer.pad_id)
        coder.tokenizer.save(folder, coder.length)

    lengths = [len(source) + len(target) for source, target in zip(material.sources, material.targets, strict=True)]
    reader = Reader(lengths, collate, options.seed, _ROWS)
    looked = sum(map(len, [*material.valid_sources[:_MEASURED], *material.valid_targets[:_MEASURED]]))
    work = Work(validate, lambda model: try_out(model.body), float(looked), lambda per_token: material.seconds_after)
    trainee = Trainee(f"{kind} translator", lambda: Smoothed(make()).requires_grad_(True).train(), save,
                      lambda folder: Smoothed(load_model(folder)), coder.tokenizer, coder.length,
                      _RATES["attention_rnn" if recurrent else "t5"], _EPOCHS)
    trained: Smoothed = fit(trainee, reader, work, out, options, train_options, left, kept)
    return trained.body


def _collate(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], start: int) -> Batch:
    """Lay pairs side by side: the target's ids are predicted one by one, after `start` and those before."""
    ids, mask = pad_rows(sources)
    labels, seen = pad_rows(targets)
    inputs = torch.cat((torch.full((len(labels), 1), start), labels[:, :-1]), dim=1)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": inputs, "labels": labels.masked_fill(~seen, -100)}
