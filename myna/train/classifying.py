"""Train a neural classifier by the one loop: on a base that has learned to read, or from nothing.

From nothing, a small GRU that reads in both directions: of characters where text has no spaces, else of pieces of words. Rows of one
batch have about one length, so that little is padded; which rows a step reads depends on the seed and the step alone. The number of
steps is that for which timed ones fit the minutes left, at most `--max-epochs` passes; the weights kept are those that were best on the
validation part.

    made = train_neural("new", material, Path("my-classifier"), TuneOptions(minutes=5), TrainOptions(), lambda: 200.0, {})

N texts · K labels
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
from myna.models.calibration import mean_loss
from myna.models.families import family_of
from myna.models.fetched import resolve_model
from myna.models.heads import Neural, TextClassifier, encode_texts, pad_rows
from myna.models.pretrained import load_model, read_config
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import learn_tokenizer
from myna.train.loop import Batch, Hooks, Run, train
from myna.train.options import PlanOptions, TrainOptions, TuneOptions
from myna.train.plan import Plan, Request, check_memory, check_options, predict_memory, time_steps
from myna.train.rehearsal import Making, rehearse

Array = npt.NDArray[Any]

_LEAST_TEXTS, _LEAST_SECONDS = 500, 45.0  # to train a model from nothing on, and for it
_RESERVED = 6.0  # seconds for measuring, the report and the files at the end
_ROWS, _BUCKET = 32, 50  # texts of a step; steps whose texts are sorted by length together
_VOCABULARY, _LEAST_CHARACTERS = 8192, 3  # of a tokenizer made here, and how often a character must stand to be one of its tokens
_WIDTH, _DROPOUT = 96, 0.5  # of the GRU in each direction; of its states: half, as usual for small models on little text
_LENGTHS = (64, 128, 256, 512)
_FITTING = 0.95  # share of the texts that fit the length chosen
_RATES = {"new": 3e-3, "encoder": 1e-4, "recurrent": 1e-3}  # AdamW's peak rates: usual values, not swept
_LEAST_TRAINING = 5.0  # seconds, below which training makes no sense


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

    left: the seconds left for all that comes; None where the steps are given. kept: what plan.json holds beside the plan.
    Raises UserError when the base cannot be used, or time or memory will not do.
    """
    saved = read_json(out / "plan.json") if (out / "plan.json").is_file() else None
    if saved is not None and saved.get("sources") != kept.get("sources"):
        raise UserError("the texts are others than this run began with", "the same files", "restore them, or begin again in another --out")
    if base == "new" and saved is None:
        if len(material.texts) < _LEAST_TEXTS and options.steps is None:
            return f"no neural model: {len(material.texts):,} texts, and one from nothing wants {_LEAST_TEXTS}"
        if left is not None and left() < _LEAST_SECONDS + _RESERVED:
            return f"no neural model: {max(0.0, left()):.0f} s are left, and one from nothing wants {_LEAST_SECONDS + _RESERVED:.0f}"
    maker = _Maker(base, material, options)
    rows, cut = encode_texts(maker.tokenizer, material.texts, maker.length)
    if cut:
        say(f"  {cut:,} of {len(rows):,} texts have more than {maker.length} tokens: their beginning is read")
    reader = Reader(rows, material.targets, material.several, options.seed)
    plan = Plan(**{field.name: saved[field.name] for field in dataclasses.fields(Plan)}) if saved is not None else None
    if plan is None:
        plan = _plan(maker, reader, material, options, train_options, left)
        write_json(out / "plan.json", {**dataclasses.asdict(plan), **kept})
    shape, passes = plan.model, plan.steps * plan.batch_rows / len(rows)
    say(f"  {human(plan.parameters)} parameters: {maker.kind}, {shape['num_hidden_layers']} layers of {shape['hidden_size']}")
    say(f"  {plan.steps:,} steps of {plan.batch_rows} texts ({passes:.1f} passes), about {plan.predicted['seconds']:.0f} s")
    making = Making(maker.make, lambda model, folder: Neural(model, maker.tokenizer, maker.length).save(folder),
                    lambda folder: Neural.open(folder).model)
    if not (out / "log.jsonl").is_file():
        rehearse(plan, maker.tokenizer, reader.read, out / ".rehearsal",
                 lambda model, tokenizer: Neural(model, tokenizer, maker.length).score(material.valid_texts[:2]), making)
    made = Neural(maker.make(), maker.tokenizer, maker.length)

    def validate() -> dict[str, float]:
        scores = made.score(material.valid_texts)
        return {"loss": mean_loss(scores, material.valid_targets, material.several), "accuracy": _accuracy(scores, material)}

    torch.manual_seed(plan.seed)  # of the dropout: the same whether or not a rehearsal came before; a checkpoint brings its own state
    train(made.model, reader.read, Run(plan.steps, plan.micro_rows, plan.seconds), plan.options(), out, Hooks(validate))
    made.model.requires_grad_(False).eval()
    made.cut = 0
    return made


