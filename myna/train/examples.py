"""Train on examples that are rows of their own, by the one loop: what classifiers, taggers, readers and translators have in common.

Rows of one batch have about one length, so that little is padded; which rows a step reads depends on the seed and the step alone. The
number of steps is that for which timed ones fit the seconds left, at most `--max-epochs` passes; the weights kept are those that were
best on the validation part. Plan, rehearsal, checkpoints and resuming are those of every training.

    reader = Reader(lengths, collate, seed=0)
    model = fit(Trainee("gru classifier", make, save, load, tokenizer, 128, 3e-3), reader, Work(validate, try_out), out, options,
                TrainOptions(), lambda: 200.0, {})

N examples
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from myna.console import human, say
from myna.errors import UserError
from myna.files import read_json, write_json
from myna.machine import current_memory, peak_memory, probe
from myna.tokenizer.tokenizer import Tokenizer
from myna.train.loop import Batch, Hooks, Run, train
from myna.train.options import EPOCHS, PlanOptions, TrainOptions, TuneOptions
from myna.train.plan import Plan, Request, check_memory, check_options, predict_memory, time_steps
from myna.train.rehearsal import Making, rehearse

Array = npt.NDArray[Any]

RESERVED = 6.0  # seconds for measuring, the report and the files at the end
ROWS, _BUCKET = 32, 50  # examples of a step; steps whose examples are sorted by length together
_LEAST_TRAINING = 5.0  # seconds, below which training makes no sense


@dataclass(frozen=True)
class Trainee:
    """What is trained: how it is made, the same each time, written and opened again."""

    kind: str
    "What a line calls it."
    make: Callable[[], Any]
    "Makes a model (`Trainable`), ready to be trained."
    save: Callable[[Any, Path], None]
    "Writes a model with its tokenizer."
    open: Callable[[Path], Any]
    tokenizer: Tokenizer
    length: int
    "Tokens of a row at most."
    rate: float
    "Peak learning rate of AdamW where none is given."
    epochs: float = EPOCHS
    "Passes over the examples at most where none are given."


@dataclass(frozen=True)
class Work:
    """What is done with the model besides training, and what it costs."""

    validate: Callable[[Any], dict[str, float]]
    "Gives the validation part's loss and whatever else is to be seen on the curve."
    try_out: Callable[[Any], object]
    "Puts a model to use once, in the rehearsal."
    look_tokens: float = 0.0
    "Tokens that `validate` reads."
    after: Callable[[float], float] = lambda per_token: 0.0
    "Seconds needed after training, given those of a token in a training step."


class Reader:
    """The examples of every step: a pure function of the seed and the step. In a pass every example comes once."""

    def __init__(self, lengths: Sequence[int] | Array, collate: Callable[[Array], Batch], seed: int, rows: int = ROWS) -> None:
        """Take the length (N) of every example and what makes a batch of the numbers of some."""
        self.lengths, self.collate, self.seed, self.rows = np.asarray(lengths), collate, seed, rows
        self.per_pass = math.ceil(len(self.lengths) / rows)
        self._order: tuple[int, list[Array]] = (-1, [])

    def read(self, step: int) -> Batch:
        """Return the rows of a step."""
        number, place = divmod(step, self.per_pass)
        if self._order[0] != number:
            self._order = (number, self._shuffle(number))
        return self.collate(self._order[1][place])

    def _shuffle(self, number: int) -> list[Array]:
        """Draw the order of a pass, sort stretches of it by length, cut them into batches and draw the order of these."""
        generator = np.random.default_rng((self.seed, number))
        order = generator.permutation(len(self.lengths))
        batches: list[Array] = []
        for at in range(0, len(order), self.rows * _BUCKET):
            stretch = order[at : at + self.rows * _BUCKET]
            stretch = stretch[np.argsort(self.lengths[stretch], kind="stable")]
            batches += [stretch[begin : begin + self.rows] for begin in range(0, len(stretch), self.rows)]
        return [batches[place] for place in generator.permutation(len(batches))]

    def middle(self) -> int:
        """Return the step, of the first pass, whose rows have about the mean length."""
        sizes = [int(self.lengths[batch].max()) for batch in self._shuffle(0)]
        return int(np.argmin(np.abs(np.array(sizes) - np.mean(sizes))))

    def largest(self) -> int:
        """Return the step of the first pass whose rows are longest."""
        return int(np.argmax([int(self.lengths[batch].max()) for batch in self._shuffle(0)]))


def fit(trainee: Trainee, reader: Reader, work: Work, out: Path, options: TuneOptions, train_options: TrainOptions,
        left: Callable[[], float] | None, kept: Mapping[str, Any]) -> Any:
    """Train, or go on from the checkpoint in `out`; returns the model as it was best, no longer trained.

    left: the seconds left for all that comes; None where the steps are given. kept: what plan.json holds beside the plan; "sources"
    in it names the data, and a run goes on with the same data only. Raises UserError where time, memory or the data will not do.
    """
    plan = _saved_plan(out, kept)
    if plan is None:
        plan = _plan(trainee, reader, work, options, train_options, left)
        write_json(out / "plan.json", {**dataclasses.asdict(plan), **kept})
    shape, passes = plan.model, plan.steps * plan.batch_rows / len(reader.lengths)
    say(f"  {human(plan.parameters)} parameters: {trainee.kind}, {shape['num_hidden_layers']} layers of {shape['hidden_size']}")
    say(f"  {plan.steps:,} steps of {plan.batch_rows} texts ({passes:.1f} passes), about {plan.predicted['seconds']:.0f} s")
    if not (out / "log.jsonl").is_file():
        making = Making(trainee.make, trainee.save, trainee.open)
        rehearse(plan, trainee.tokenizer, reader.read, out / ".rehearsal", lambda model, _: work.try_out(model), making)
    model = trainee.make()
    torch.manual_seed(plan.seed)  # of the dropout: the same whether or not a rehearsal came before; a checkpoint brings its own state
    train(model, reader.read, Run(plan.steps, plan.micro_rows, plan.seconds), plan.options(), out, Hooks(lambda: work.validate(model)))
    return model.requires_grad_(False).eval()


def has_begun(out: Path) -> bool:
    """Tell whether a training in `out` was planned before."""
    return (out / "plan.json").is_file()


def _saved_plan(out: Path, kept: Mapping[str, Any]) -> Plan | None:
    if not has_begun(out):
        return None
    saved = read_json(out / "plan.json")
    if saved.get("sources") != kept.get("sources"):
        raise UserError("the texts are others than this run began with", "the same files", "restore them, or begin again in another --out")
    return Plan(**{field.name: saved[field.name] for field in dataclasses.fields(Plan)})


def _plan(trainee: Trainee, reader: Reader, work: Work, options: TuneOptions, train_options: TrainOptions,
          left: Callable[[], float] | None) -> Plan:
    """Time real steps, count their memory and fix their number. Raises UserError, with numbers, when time or memory will not do."""
    check_options(Request(steps=options.steps), PlanOptions(), train_options)
    rate = options.learning_rate or trainee.rate
    decay = 0.01 if train_options.weight_decay is None else train_options.weight_decay
    settled = dataclasses.replace(train_options, optimizer=train_options.optimizer or "adamw", learning_rate=rate,
                                  embedding_learning_rate=rate, weight_decay=decay)
    model, machine = trainee.make(), probe()
    largest, middle = reader.read(reader.largest()), reader.read(reader.middle())
    peak = max(predict_memory(model, largest, reader.rows, settled), peak_memory())
    check_memory(peak - current_memory(), machine.free_memory, "close other programs, or give a smaller --context")
    per_step, per_token = time_steps(model, middle, reader.rows, settled)
    looks = settled.validations * per_token * work.look_tokens
    epochs = options.max_epochs or trainee.epochs
    most = math.ceil(epochs * reader.per_pass)
    notes: list[str] = []
    seconds = None
    if options.steps is not None:
        steps = options.steps
    else:
        assert left is not None
        room = left() - work.after(per_token) - RESERVED - looks
        if room < _LEAST_TRAINING:
            raise UserError(f"{max(0.0, room):.0f} s are left for training after reading and measuring",
                            f"at least {_LEAST_TRAINING:.0f} s", "give more --minutes")
        steps, seconds = min(most, max(1, int(room / per_step))), room + looks
        if steps == most:
            notes.append(f"{epochs:g} passes over the texts ({most:,} steps) fit the time; more would only memorise them "
                         "(--max-epochs)")
    count = sum(parameter.numel() for parameter in model.parameters())
    config = getattr(model, "body", model).config
    return Plan(trainee.kind, dataclasses.asdict(config), count, trainee.length, reader.rows, reader.rows, steps, "float32", False,
                torch.get_num_threads(), options.seed, int(steps * reader.rows * reader.lengths.mean()), seconds,
                {"seconds": steps * per_step + looks, "seconds_per_step": per_step, "peak_bytes": float(peak)},
                dataclasses.asdict(machine), notes, dataclasses.asdict(settled))
