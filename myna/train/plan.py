"""The plan: what to train in the time there is, how long it will take, how much memory it needs and what to expect.

Shape and batch come from rules fitted to runs of this code (docs/log.md, "Scaling runs"): wider and deeper with the tokens that
will be seen, never so wide that the time is gone before the text has been read. The time of a step is not guessed: a few real
steps of the chosen shape are timed. With `--steps` the shape, batch and precision depend on corpus, steps and options only.

    text = Text(tokens=10**6, bytes=3 * 10**6, vocab_size=2048, separator_id=0)
    make_plan(Request(steps=100), text, PlanOptions(), TrainOptions()).predicted["seconds"]
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from myna.console import say
from myna.errors import UserError
from myna.machine import current_memory, probe
from myna.models.decoder import DecoderConfig, new_decoder
from myna.train.optimizer import make_optimizers, step_optimizers
from myna.train.options import PlanOptions, TrainOptions

# (layers, hidden size) to choose from: depth grows with width as in the GPT-3 table (Brown et al. 2020, table 2.1), from smaller sizes
LADDER = ((2, 64), (3, 128), (4, 192), (4, 256), (5, 320), (6, 384), (7, 448), (8, 512), (10, 640), (12, 768), (16, 1024))
_TOKENS_PER_WEIGHT = 0.6  # tokens per weight of the layers to take a shape: own choice, from few runs
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


@dataclass(frozen=True)
class Text:
    """What the plan knows of the text: the training split and its vocabulary."""

    tokens: int
    bytes: int
    vocab_size: int
    separator_id: int
    test_tokens: int = 0
    baseline_bits_per_byte: float | None = None


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

    def config(self) -> DecoderConfig:
        """Return the model's shape."""
        return DecoderConfig(**self.model)


