"""The plan: what decides it, what it predicts and what it refuses. The machine is a made-up one; nothing here is timed but once."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from myna.errors import UserError
from myna.machine import Machine, current_memory
from myna.models.create import new_model
from myna.models.decoder import Decoder, DecoderConfig
from myna.train import plan as plan_module
from myna.train.options import PlanOptions, TrainOptions
from myna.train.plan import (
    RUNTIME_BYTES,
    Plan,
    Request,
    Text,
    count_kept,
    flops_per_token,
    make_plan,
    predict_memory,
    time_steps,
)
from myna.train.shapes import settle

TEXT = Text(tokens=3_000_000, bytes=10_000_000, vocab_size=2048, separator_id=5, test_tokens=100_000, baseline_bits_per_byte=2.0)
MACHINE = Machine("made up", 2, 2, 16 << 30, 12 << 30, 2e11, 8e11, 1e11, 2e11, 2e10, True, "2")
SLOW = dataclasses.replace(MACHINE, cpu="old", cores=1, threads=1, float32_rate=1e9, bfloat16_rate=1e8, float32_small_rate=1e9,
                           bfloat16_small_rate=1e8, memory_bandwidth=1e8, bfloat16_pays=False, free_memory=8 << 30)
PER_TOKEN = 1e-5  # seconds of a forward pass on the made-up machine


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A machine that a test may change, on which a step takes a second per 1e12 operations."""
    here: dict[str, Any] = {"machine": MACHINE, "rate": 1e12}

    def timed(model: Decoder, batch: dict[str, Tensor], *rest: Any) -> tuple[float, float]:
        return batch["input_ids"].numel() * flops_per_token(model.config) / here["rate"], PER_TOKEN

    monkeypatch.setattr(plan_module, "probe", lambda *a, **k: here["machine"])
    monkeypatch.setattr(plan_module, "time_steps", timed)
    return here


def batches(config: Any, context: int, rows: int) -> Any:
    windows = torch.randint(config.vocab_size, (rows, context + 1), generator=torch.Generator().manual_seed(0))
    return lambda step: {"input_ids": windows[:, :-1], "labels": windows[:, 1:]}


def plan_for(request: Request, text: Text, options: PlanOptions) -> Plan:
    return make_plan(request, text, options, TrainOptions(), batches)


def made(plan: Plan) -> dict[str, Any]:
    """What must not depend on the machine when the steps are given."""
    return {name: getattr(plan, name) for name in ("family", "model", "parameters", "context", "batch_rows", "micro_rows", "steps",
                                                   "precision", "compile", "seed", "tokens")}


@pytest.mark.parametrize("steps", [1, 50, 1000, 30_000])
def test_with_steps_the_model_batch_and_precision_are_the_same_on_every_machine(steps: int, machine: dict[str, Any]) -> None:
    fast = plan_for(Request(steps=steps, seed=3), TEXT, PlanOptions())
    machine.update(machine=SLOW, rate=1e9)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        slow = plan_for(Request(steps=steps, seed=3), TEXT, PlanOptions())
    finally:
        torch.set_num_threads(threads)
    assert made(fast) == made(slow)
    assert (fast.steps, fast.seed, fast.seconds) == (steps, 3, None)
    assert slow.predicted["seconds"] > fast.predicted["seconds"] and slow.machine["cpu"] == "old"


def test_with_minutes_everything_planned_fits_the_time(machine: dict[str, Any]) -> None:
    sizes = []
    for seconds in (20.0, 60.0, 600.0, 6000.0):
        plan = plan_for(Request(seconds), TEXT, PlanOptions(max_epochs=1e9))
        scored = TrainOptions().validations * 2 * plan_module.VALIDATION_TOKENS * PER_TOKEN
        assert plan.predicted["seconds"] == pytest.approx(plan.steps * plan.predicted["seconds_per_step"] + scored)
        assert plan.predicted["seconds"] + 2 * TEXT.test_tokens * PER_TOKEN <= seconds
        assert (plan.steps + 1) * plan.predicted["seconds_per_step"] + scored + 4 * TEXT.test_tokens * PER_TOKEN > 0.9 * seconds
        assert plan.tokens == plan.steps * plan.batch_rows * plan.context
        sizes.append(plan.parameters)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]  # more time, a larger model
    machine.update(machine=SLOW, rate=1e9)
    assert plan_for(Request(600.0), TEXT, PlanOptions()).parameters < sizes[2]  # a slower machine, a smaller one


def test_precision_is_what_pays_here_unless_it_is_said(machine: dict[str, Any]) -> None:
    assert plan_for(Request(60.0), TEXT, PlanOptions()).precision == "bfloat16"
    machine["machine"] = SLOW
    assert plan_for(Request(60.0), TEXT, PlanOptions()).precision == "float32"
    assert plan_for(Request(60.0), TEXT, PlanOptions(precision="bfloat16")).precision == "bfloat16"
    assert plan_for(Request(steps=9), TEXT, PlanOptions(precision="float32")).precision == "float32"


def test_too_little_memory_is_refused_with_both_numbers(machine: dict[str, Any]) -> None:
    machine["machine"] = dataclasses.replace(MACHINE, free_memory=64 << 20)
    with pytest.raises(UserError, match=r"about [\d,]+ MiB.* 64 MiB are free"):
        plan_for(Request(steps=10), TEXT, PlanOptions())


