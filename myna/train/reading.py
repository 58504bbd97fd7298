"""Train a reader of spans on an encoder (see `myna.models.span_head` and `myna.train.examples`).

    reader = train_reader("minilm", excerpts, valid, 400, Path("my-reader"), TuneOptions(minutes=5), TrainOptions(), lambda: 200.0, {})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from myna import machine
from myna.console import say
from myna.data.questions import Excerpt
from myna.errors import UserError
from myna.models.families import family_of
from myna.models.fetched import resolve_model
from myna.models.pretrained import load_model, read_config
from myna.models.span_head import Encoded, SpanModel, Spans
from myna.tokenizer.tokenizer import Tokenizer
from myna.train.examples import Reader, Trainee, Work, fit
from myna.train.loop import Batch
from myna.train.options import TrainOptions, TuneOptions

Array = npt.NDArray[Any]

_LENGTH = 256  # tokens of a question and a few sentences: nearly all fit
_RATE = 1e-4  # of AdamW: as for classifiers on an encoder, not swept
_ROWS = 16  # examples of a step: half of the others', for there are few examples and each step counts
_LOOKED_AT = 64  # of the validation part's excerpts, at each look
_FORWARD = 0.4  # of the time of a training step that reading alone takes


def train_reader(base: str, excerpts: Sequence[Excerpt], valid: Sequence[Excerpt], after: int, out: Path, options: TuneOptions,
                 train_options: TrainOptions, left: Callable[[], float] | None, kept: Mapping[str, Any]) -> Spans:
    """Train, or go on from the checkpoint in `out`; returns the reader.

    after: texts that are read when it is trained. left, kept: as `myna.train.examples.fit` takes them. Raises UserError when the base is
    no encoder, or time or memory will not do.
    """
    folder = resolve_model(base)
    config = read_config(folder)
    family = family_of(str(config.get("model_type")))
    trained = any("ForQuestionAnswering" in str(name) for name in config.get("architectures") or ())
    if trained:
        say("  the base reads spans already: training goes on from its head")
    if family != "encoder":
        raise UserError(f"{base} holds a {family or 'model of an unknown family'}", "an encoder (minilm), or new for no reader of spans",
                        "choose another base")
    bfloat16 = machine.probe().bfloat16_pays

    def settle(model: SpanModel) -> SpanModel:
        model.body.compute_dtype = torch.bfloat16 if bfloat16 else torch.float32
        return model

    def make() -> SpanModel:
        model = Spans.open(folder).model if trained else SpanModel(load_model(folder), options.seed)
        return settle(model).requires_grad_(True).train()

    tokenizer = Tokenizer.open(folder)
    length = min(options.context or _LENGTH, make().body.max_length)
    encoder = Spans(make(), tokenizer, length)
    rows, labels = _encode(encoder, excerpts, "train")
    looked, answers = _encode(encoder, valid[:_LOOKED_AT], "valid")
    if not rows or not looked:
        raise UserError(f"{len(rows)} excerpts to learn spans from, {len(looked)} to validate on", "some of each", "give more questions")
    say(f"  {len(rows):,} excerpts, {sum(label != (0, 0) for label in labels):,} of them with an answer")

    def collate(chosen: Array) -> Batch:
        return {**encoder.collate([rows[at] for at in chosen]), "labels": torch.tensor([labels[at] for at in chosen])}

    def validate(model: SpanModel) -> dict[str, float]:
        total = 0.0
        with torch.no_grad():
            model.eval()
            for at in range(0, len(looked), _ROWS):
                batch = {**encoder.collate(looked[at:at + _ROWS]), "labels": torch.tensor(answers[at:at + _ROWS])}
                total += sum(float(loss) for loss, _ in model.loss(batch)[0].values())
        return {"loss": total / len(looked)}

    def put_to_use(model: SpanModel) -> Spans:
        return Spans(model, tokenizer, length)

    reader = Reader([len(row.ids) for row in rows], collate, options.seed, _ROWS)
    mean = float(reader.lengths.mean())
    work = Work(validate, lambda model: put_to_use(model).read(excerpts[0].question, [excerpts[0].text]), _FORWARD * mean * len(looked),
                lambda per_token: _FORWARD * per_token * mean * after)
    trainee = Trainee("reader of spans", make, lambda model, place: put_to_use(model).save(place),
                      lambda place: settle(Spans.open(place).model), tokenizer, length, _RATE)
    model = fit(trainee, reader, work, out, options, train_options, left, kept)
    model.body.compute_dtype = torch.float32  # as it will be opened
    return put_to_use(model)


def _encode(encoder: Spans, excerpts: Sequence[Excerpt], what: str) -> tuple[list[Encoded], list[tuple[int, int]]]:
    """Turn excerpts into rows and the tokens where their answers begin and end; those that do not fit are counted and left out."""
    rows: list[Encoded] = []
    labels: list[tuple[int, int]] = []
    lost = 0
    for excerpt in excerpts:
        try:
            row = encoder.encode(excerpt.question, excerpt.text)
        except UserError:  # the question fills the row
            lost += 1
            continue
        label = (0, 0)
        if excerpt.start >= 0:
            inside = [number for number, (start, end) in enumerate(row.places) if start < excerpt.end and end > excerpt.start]
            if not inside or row.places[inside[-1]][1] < excerpt.end:
                lost += 1
                continue
            label = (row.first + inside[0], row.first + inside[-1])
        rows.append(row)
        labels.append(label)
    if lost:
        say(f"  {what}: {lost:,} of {len(excerpts):,} excerpts do not fit {encoder.max_length} tokens and are left out")
    return rows, labels