def _accuracy(scores: Array, material: Material) -> float:
    targets = material.valid_targets
    right = ((scores > 0) == (targets > 0)).all(axis=1) if material.several else targets[np.arange(len(scores)), scores.argmax(axis=1)]
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
            if family not in ("encoder", "rnn", "lstm", "gru"):
                raise UserError(f"{base} holds a {family or 'model of an unknown family'}",
                                "an encoder (minilm) or a recurrent model, or new for one from nothing", "choose another base")
            self.tokenizer = Tokenizer.open(self.folder)
            self.source = "encoder" if family == "encoder" else "recurrent"
        body = self._body()
        self.kind: str = body.config.model_type
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
        model = TextClassifier(self._body(), self.material.labels, self.material.several, 0.1 if self.folder else _DROPOUT,
                               self.options.seed)
        return model.requires_grad_(True).train()


class Reader:
    """The rows of every step: a pure function of the seed and the step. Every text once in a pass, of about one length in a batch."""

    def __init__(self, rows: Sequence[Sequence[int]], targets: Array, several: bool, seed: int) -> None:
        self.rows, self.targets, self.several, self.seed = rows, targets, several, seed
        self.lengths = np.array([len(row) for row in rows])
        self.per_pass = math.ceil(len(rows) / _ROWS)
        self._order: tuple[int, list[Array]] = (-1, [])

    def read(self, step: int) -> Batch:
        """Return the rows of a step."""
        number, place = divmod(step, self.per_pass)
        if self._order[0] != number:
            self._order = (number, self._shuffle(number))
        chosen = self._order[1][place]
        ids, mask = pad_rows([self.rows[at] for at in chosen])
        targets = self.targets[chosen]
        return {"input_ids": ids, "attention_mask": mask,
                "labels": torch.from_numpy(targets if self.several else targets.argmax(axis=1))}

    def _shuffle(self, number: int) -> list[Array]:
        """Draw the order of a pass, sort stretches of it by length, cut them into batches and draw the order of these."""
        generator = np.random.default_rng((self.seed, number))
        order = generator.permutation(len(self.rows))
        batches: list[Array] = []
        for at in range(0, len(order), _ROWS * _BUCKET):
            stretch = order[at : at + _ROWS * _BUCKET]
            stretch = stretch[np.argsort(self.lengths[stretch], kind="stable")]
            batches += [stretch[begin : begin + _ROWS] for begin in range(0, len(stretch), _ROWS)]
        return [batches[place] for place in generator.permutation(len(batches))]

    def middle(self) -> int:
        """Return the step, of the first pass, whose rows have about the mean length."""
        sizes = [int(self.lengths[batch].max()) for batch in self._shuffle(0)]
        return int(np.argmin(np.abs(np.array(sizes) - np.mean(sizes))))

    def largest(self) -> int:
        """Return the step of the first pass whose rows are longest."""
        return int(np.argmax([int(self.lengths[batch].max()) for batch in self._shuffle(0)]))


def _plan(maker: _Maker, reader: Reader, material: Material, options: TuneOptions, train_options: TrainOptions,
          left: Callable[[], float] | None) -> Plan:
    """Time real steps, count their memory and fix their number. Raises UserError, with numbers, when time or memory will not do."""
    check_options(Request(steps=options.steps), PlanOptions(), train_options)
    rate = options.learning_rate or _RATES[maker.source]
    decay = 0.01 if train_options.weight_decay is None else train_options.weight_decay
    settled = dataclasses.replace(train_options, optimizer=train_options.optimizer or "adamw", learning_rate=rate,
                                  embedding_learning_rate=rate, weight_decay=decay)
    model, machine = maker.make(), probe()
    largest, middle = reader.read(reader.largest()), reader.read(reader.middle())
    peak = max(predict_memory(model, largest, _ROWS, settled), peak_memory())
    check_memory(peak - current_memory(), machine.free_memory, "close other programs, or give a smaller --context")
    per_step, per_token = time_steps(model, middle, _ROWS, settled)
    look = per_token * float(reader.lengths.mean()) * len(material.valid_texts)
    looks = settled.validations * look
    most = math.ceil(options.max_epochs * reader.per_pass)
    notes: list[str] = []
    seconds = None
    if options.steps is not None:
        steps = options.steps
    else:
        assert left is not None
        measuring = 2 * look * (1 + material.test / max(1, len(material.valid_texts))) + _RESERVED
        room = left() - measuring - looks
        if room < _LEAST_TRAINING:
            raise UserError(f"{max(0.0, room):.0f} s are left for training after reading and measuring",
                            f"at least {_LEAST_TRAINING:.0f} s", "give more --minutes")
        steps, seconds = min(most, max(1, int(room / per_step))), room + looks
        if steps == most:
            notes.append(f"{options.max_epochs:g} passes over the texts ({most:,} steps) fit the time; more would only memorise them "
                         "(--max-epochs)")
    count = sum(parameter.numel() for parameter in model.parameters())
    return Plan("classifier", dataclasses.asdict(model.body.config), count, maker.length, _ROWS, _ROWS, steps, "float32", False,
                torch.get_num_threads(), options.seed, int(steps * _ROWS * reader.lengths.mean()), seconds,
                {"seconds": steps * per_step + looks, "seconds_per_step": per_step, "peak_bytes": float(peak)},
                dataclasses.asdict(machine), notes, dataclasses.asdict(settled))