def test_memory_is_predicted_from_what_training_holds() -> None:
    options = settle(TrainOptions(), "decoder")

    def predict(micro_rows: int = 8, **changes: int) -> int:
        config = DecoderConfig(**{"vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 4, "num_key_value_heads": 2, **changes},
                               tie_word_embeddings=False)
        before = current_memory()
        return predict_memory(Decoder(config), batches(config, 256, 16)(0), micro_rows, options) - before

    base, weights = predict(), DecoderConfig(2048, 256, 4, num_key_value_heads=2, tie_word_embeddings=False).count_parameters()
    assert base > 8 * weights + RUNTIME_BYTES  # gradient and at least one moment in float32
    assert predict(16) > base + 8 * 256 * 4 * 256 * 2
    assert predict(num_hidden_layers=8) > base
    assert predict(vocab_size=16384) > base + 12 * 2 * 14336 * 256 - (8 << 20)


def test_what_autograd_keeps_is_counted_once_and_without_the_weights() -> None:
    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(7, 7))

        def loss(self, batch: dict[str, Tensor]) -> Any:
            x = (batch["input_ids"] @ self.weight).exp()  # keeps its input and its output
            return {"a": ((x * x).sum(), 1.0)}, None  # keeps x again

    assert count_kept(Toy(), {"input_ids": torch.ones(5, 7)}) == 2 * 5 * 7 * 4


@pytest.mark.parametrize("seconds", [-3.0, 0.0, 4.0])
def test_too_little_time_is_refused_with_both_numbers(seconds: float) -> None:
    with pytest.raises(UserError, match=r"^\d+ s are left for training.*at least \d+ s.*--minutes"):
        plan_for(Request(seconds), TEXT, PlanOptions())


def test_a_small_text_is_not_read_more_often_than_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    text = dataclasses.replace(TEXT, tokens=30_000, bytes=100_000, test_tokens=1000)
    plan = plan_for(Request(3600.0), text, PlanOptions(max_epochs=3.0))
    assert plan.steps == math.ceil(3 * 30_000 / (plan.batch_rows * plan.context))
    (note,) = plan.notes
    assert "3 passes" in note and "--plan.max-epochs" in note and note in capsys.readouterr().err
    assert plan_for(Request(3600.0), text, PlanOptions(max_epochs=30.0)).steps > 5 * plan.steps
    given = plan_for(Request(steps=10_000), text, PlanOptions(max_epochs=3.0))
    assert given.steps == 10_000  # what was asked for is what is done


def test_every_option_that_is_given_is_kept() -> None:
    options = PlanOptions(hidden_size=192, num_hidden_layers=7, intermediate_size=320, head_dim=32, num_key_value_heads=3, context=48,
                          batch_tokens=480, micro_tokens=96, precision="float32")
    for request in (Request(60.0, seed=4), Request(steps=20, seed=4)):
        plan = plan_for(request, TEXT, options)
        shape = plan.config()
        assert (shape.hidden_size, shape.num_hidden_layers, shape.intermediate_size, shape.head_dim) == (192, 7, 320, 32)
        assert (shape.num_attention_heads, shape.num_key_value_heads) == (6, 3)
        assert (plan.context, shape.max_position_embeddings, plan.batch_rows, plan.micro_rows) == (48, 48, 10, 2)
        assert (shape.vocab_size, shape.eos_token_id) == (2048, 5)
        assert (plan.precision, plan.seed, plan.threads) == ("float32", 4, torch.get_num_threads())


@pytest.mark.parametrize(("options", "words"), [
    (PlanOptions(hidden_size=100), "hidden_size is 100"), (PlanOptions(hidden_size=32), "hidden_size is 32"),
    (PlanOptions(hidden_size=128, num_key_value_heads=3), "num_key_value_heads is 3"),
    (PlanOptions(context=3_000_000), "more than one context of 3000000"),
], ids=str)
def test_shapes_that_cannot_be_are_refused(options: PlanOptions, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan_for(Request(steps=10), TEXT, options)


def test_plan_json_gives_the_plan_back() -> None:
    plan = plan_for(Request(100.0), TEXT, PlanOptions())
    assert Plan(**json.loads(json.dumps(dataclasses.asdict(plan), allow_nan=False))) == plan
    assert Decoder(plan.config()).config == plan.config()
    assert plan.parameters == sum(parameter.numel() for parameter in Decoder(plan.config()).parameters())
    assert plan.family == "decoder" and 0 < plan.predicted["bits_per_byte"] < 5 and plan.predicted["peak_bytes"] > 0
    without = plan_for(Request(100.0), dataclasses.replace(TEXT, baseline_bits_per_byte=None), PlanOptions())
    assert "bits_per_byte" not in without.predicted


def test_operations_are_counted_as_by_hand() -> None:
    config = DecoderConfig(100, 64, 1, 128, 1, 1, 64, 32, tie_word_embeddings=False)
    matrices = 4 * 64 * 64 + 3 * 64 * 128 + 100 * 64  # q k v o, gate up down, head
    norms = 64 * 3 + 2 * 64
    assert flops_per_token(config) == pytest.approx(6 * (matrices + norms) + 12 * 64 * 32, rel=0.01)


def test_real_steps_are_timed() -> None:
    config = DecoderConfig(64, 64, 1, max_position_embeddings=16, tie_word_embeddings=False)
    for precision in ("float32", "bfloat16"):
        model = new_model(config, 0, precision)
        per_step, per_token = time_steps(model, batches(config, 16, 4)(0), 2, settle(TrainOptions(), "decoder"))
        assert 0 < per_token < per_step < 60
