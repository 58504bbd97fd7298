"""The one training loop. It knows `Trainable`, a source of batches and two functions it is handed: validate and sample.

Each loss is divided by what it counts in the whole step, so how a batch is cut into micro-batches changes nothing. Everything the
next step depends on (weights, optimizer state, carry, step, schedule) is in the checkpoint, and
batches are a pure function of the step, so a resumed run equals an uninterrupted one to the last bit.

    train(model, read_batch, Run(steps=100, micro_rows=8), TrainOptions(), Path("run"), Hooks())
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from myna.console import say, track
from myna.errors import UserError
from myna.files import fsync, write_atomic
from myna.train.checkpoint import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from myna.train.optimizer import make_optimizers, step_optimizers
from myna.train.options import TrainOptions
from myna.train.schedule import decay_start, rate_factor

Batch = Mapping[str, Tensor]  # rows first in every tensor; `input_ids` among them

_BAD_STEPS = 5  # steps in a row with a gradient that is not finite before the run is given up
_PATIENCE = 1.08  # the decay may be expected to overrun its time by this much before it is begun early: a slow spell may pass
_DRIFT_WINDOW = 20  # steps over which the rate is measured when the time left is watched


@dataclass(frozen=True)
class Run:
    """What the plan fixed before step 1."""

    steps: int
    micro_rows: int
    seconds: float | None = None
    "Time for training; if the machine gets slower than planned, the decay starts early. None: steps decide alone."


@dataclass
class Position:
    """Where a run is; saved with every checkpoint."""

    step: int = 0
    steps: int = 0
    decay_start: int = 0
    tokens: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    best_step: int = 0
    "Of the looks at the validation text so far, the best; its weights are kept beside the present ones."
    best_value: float = math.inf


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved; its text says how to go on."""


@dataclass
class Hooks:
    """What the loop calls out to; each gets the model in its present state."""

    validate: Callable[[], dict[str, float]] = field(default=dict)
    sample: Callable[[], str] = field(default=str)


def train(model: nn.Module, read_batch: Callable[[int], Batch], run: Run, options: TrainOptions, folder: Path, hooks: Hooks) -> Position:
    """Train from the newest checkpoint in `folder/checkpoints` (or from step 0) to the end; returns the final position.

    model: a `Trainable`. read_batch(step) gives the rows of a step.
    Writes `folder/log.jsonl`. Raises Interrupted on Ctrl-C or SIGTERM, after saving.
    """
    optimizers = make_optimizers(model, options)
    fresh = Position(steps=run.steps, decay_start=decay_start(run.steps, options))
    position, carry, best = _restore(model, optimizers, folder / "checkpoints", fresh)
    log = Log(folder / "log.jsonl", position.step)
    watch = _Watch(run, options, position)

    def save() -> None:
        fsync(log.path)  # a checkpoint is never ahead of its log
        save_run(model, optimizers, position, carry, best, folder / "checkpoints")
        watch.saved(position)

    with stop_requested() as stop, track("training", run.steps, " steps") as advance, contextlib.closing(log):
        advance(position.step)
        while position.step < position.steps:
            if watch.must_decay(position):
                save()  # the one decision that depends on the clock is kept with the run
                said = f"slower than planned: the decay starts at step {position.decay_start} of {position.steps}"
                log.write("note", position, text=said)
            factor = rate_factor(position.step, position.steps, position.decay_start, options)
            row, carry = _step(model, optimizers, read_batch(position.step), carry, run, options, factor, position)
            position.step += 1
            watch.stepped(position)
            log.write("step", position, **row)
            advance(1)
            if position.bad_steps >= _BAD_STEPS:
                raise UserError(f"the gradient was not finite {_BAD_STEPS} steps in a row (to step {position.step})", "a finite gradient",
                                "start again in another --out with a lower --train.learning-rate")
            if position.step in look_steps(position.steps, options.validations):
                value = _look(model, log, position, hooks)
                if value <= position.best_value and math.isfinite(value):  # of equal ones the later
                    position.best_step, position.best_value = position.step, value
                    best = {name: tensor.clone() for name, tensor in learned_weights(model).items()}
                watch.looked(position)
            if stop.is_set():
                save()
                raise Interrupted(f"stopped and saved at step {position.step} of {position.steps}; go on with --resume")
            if watch.should_save() or position.step == position.steps:
                save()
        if position.best_step < position.step and best:
            model.load_state_dict(best, strict=False)  # what is frozen is not among them
            said = (f"the weights of step {position.best_step} are kept: on the validation text they were better than all later ones "
                    f"({position.best_value:.3f})")
            say(said)
            if not any(row.get("text") == said for row in read_log(log.path)):  # a finished run that is resumed says it again
                log.write("note", position, text=said)
    return position


