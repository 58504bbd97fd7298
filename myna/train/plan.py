"""The plan: what to train in the time there is, how long it will take, how much memory it needs and what to expect.

Shape and batch come from the family's ladder (`myna.train.shapes`): wider and deeper with the tokens that will be seen, never so wide
that the time is gone before the text has been read. The time of a step is not guessed: a few real steps of the chosen shape are
timed; nor is memory: what autograd keeps for a row is counted. With `--steps` the shape, batch and precision depend on corpus, steps
and options only.

    text = Text(tokens=10**6, bytes=3 * 10**6, vocab_size=2048, separator_id=0)
    make_plan(Request(steps=100), text, PlanOptions(), TrainOptions(), open_batches).predicted["seconds"]
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from myna.console import say
from myna.errors import UserError
from myna.machine import current_memory, probe
from myna.models.create import Config, make_config, new_model
from myna.models.families import Family
from myna.train.loop import Batch, split_rows
from myna.train.optimizer import make_optimizers, step_optimizers
from myna.train.options import PlanOptions, TrainOptions
from myna.train.shapes import Sizes, at_most, choose_model_type, layer_weights, rungs, settings_of, settle

_EFFICIENCY = 0.35  # of the small product's rate that a whole training step reaches, for choosing a shape before one is timed
_SLOWDOWN = 1.05  # own choice; a whole three-minute run took 1.10 times the fastest timed step (docs/log.md)
_SMALLEST_TRAINING = 5.0  # seconds left for training below which a build makes no sense
_TIMED_STEPS, _TIMED_SECONDS = (3, 10), 2.0  # fewest and most steps timed after one that warms up; none begins after this long


@dataclass(frozen=True)
class Request:
    """What the user gave: seconds for training, or steps."""

    seconds: float | None = None
    steps: int | None = None
    seed: int = 0
    family: Family = "decoder"


@dataclass(frozen=True)
class Text:
    """What the plan knows of the text: the training split and its vocabulary."""

    tokens: int
    bytes: int
    vocab_size: int
    separator_id: int
    test_tokens: int = 0
    baseline_bits_per_byte: float | None = None
    pad_id: int = 0


@dataclass(frozen=True)
class Plan:
    """A decided run; `plan.json` holds its fields."""

    family: str
    model: dict[str, Any]
    parameters: int
    context: int
    batch_rows: int
    micro_rows: int
    steps: int
    precision: str
    compile: bool
    threads: int
    seed: int
    tokens: int
    seconds: float | None
    predicted: dict[str, float]
    machine: dict[str, Any]
    notes: list[str]

    train: dict[str, Any] = field(default_factory=dict)
    "The options of training, settled: none of them is left to the family any more."

    def config(self) -> Config:
        """Return the model's shape."""
        return make_config(self.model)

    def options(self) -> TrainOptions:
        """Return the settled options of training."""
        return TrainOptions(**self.train)


# open_batches(config, context, rows) -> read, where read(step) gives the rows of a step
OpenBatches = Callable[[Config, int, int], Callable[[int], Batch]]