def make_plan(request: Request, text: Text, options: PlanOptions, train: TrainOptions) -> Plan:
    """Choose shape, batch, steps and precision; time real steps; refuse with numbers when memory or time will not do."""
    machine = probe()
    notes: list[str] = []
    check_options(request, options, train)
    precision = options.precision or ("bfloat16" if request.steps is not None or machine.bfloat16_pays else "float32")
    rate = _EFFICIENCY * (machine.bfloat16_small_rate if precision == "bfloat16" else machine.float32_small_rate)
    config, batch_tokens = _choose(request, text, options, rate)
    context = config.max_position_embeddings
    batch_rows = max(1, batch_tokens // context)
    micro_rows = max(1, min(batch_rows, options.micro_tokens // context))
    peak = predict_memory(config, micro_rows)
    more = peak - current_memory()
    if more > machine.free_memory:
        raise UserError(f"training needs about {more / 2**20:,.0f} MiB of memory more and {machine.free_memory / 2**20:,.0f} MiB are free",
                        "enough free memory", "close other programs, or give a smaller --plan.micro-tokens or --plan.hidden-size")
    per_step, per_token = time_steps(config, batch_rows, micro_rows, precision, train)
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
    if text.baseline_bits_per_byte is not None:
        predicted["bits_per_byte"] = expected_bits(text, config, tokens)
    for note in notes:
        say(note)
    return Plan("decoder", dataclasses.asdict(config), config.count_parameters(), context, batch_rows, micro_rows, steps, precision, False,
                torch.get_num_threads(), request.seed, tokens, seconds, predicted, dataclasses.asdict(machine), notes)


VALIDATION_TOKENS = 8_192  # scored at each point of the validation curve


def check_options(request: Request, options: PlanOptions, train: TrainOptions) -> None:
    """Raise UserError on a number that no plan can have."""
    wrong = [(f"plan.{name}", value) for name in _POSITIVE if (value := getattr(options, name)) is not None and not value > 0]
    wrong += [("steps", request.steps)] if request.steps is not None and request.steps < 1 else []
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


def _choose(request: Request, text: Text, options: PlanOptions, rate: float) -> tuple[DecoderConfig, int]:
    """Walk up the ladder while the larger shape would still see enough tokens for its weights."""
    chosen = None
    head_dim = options.head_dim or 64
    for layers, hidden in [rung for rung in LADDER if rung[1] % head_dim == 0] or LADDER[:1]:
        config = _shape(layers, hidden, text, options)
        if config is None:
            continue
        layer_weights = config.count_parameters() - config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
        if request.steps is not None:
            tokens = float(request.steps * (options.batch_tokens or 2048))
        else:
            assert request.seconds is not None
            tokens = request.seconds * rate / flops_per_token(config)
        tokens = min(tokens, options.max_epochs * text.tokens)
        if chosen is None or tokens >= _TOKENS_PER_WEIGHT * layer_weights:
            chosen = config, tokens
    if chosen is None:
        raise UserError(f"hidden_size is {options.hidden_size}, head_dim is {head_dim}, "
                        f"num_key_value_heads is {options.num_key_value_heads}",
                        "a width in whole heads, and key-value heads that divide them", "choose others, or leave them to the plan")
    config, tokens = chosen
    # short windows learn more per token while little is known yet: 128 beat 256 by 1 % at 0.8M tokens (docs/log.md)
    context = options.context or min(128 if tokens < 2.5e6 else 256 if tokens < 1e8 else 512, 2 ** int(math.log2(max(2, text.tokens - 1))))
    if text.tokens <= context:
        raise UserError(f"the training text has {text.tokens:,} tokens", f"more than one context of {context}",
                        "give more text, or a smaller --plan.context")
    config = dataclasses.replace(config, max_position_embeddings=context)
    # the batch may grow with the tokens (McCandlish et al. 2018); small ones learn more per token, large ones cost fewer updates
    batch = 2048 if tokens < 4e6 else 4096 if tokens < 1.6e7 else 8192 if tokens < 1e8 else 32768
    return config, options.batch_tokens or batch


def _shape(layers: int, hidden: int, text: Text, options: PlanOptions) -> DecoderConfig | None:
    """Make a rung's shape with what the user fixed; None when the two do not go together."""
    hidden, layers = options.hidden_size or hidden, options.num_hidden_layers or layers
    head_dim = options.head_dim or 64
    if hidden % head_dim:
        return None
    heads = hidden // head_dim
    groups = options.num_key_value_heads or max(g for g in range(1, heads + 1) if heads % g == 0 and g <= max(1, heads // 2))
    if heads % groups:
        return None
    return DecoderConfig(text.vocab_size, hidden, layers, options.intermediate_size or 0, heads, groups, head_dim, options.context or 256,
                         tie_word_embeddings=False, eos_token_id=text.separator_id)


def flops_per_token(config: DecoderConfig) -> float:
    """Count floating-point operations to train on one token: 6 per weight in a product, and attention (Kaplan et al. 2020, table 1)."""
    products = config.count_parameters() - config.vocab_size * config.hidden_size * (0 if config.tie_word_embeddings else 1)
    attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim * config.max_position_embeddings
    return 6.0 * products + 12.0 * attention


def predict_memory(config: DecoderConfig, micro_rows: int) -> int:
    """Predict the peak bytes of this process in training: what it holds now, weights, optimizer, activations."""
    C, intermediate, heads, D = config.hidden_size, config.intermediate_size, config.num_attention_heads, config.head_dim
    qkv = (heads + 2 * config.num_key_value_heads) * D
    tables = config.vocab_size * C * (1 if config.tie_word_embeddings else 2)
    matrices = config.count_parameters() - tables
    states = 4 * (3 * matrices + 4 * tables)  # weight, gradient, momentum; AdamW keeps two moments
    tokens = micro_rows * config.max_position_embeddings
    per_layer = 2 * (2 * C + 4 * qkv + heads * D + 4 * intermediate + 2 * C)  # bfloat16 tensors kept for the backward pass
    attention = 2 * heads * config.max_position_embeddings * 2
    activations = tokens * config.num_hidden_layers * (per_layer + attention)
    return current_memory() + RUNTIME_BYTES + states + activations


RUNTIME_BYTES = 250 << 20  # PyTorch's work buffers, validation and the checkpoint being written; set from builds of 1 and 3 minutes


def time_steps(config: DecoderConfig, batch_rows: int, micro_rows: int, precision: str, options: TrainOptions) -> tuple[float, float]:
    """Time real optimizer steps of this shape on random ids; returns (seconds per step, seconds per token of a forward pass)."""
    model = new_decoder(config, 0, precision)
    optimizers = make_optimizers(model, options)
    ids = torch.randint(config.vocab_size, (batch_rows, config.max_position_embeddings + 1), generator=torch.Generator().manual_seed(0))
    seconds: list[float] = []
    while len(seconds) <= _TIMED_STEPS[0] or (sum(seconds) < _TIMED_SECONDS and len(seconds) <= _TIMED_STEPS[1]):
        began = time.perf_counter()
        for micro in torch.split(ids, micro_rows):
            torch.autograd.backward(model.loss(micro)[0]["next_token"][0])
        step_optimizers(optimizers, 1e-6)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    with torch.no_grad():
        model.logits(model.hidden(ids[:micro_rows, :-1]))
    forward = (time.perf_counter() - began) / (micro_rows * config.max_position_embeddings)
    # the fastest: another program can only make one slower, and a machine slower than planned is met by an early decay,
    # while time left over at the end is lost
    return min(seconds[1:]) * _SLOWDOWN, forward


def expected_bits(text: Text, config: DecoderConfig, tokens: int) -> float:
    """Expect bits per byte on validation text: the baseline's, times a factor that falls with compute (docs/log.md, "Scaling runs")."""
    assert text.baseline_bits_per_byte is not None
    compute = math.log10(max(1.0, tokens * flops_per_token(config)))
    return text.baseline_bits_per_byte * min(2.0, max(0.8, 1.016 - 0.0985 * (compute - 12.7)))