def look_steps(steps: int, looks: int) -> set[int]:
    """Return the steps after which the validation text is measured: evenly spread, the last one among them."""
    return {max(1, round(steps * (k + 1) / looks)) for k in range(looks)}


def _step(model: nn.Module, optimizers: list[torch.optim.Optimizer], batch: Batch, carry: Any, run: Run, options: TrainOptions,
          factor: float, position: Position) -> tuple[dict[str, Any], Any]:
    """Take one optimizer step; returns its log row and the new carry."""
    counts: dict[str, int] = model.counts(batch)  # type: ignore[operator]
    if not any(counts.values()):
        raise ValueError(f"a step must predict something; got {counts}")
    means = dict.fromkeys(counts, 0.0)
    loss = 0.0
    carried = []
    for rows in split_rows(batch, run.micro_rows):
        losses, after = model.loss({name: tensor[rows] for name, tensor in batch.items()},  # type: ignore[operator]
                                   None if carry is None else tuple(tensor[rows] for tensor in carry))
        parts = {name: total * (weight / max(1, counts[name])) for name, (total, weight) in losses.items()}
        total = sum(parts.values(), torch.zeros(()))
        loss += float(total.detach())
        for name, (summed, _) in losses.items():
            means[name] += float(summed.detach()) / max(1, counts[name])
        total.backward()
        carried.append(after)
    parameters = [p for group in optimizers for g in group.param_groups for p in g["params"] if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    position.tokens += batch["input_ids"].numel()
    row = {"loss": loss, **(means if len(means) > 1 else {}), "gradient_norm": norm,
           "learning_rate": factor * optimizers[0].param_groups[0]["peak"]}
    if not (math.isfinite(norm) and math.isfinite(loss)):
        position.bad_steps += 1
        for parameter in parameters:
            parameter.grad = None
        # the carry too stays what it was: what this batch would have left in it may not be finite
        return {key: value if math.isfinite(value) else None for key, value in row.items()} | {"skipped": True}, carry
    position.bad_steps = 0
    if norm > options.gradient_clip:
        torch._foreach_mul_(gradients, options.gradient_clip / norm)
    step_optimizers(optimizers, factor)
    return row, None if carried[0] is None else tuple(torch.cat(parts) for parts in zip(*carried, strict=True))


def split_rows(batch: Batch, micro_rows: int) -> list[slice]:
    """Cut a batch's rows into micro-batches of at most `micro_rows`."""
    rows = len(batch["input_ids"])
    return [slice(at, at + micro_rows) for at in range(0, rows, micro_rows)]


def _look(model: nn.Module, log: Log, position: Position, hooks: Hooks) -> float:
    """Measure the validation text and take a sample, without dropout; returns the first measure, lower is better."""
    model.eval()
    measured = hooks.validate()
    if measured:
        log.write("valid", position, **measured)
        values = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in measured.items())
        say(f"step {position.step}/{position.steps}: validation {values}")
    if text := hooks.sample():
        log.write("sample", position, text=text)
        say("  " + " ".join(text.split())[:76])
    model.train()
    value = next(iter(measured.values()), math.inf)
    return value if math.isfinite(value) else math.inf