def make_plan(request: Request, text: Text, options: PlanOptions, train: TrainOptions, open_batches: OpenBatches) -> Plan:
    """Choose shape, batch, steps and precision; time real steps; refuse with numbers when memory or time will not do."""
    machine = probe()
    notes: list[str] = []
    check_options(request, options, train)
    train = settle(train, request.family)
    precision = options.precision or ("bfloat16" if request.steps is not None or machine.bfloat16_pays else "float32")
    rate = _EFFICIENCY * (machine.bfloat16_small_rate if precision == "bfloat16" else machine.float32_small_rate)
    config, context, batch_tokens = _choose(request, text, options, rate)
    batch_rows = max(1, batch_tokens // context)
    micro_rows = max(1, min(batch_rows, options.micro_tokens // context))
    check_memory(_STATES * config.count_parameters(), machine.free_memory)  # before the weights alone fill it
    batch = open_batches(config, context, batch_rows)(0)
    model = new_model(config, request.seed, precision)
    peak = predict_memory(model, batch, micro_rows, train)
    check_memory(peak - current_memory(), machine.free_memory)
    per_step, per_token = time_steps(model, batch, micro_rows, train)
    most = math.ceil(options.max_epochs * text.tokens / (batch_rows * context))
    seconds = None
    if request.steps is not None:
        steps = request.steps
    else:
        assert request.seconds is not None
        looks = train.validations * VALIDATION_TOKENS * 2 * per_token  # the stride of evaluation reads everything twice
        left = request.seconds - looks - 2 * text.test_tokens * per_token * (2 if precision == "bfloat16" else 1)
        if left < _SMALLEST_TRAINING:
            raise UserError(f"{max(0.0, left):.0f} s are left for training after reading, counting and measuring the text",
                            f"at least {_SMALLEST_TRAINING:.0f} s", "give more --minutes, or less text")
        steps, seconds = max(1, int(left / per_step)), left + looks
        if steps > most:
            notes.append(f"{options.max_epochs:g} passes over the text ({most:,} steps) are enough; more would only memorise it "
                         "(--plan.max-epochs)")
            steps = most
    tokens = steps * batch_rows * context
    predicted = {"seconds": steps * per_step + train.validations * VALIDATION_TOKENS * 2 * per_token, "seconds_per_step": per_step,
                 "peak_bytes": float(peak)}
    if text.baseline_bits_per_byte is not None and request.family == "decoder":
        predicted["bits_per_byte"] = expected_bits(text, config, tokens)
    for note in notes:
        say(note)
    return Plan(request.family, dataclasses.asdict(config), config.count_parameters(), context, batch_rows, micro_rows, steps,  # type: ignore[call-overload]
                precision, False, torch.get_num_threads(), request.seed, tokens, seconds, predicted, dataclasses.asdict(machine), notes,
                dataclasses.asdict(train))


def check_memory(more: float, free: int,
                 action: str = "close other programs, or give a smaller --plan.micro-tokens or --plan.hidden-size") -> None:
    """Raise UserError when `more` bytes of memory are needed than are free."""
    if more > free:
        raise UserError(f"training needs about {more / 2**20:,.0f} MiB of memory more and {free / 2**20:,.0f} MiB are free",
                        "enough free memory", action)


VALIDATION_TOKENS = 8_192  # scored at each point of the validation curve


def check_options(request: Request, options: PlanOptions, train: TrainOptions) -> None:
    """Raise UserError on a number that no plan can have."""
    wrong = [(f"plan.{name}", value) for name in _POSITIVE if (value := getattr(options, name)) is not None and not value > 0]
    wrong += [("steps", request.steps)] if request.steps is not None and request.steps < 1 else []
    if options.dropout and not 0 <= options.dropout < 1:
        raise UserError(f"plan.dropout is {options.dropout:g}", "a share from 0 up to but not including 1")
    if options.head_dim is not None and options.head_dim % 2:
        raise UserError(f"plan.head_dim is {options.head_dim}", "an even number: 32, 64 or 128")
    if wrong:
        raise UserError(f"{wrong[0][0]} is {wrong[0][1]}", "a number above 0", "leave it out to have it chosen")
    for name, low, high in _RANGES:
        value = getattr(train, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"train.{name} is {value:g}", f"a number from {low:g} to {high:g}")


_POSITIVE = ("hidden_size", "num_hidden_layers", "intermediate_size", "head_dim", "num_key_value_heads", "context", "batch_tokens",
             "micro_tokens", "max_epochs")
_RANGES = (("learning_rate", 1e-8, 1e3), ("embedding_learning_rate", 1e-8, 1e3), ("weight_decay", 0, 1e3), ("momentum", 0, 0.9999),
           ("beta1", 0, 0.9999), ("beta2", 0, 0.99999), ("warmup", 0, 1), ("decay", 0, 1), ("gradient_clip", 1e-6, 1e6),
           ("validations", 0, 1000), ("checkpoint_seconds", 0, 1e9))


def _choose(request: Request, text: Text, options: PlanOptions, rate: float) -> tuple[Config, int, int]:
    """Walk up the ladder while the larger shape would still see enough tokens for its weights: the shape, window and batch in tokens."""
    settings = settings_of(request.family)
    model_type = choose_model_type(request.family, options.model_type)
    chosen = None
    for config in rungs(request.family, model_type, Sizes(text.vocab_size, text.separator_id, text.pad_id), options):
        if request.steps is not None:
            tokens = float(request.steps * (options.batch_tokens or 2048))
        else:
            assert request.seconds is not None
            tokens = request.seconds * rate / flops_per_token(config)
        tokens = min(tokens, options.max_epochs * text.tokens)
        if chosen is None or tokens >= settings.tokens_per_weight * layer_weights(config):
            chosen = config, tokens
    assert chosen is not None  # a ladder has a lowest rung
    config, tokens = chosen
    context = options.context or min(at_most(settings.contexts, tokens), 2 ** int(math.log2(max(2, text.tokens - 1))))
    if text.tokens <= context:
        raise UserError(f"the training text has {text.tokens:,} tokens", f"more than one context of {context}",
                        "give more text, or a smaller --plan.context")
    if hasattr(config, "max_position_embeddings"):
        table = context + getattr(config, "position_offset", 0)  # RoBERTa keeps the first rows for padding
        config = dataclasses.replace(config, max_position_embeddings=table)  # type: ignore[type-var]
    return config, context, options.batch_tokens or at_most(settings.batches, tokens)


def flops_per_token(config: Config) -> float:
    """Count floating-point operations to train on one token: 6 per multiplication of a forward pass (Kaplan et al. 2020, table 1)."""
    return 6.0 * config.products_per_token()


def predict_memory(model: nn.Module, batch: Batch, micro_rows: int, train: TrainOptions) -> int:
    """Predict the peak bytes of this process in training `model` on such batches: what it holds now (with the weights), gradients,
    the optimizer's states, and what autograd keeps of a micro-batch."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    names: set[str] = model.table_names()  # type: ignore[operator]
    tables = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and (name in names or p.ndim != 2))
    weights = sum(p.numel() for p in parameters)
    moments = {"muon": weights + tables, "sgd": weights}.get(train.optimizer or "", 2 * weights)  # Muon and SGD keep one for each weight
    one, two = (count_kept(model, {name: tensor[:rows] for name, tensor in batch.items()}) for rows in (1, 2))
    kept = one if micro_rows == 1 or len(batch["input_ids"]) == 1 else one + (two - one) * (micro_rows - 1)
    return current_memory() + RUNTIME_BYTES + 4 * (weights + moments) + kept


def count_kept(model: nn.Module, batch: Batch) -> int:
    """Count the bytes that autograd keeps for the backward pass of these rows; the model's own weights do not count."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses, _ = model.loss(batch)  # type: ignore[operator]
    del losses  # alive until here, so that no storage was given to another tensor
    return sum(kept.values())


RUNTIME_BYTES = 250 << 20  # PyTorch's work buffers, validation and the checkpoint being written; set from builds of 1 and 3 minutes


_STATES = 16  # bytes a weight takes in training: itself, its gradient and at most two moments, float32


def time_steps(model: nn.Module, batch: Batch, micro_rows: int, options: TrainOptions) -> tuple[float, float]:
    """Time real optimizer steps on a real batch; returns (seconds per step, seconds per token of a forward pass). Spoils the model."""
    optimizers = make_optimizers(model, options)
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in split_rows(batch, micro_rows)]

    def forward(part: Batch) -> Tensor:
        losses, _ = model.loss(part)  # type: ignore[operator]
        return sum((total for total, _ in losses.values()), torch.zeros(()))

    seconds: list[float] = []
    while len(seconds) <= _TIMED_STEPS[0] or (sum(seconds) < _TIMED_SECONDS and len(seconds) <= _TIMED_STEPS[1]):
        began = time.perf_counter()
        for part in parts:
            torch.autograd.backward(forward(part))
        step_optimizers(optimizers, 1e-6)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    with torch.no_grad():
        forward(parts[0])
    forward_seconds = (time.perf_counter() - began) / parts[0]["input_ids"].numel()
    # the fastest: another program can only make one slower, and a machine slower than planned is met by an early decay,
    # while time left over at the end is lost
    return min(seconds[1:]) * _SLOWDOWN, forward_seconds


def expected_bits(text: Text, config: Config, tokens: int) -> float:
    """Expect bits per byte on validation text: the baseline's, times a factor that falls with compute (docs/log.md, "Scaling runs")."""
    assert text.baseline_bits_per_byte is not None
    compute = math.log10(max(1.0, tokens * flops_per_token(config)))
    return text.baseline_bits_per_byte * min(2.0, max(0.8, 1.016 - 0.0985 * (compute - 12.7)))
