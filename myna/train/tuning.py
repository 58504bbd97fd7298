"""What a tuning trains of a model, how fast, and its plan: steps from timed ones, memory counted, nothing of size frozen twice.

lora: small matrices beside those of the layers, everything else frozen (`myna.train.lora`). full: every weight. head: the last norm
and lm_head alone; where the head is the embedding table, it becomes a matrix of its own.

    model = prepare_model(load_model(folder), TuneOptions(method="lora"))
    plan = plan_tuning(model, packed, options, settle_tuning(options, TrainOptions()), "float32", Costs())
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from myna.console import say
from myna.data.packing import Packed
from myna.errors import UserError
from myna.machine import current_memory, peak_memory, probe
from myna.models.layers import Linear
from myna.train.lora import add_lora
from myna.train.options import EPOCHS, PlanOptions, TrainOptions, TuneOptions
from myna.train.plan import Plan, Request, check_memory, check_options, predict_memory, time_steps
from myna.train.shapes import at_most

RATES = {"lora": 2e-4, "full": 2e-5, "head": 1e-4}  # of AdamW: usual values (lora as in Hu et al. 2021, table 11), not swept here
_DECAYS = {"lora": 0.0, "full": 0.01, "head": 0.0}  # usual values too
_BATCHES = ((1e6, 1024), (1e7, 4096), (math.inf, 16384))  # (tokens seen in all, up to which) -> tokens of an optimizer step: own choice
_TIMED_TOKENS = 256  # of a forward pass that is timed before anything is known
# pieces and answers of every length leave holes in memory that nothing else fits: 1.28 to 1.50 times the sum was seen (docs/log.md)
_HOLES = 1.5
# rows of conversations differ, the timed steps repeat one of them: 1.2 times as long was seen, on a machine not quite idle
_UNEVEN = 1.2
_LEAST_SECONDS = 5.0  # left for training, below which it makes no sense
_REHEARSED = 2  # steps that the rehearsal takes


@dataclass(frozen=True)
class Costs:
    """Seconds that are left for everything from here, and those of it that are not for training."""

    left: float = 0.0
    measuring: float = 0.0
    "For what comes before and after the training: the rehearsal's openings of the model, measures, pages."
    look: float = 0.0
    "For each look at the validation part."
    per_token: float = 1e-3
    "Of a forward pass."


def settle_tuning(options: TuneOptions, train: TrainOptions) -> TrainOptions:
    """Fill in what the user left open: AdamW at a usual rate of the method."""
    rate = options.learning_rate or RATES[options.method]
    decay = _DECAYS[options.method] if train.weight_decay is None else train.weight_decay
    return dataclasses.replace(train, optimizer=train.optimizer or "adamw", learning_rate=rate, embedding_learning_rate=rate,
                               weight_decay=decay)


def prepare_model(model: Any, options: TuneOptions) -> Any:
    """Freeze a decoder but for what the method trains; returns it, ready for training."""
    model.requires_grad_(False)
    match options.method:
        case "lora":
            alpha = 2.0 * options.rank if options.alpha is None else options.alpha
            add_lora(model, options.rank, alpha, options.targets, options.seed)
        case "full":
            model.requires_grad_(True)
        case "head":
            untie_head(model)
            for part in (model.norm, model.lm_head):
                part.requires_grad_(True)
    return model.train()


def untie_head(model: Any) -> None:
    """Give a decoder whose head is its embedding table a head of its own, equal to it."""
    if model.lm_head is None:
        model.lm_head = Linear(model.config.hidden_size, model.config.vocab_size)
        with torch.no_grad():
            model.lm_head.weight.copy_(model.embed_tokens.weight)
        model.config = dataclasses.replace(model.config, tie_word_embeddings=False)


def describe_change(model: Any, options: TuneOptions) -> str:
    """Say what is trained, in a line."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if options.method == "lora":
        return (f"lora: {learned:,} weights are trained, rank {options.rank} beside {', '.join(options.targets)}; the model's own "
                f"{model.config.count_parameters():,} stay as they are")
    what = "" if options.method == "full" else ": the last norm and lm_head"
    return f"{options.method}: {learned:,} of {model.config.count_parameters():,} weights are trained{what}"


def time_forward(model: Any) -> float:
    """Time a forward pass; returns seconds per token."""
    length = min(_TIMED_TOKENS, model.max_length or _TIMED_TOKENS)
    ids = torch.arange(length)[None] % model.vocab_size
    best = math.inf
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            model.loss({"input_ids": ids, "labels": ids})
            best = min(best, time.perf_counter() - began)
    return best / length


def plan_tuning(model: Any, packed: Packed, options: TuneOptions, train: TrainOptions, precision: str, costs: Costs) -> Plan:
    """Time real steps of a prepared model, which spoils it, count its memory and fix the steps.

    Raises UserError, with numbers, when time or memory will not do.
    """
    check_options(Request(steps=options.steps), PlanOptions(), train)
    context = packed.context
    guess = costs.left / (3 * costs.per_token) if options.steps is None else 0.0  # a step takes about three forward passes
    batch_rows = max(1, (options.batch_tokens or at_most(_BATCHES, guess)) // context)
    micro_rows = max(1, min(batch_rows, options.micro_tokens // context))
    began = time.perf_counter()
    batch = {name: torch.from_numpy(values) for name, values in packed.read(0, micro_rows).items()}
    machine = probe()
    peak = max(predict_tuning_memory(model, batch, micro_rows, train), peak_memory())
    check_memory(peak - current_memory(), machine.free_memory, "close other programs, or give a smaller --micro-tokens or --method lora")
    per_step = _UNEVEN * time_steps(model, batch, micro_rows, train)[0] * math.ceil(batch_rows / micro_rows)
    looks = train.validations * costs.look
    epochs = options.max_epochs or EPOCHS
    most = math.ceil(epochs * len(packed.rows) / batch_rows)
    notes, seconds = [], None
    if options.steps is not None:
        steps = options.steps
    else:
        spent = time.perf_counter() - began
        left = costs.left - spent - costs.measuring - looks - _REHEARSED * per_step
        if left < _LEAST_SECONDS:
            raise UserError(f"{max(0.0, left):.0f} s are left for training after reading, measuring and timing",
                            f"at least {_LEAST_SECONDS:.0f} s", "give more --minutes")
        steps, seconds = max(1, int(left / per_step)), left + looks
        if steps > most:
            notes.append(f"{epochs:g} passes over the rows ({most:,} steps) are enough; more would only memorise them "
                         "(--max-epochs)")
            say(notes[-1])
            steps = most
    config = model.config
    return Plan("decoder", dataclasses.asdict(config), config.count_parameters(), context, batch_rows, micro_rows, steps, precision, False,
                torch.get_num_threads(), options.seed, steps * batch_rows * context, seconds,
                {"seconds": steps * per_step + looks, "seconds_per_step": per_step, "peak_bytes": float(peak)},
                dataclasses.asdict(machine), notes, dataclasses.asdict(train))


def predict_tuning_memory(model: Any, batch: dict[str, Tensor], micro_rows: int, train: TrainOptions) -> int:
    """Predict the peak bytes: of training, with the best weights kept beside the present ones, or of the rehearsal's second model."""
    learned = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return int(_HOLES * max(predict_memory(model, batch, micro_rows, train) + learned, current_memory() + held + 3 * learned))