class _Watch:
    """The clock: time spent, when to save, and whether the planned steps still fit."""

    def __init__(self, run: Run, options: TrainOptions, position: Position) -> None:
        self.run, self.options = run, options
        self.spent_before = position.seconds
        self.began = self.last_save = time.monotonic()
        self.recent: list[float] = []  # seconds of each of the latest steps
        self.steps, self.other = 0, 0.0  # steps here, and seconds spent between them: looks and checkpoints

    def stepped(self, position: Position) -> None:
        self.recent = [*self.recent[1 - _DRIFT_WINDOW:], self._tick(position)]
        self.steps += 1

    def looked(self, position: Position) -> None:
        self.other += self._tick(position)

    def _tick(self, position: Position) -> float:
        """Bring the time spent up to date; returns the seconds since this was last done."""
        before, position.seconds = position.seconds, self.spent_before + time.monotonic() - self.began
        return position.seconds - before

    def should_save(self) -> bool:
        return time.monotonic() - self.last_save >= self.options.checkpoint_seconds

    def saved(self, position: Position) -> None:
        self.other += self._tick(position)
        self.last_save = time.monotonic()

    def must_decay(self, position: Position) -> bool:
        """Start the decay now, with the steps there is still time for, when waiting would run over the time."""
        if self.run.seconds is None or position.step >= position.decay_start or len(self.recent) < _DRIFT_WINDOW:
            return False
        # looks and checkpoints are spread over the steps, so each step bears its share of them
        share, left = self.other / self.steps, self.run.seconds - position.seconds
        per_step = statistics.median(self.recent) + share
        if left * _PATIENCE >= (position.steps - position.decay_start) * per_step:
            return False
        # this is decided once, so count on the rate of the latest steps if it is lower: half of the window may be from before
        per_step = max(per_step, statistics.median(self.recent[-(_DRIFT_WINDOW // 4):]) + share)
        position.decay_start = position.step
        position.steps = position.step + max(1, int(left / per_step))
        say(f"slower than planned ({per_step:.2f} s a step): the learning rate falls from here, {position.steps} steps in all")
        return True


class Log:
    """`log.jsonl`: one row per event, cut back to the checkpoint when a run is resumed."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_log(path) if row["step"] <= step] if step else []
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.path, self.file = path, path.open("a", encoding="utf-8")

    def write(self, event: str, position: Position, **values: Any) -> None:
        """Append a row; floats are exact."""
        row = {"event": event, "step": position.step, **values, "tokens": position.tokens, "seconds": round(position.seconds, 3)}
        self.file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a training log; a last row cut off by a kill is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not splitlines: a sample may hold U+2028
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def learned_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that training changes: the state without what is frozen, which whoever made the model can make again."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def save_run(model: nn.Module, optimizers: list[torch.optim.Optimizer], position: Position, carry: Any, best: dict[str, Tensor],
             folder: Path) -> None:
    """Write a checkpoint of everything the next step, and the choice at the end, depend on."""
    tensors = {f"model.{name}": tensor for name, tensor in learned_weights(model).items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    packed = []
    for number, optimizer in enumerate(optimizers):
        named, state = pack_optimizer(optimizer)
        tensors |= {f"optimizer{number}.{name}": tensor for name, tensor in named.items()}
        packed.append(state)
    if carry is not None:
        tensors |= {f"carry.{number}": tensor for number, tensor in enumerate(carry)}
    tensors["random"] = torch.get_rng_state()
    counted = {**vars(position), "best_value": position.best_value if best else None}  # JSON has no infinity
    save_checkpoint(folder, position.step, tensors, {"position": counted, "optimizers": packed, "carry": carry is not None})


def _restore(model: nn.Module, optimizers: list[torch.optim.Optimizer], folder: Path, fresh: Position,
             ) -> tuple[Position, Any, dict[str, Tensor]]:
    found = load_checkpoint(folder)
    if found is None:
        return fresh, None, {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in found.tensors.items():
        prefix, _, rest = name.partition(".")
        parts.setdefault(prefix, {})[rest] = tensor
    try:
        others = learned_weights(model).keys() ^ parts["model"].keys()
        if others:
            raise RuntimeError(f"{min(others)} is in one of them only")
        model.load_state_dict(parts["model"], strict=False)
        if len(optimizers) != len(found.state["optimizers"]):
            raise RuntimeError("it has another optimizer")
    except RuntimeError as error:
        raise UserError(f"the checkpoint {found.path} does not fit the model ({error})", "a checkpoint of this run",
                        "resume with the options it began with, or choose another --out") from None
    for number, (optimizer, state) in enumerate(zip(optimizers, found.state["optimizers"], strict=True)):
        unpack_optimizer(optimizer, parts.get(f"optimizer{number}", {}), state)
    torch.set_rng_state(found.tensors["random"].clone())
    carry = tuple(parts["carry"][str(i)].clone() for i in range(len(parts["carry"]))) if found.state["carry"] else None
    say(f"resumed at step {found.step}")
    position = Position(**found.state["position"])
    position.best_value = math.inf if position.best_value is None else position.best_value
    return position, carry, {name: tensor.clone() for name, tensor in parts.get("best", {}).items()}


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into an event that the loop sees between steps; the second stops at once."""
    event = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        say("stopping after this step, then saving (once more to stop at once)")

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
