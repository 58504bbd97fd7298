"""The one loop: it learns, it counts right, it survives bad steps and stops, and it resumes to the last bit."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from myna.errors import UserError
from myna.models.decoder import Decoder, DecoderConfig
from myna.train import loop
from myna.train.checkpoint import load_checkpoint
from myna.train.loop import Hooks, Interrupted, Position, Run, read_log, train
from myna.train.options import TrainOptions
from myna.train.shapes import RATES, settle

pytestmark = pytest.mark.filterwarnings("error::UserWarning")
OPTIONS = settle(TrainOptions(validations=0), "decoder")
Batch = dict[str, Tensor]
Read = Callable[[int], Batch]


def decoder(seed: int = 0) -> Decoder:
    return Decoder(DecoderConfig(vocab_size=16, hidden_size=32, num_hidden_layers=1, intermediate_size=32, head_dim=32,
                                 max_position_embeddings=16), seed)


def read(step: int) -> Batch:
    windows = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(step))
    return {"input_ids": windows[:, :-1], "labels": windows[:, 1:]}


def tuned(**changes: Any) -> TrainOptions:
    """The options of these tests; another optimizer has its own rate."""
    if "optimizer" in changes:
        changes = {"learning_rate": RATES[changes["optimizer"]], **changes}
    return replace(OPTIONS, **changes)


def stopping(step: int, read: Read = read, times: int = 1) -> Read:
    """Read batches; while those of `step` are read, this process gets a SIGTERM."""
    def stop(at: int) -> Tensor:
        if at == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)
        return read(at)
    return stop


def crashing(step: int, read: Read = read) -> Read:
    def crash(at: int) -> Tensor:
        if at == step:
            raise RuntimeError("killed")
        return read(at)
    return crash


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def rows(folder: Path, *events: str) -> list[dict[str, Any]]:
    """The log without what a clock decides."""
    found = [row for row in read_log(folder / "log.jsonl") if not events or row["event"] in events]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


class Toy(nn.Module):
    """A model of one matrix whose loss is whatever a test says."""

    def __init__(self, loss: Callable[[Toy, Tensor, Any], tuple[dict[str, tuple[Tensor, float]], Any]],
                 counts: Callable[[Tensor], dict[str, int]] = lambda rows: {"a": len(rows)}) -> None:
        super().__init__()
        self.cell = nn.Module()
        self.cell.weight = nn.Parameter(torch.eye(3))
        self.gain = nn.Parameter(torch.ones(3))
        self._loss, self._counts = loss, counts

    def counts(self, batch: Batch) -> dict[str, int]:
        return self._counts(batch["input_ids"])

    def loss(self, batch: Batch, carry: Any = None) -> Any:
        return self._loss(self, batch["input_ids"], carry)

    def table_names(self) -> set[str]:
        return set()


def constant(rows: Tensor) -> Read:
    return lambda step: {"input_ids": rows}


# ---- learning and counting ----

@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_one_batch_is_learned_by_heart(optimizer: str, tmp_path: Path) -> None:
    options = tuned(optimizer=optimizer, learning_rate={"muon": 0.02, "adamw": 0.01}[optimizer])
    model = decoder()
    end = train(model, lambda step: read(0), Run(80, 4), options, tmp_path, Hooks())
    losses = [row["loss"] for row in rows(tmp_path, "step")]
    assert losses[0] == pytest.approx(math.log(16), abs=0.2)
    assert losses[-1] < 0.1
    assert (end.step, end.tokens, end.bad_steps) == (80, 80 * 4 * 8, 0)


def test_the_logged_loss_is_the_mean_over_the_batch_before_the_step(tmp_path: Path) -> None:
    model = decoder()
    expected = float(model.loss(read(0))[0]["next_token"][0].detach()) / 32
    train(model, read, Run(1, 3), OPTIONS, tmp_path, Hooks())
    (row,) = rows(tmp_path, "step")
    assert row["loss"] == pytest.approx(expected, rel=1e-6)
    assert "next_token" not in row  # one loss is the loss
    assert (row["step"], row["tokens"]) == (1, 32)


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_a_batch_cut_up_trains_as_a_whole_one(micro_rows: int, tmp_path: Path) -> None:
    options = tuned(optimizer="sgd")
    whole, cut = decoder(), decoder()
    train(whole, read, Run(5, 4), options, tmp_path / "whole", Hooks())
    train(cut, read, Run(5, micro_rows), options, tmp_path / "cut", Hooks())
    assert not torch.equal(whole.embed_tokens.weight, decoder().embed_tokens.weight)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(cut)[name], value, rtol=0, atol=1e-5)


def counted(model: Toy, batch: Tensor, carry: Any) -> Any:
    """Squared error where the batch is not zero: micro-batches count differently."""
    error = ((batch @ model.cell.weight - 1) ** 2).sum(-1)
    kept = batch[:, 0] != 0
    return {"error": (error[kept].sum(), 1.0)}, carry


def count_error(batch: Tensor) -> dict[str, int]:
    return {"error": int((batch[:, 0] != 0).sum())}


@pytest.mark.parametrize("micro_rows", [1, 2, 4])
def test_micro_batches_that_count_differently_are_divided_once(micro_rows: int, tmp_path: Path) -> None:
    batch = torch.tensor([[1.0, 2, 3], [0, 1, 1], [0, 2, 2], [2, 1, 0], [1, 1, 1], [0, 0, 1]])
    model = Toy(counted, count_error)
    options = tuned(optimizer="sgd", momentum=0.0, weight_decay=0.0, gradient_clip=1e9)
    train(model, constant(batch), Run(1, micro_rows), options, tmp_path, Hooks())
    plain = torch.eye(3, requires_grad=True)
    loss = ((batch[[0, 3, 4]] @ plain - 1) ** 2).sum(-1).mean()
    loss.backward()
    torch.testing.assert_close(model.cell.weight.detach(), torch.eye(3) - 0.1 * plain.grad, rtol=0, atol=1e-6)
    (row,) = rows(tmp_path, "step")
    assert row["loss"] == pytest.approx(float(loss.detach())) and row["tokens"] == 18
    assert row["gradient_norm"] == pytest.approx(float(plain.grad.norm()))


@pytest.mark.parametrize("micro_rows", [1, 2, 3])
def test_several_losses_are_each_divided_by_what_they_count(micro_rows: int, tmp_path: Path) -> None:
    batch = torch.tensor([[1.0, 1, 1], [0, 1, 1], [1, 0, 2]])

    def loss(model: Toy, rows: Tensor, carry: Any) -> Any:
        return {"a": ((rows @ model.cell.weight)[rows[:, 0] != 0].sum(), 1.0), "b": ((rows * model.gain).sum(), 0.25)}, carry

    model = Toy(loss, lambda rows: {"a": 3 * int((rows[:, 0] != 0).sum()), "b": len(rows)})
    options = tuned(optimizer="sgd", momentum=0.0, weight_decay=0.0, gradient_clip=1e9)
    train(model, constant(batch), Run(1, micro_rows), options, tmp_path, Hooks())
    a = batch[[0, 2]].sum(0)[:, None].expand(3, 3) / 6  # d mean / d weight
    torch.testing.assert_close(model.cell.weight.detach(), torch.eye(3) - 0.1 * a)
    torch.testing.assert_close(model.gain.detach(), torch.ones(3) - 0.1 * 0.25 * batch.sum(0) / 3)
    (row,) = rows(tmp_path, "step")
    assert (row["a"], row["b"]) == (pytest.approx(6 / 6), pytest.approx(8 / 3))
    assert row["loss"] == pytest.approx(6 / 6 + 0.25 * 8 / 3)


def test_a_step_that_predicts_nothing_is_a_defect(tmp_path: Path) -> None:
    model = Toy(lambda model, rows, carry: ({"a": (model.gain.sum(), 1.0)}, carry), lambda rows: {"a": 0})
    with pytest.raises(ValueError, match="predict something"):
        train(model, constant(torch.ones(2, 3)), Run(1, 1), OPTIONS, tmp_path, Hooks())


def test_a_long_gradient_is_cut_to_the_length_allowed_and_logged_as_it_was(tmp_path: Path) -> None:
    def steep(model: Toy, batch: Tensor, carry: Any) -> Any:
        return {"a": (batch[0, 0] * (model.cell.weight * torch.eye(3)).sum() * 2, 1.0)}, carry

    options = tuned(optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0.0, learning_rate=1.0,
                      gradient_clip=0.5)
    for scale, moved in ((100.0, 0.5), (0.01, 0.01 * 3**0.5)):
        model = Toy(steep, lambda rows: {"a": 2})
        train(model, constant(torch.full((1, 1), scale)), Run(1, 1), options, tmp_path / str(scale), Hooks())
        assert float((model.cell.weight.detach() - torch.eye(3)).norm()) == pytest.approx(moved, rel=1e-5)
        assert rows(tmp_path / str(scale), "step")[0]["gradient_norm"] == pytest.approx(scale * 3**0.5)


def test_the_rate_follows_the_schedule(tmp_path: Path) -> None:
    train(decoder(), read, Run(10, 4), tuned(learning_rate=0.5, warmup=0.2, decay=0.5), tmp_path, Hooks())
    assert [row["learning_rate"] for row in rows(tmp_path, "step")] == pytest.approx(
        [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_looks_are_spread_evenly_and_the_last_step_has_one(tmp_path: Path) -> None:
    samples = itertools.count()
    hooks = Hooks(lambda: {"bits_per_byte": 2.5, "loss": 3.0}, lambda: f"sample {next(samples)}")
    train(decoder(), read, Run(10, 4), tuned(validations=3), tmp_path, hooks)
    assert rows(tmp_path, "valid") == [{"event": "valid", "step": step, "bits_per_byte": 2.5, "loss": 3.0, "tokens": 32 * step}
                                       for step in (3, 7, 10)]
    assert [(row["step"], row["text"]) for row in rows(tmp_path, "sample")] == [(3, "sample 0"), (7, "sample 1"), (10, "sample 2")]
    train(decoder(), read, Run(3, 4), OPTIONS, tmp_path / "none", hooks)
    assert not rows(tmp_path / "none", "valid", "sample")


# ---- steps that go wrong ----

def poisoned(bad: set[int], kind: str) -> tuple[Read, Toy]:
    """A model whose loss or gradient is not finite in the steps `bad`."""
    def loss(model: Toy, batch: Tensor, carry: Any) -> Any:
        total = (batch[:, :3] @ model.cell.weight * model.gain).square().sum()
        if carry is not None:
            total = total + 0 * carry[0].sum()  # nothing, unless what a bad step left were carried on
        if batch[0, 3] and kind == "loss":
            total = total * math.inf
        if batch[0, 3] and kind == "gradient":  # the root of nothing: a finite value, a gradient that is not
            total = total + (model.gain * 0).abs().sum().sqrt()
        return {"a": (total, 1.0)}, (total.detach().expand(len(batch)) * 1.0,)

    def batches(step: int) -> Batch:
        values = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        return {"input_ids": torch.cat((values, torch.full((2, 1), float(step in bad))), 1)}

    return batches, Toy(loss)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_a_step_that_is_not_finite_is_skipped_and_logged(kind: str, optimizer: str, tmp_path: Path) -> None:
    options = tuned(optimizer=optimizer, schedule="constant", warmup=0.0)
    batches, model = poisoned({2, 3, 4, 5, 8}, kind)
    seen: list[dict[str, Tensor]] = []
    end = train(model, lambda step: seen.append(weights(model)) or batches(step), Run(10, 2), options, tmp_path, Hooks())
    seen.append(weights(model))
    for step in range(10):
        changed = not torch.equal(seen[step]["cell.weight"], seen[step + 1]["cell.weight"])
        assert changed == (step not in {2, 3, 4, 5, 8}), step
    assert all(torch.isfinite(value).all() for at in seen for value in at.values())
    assert end.bad_steps == 0
    logged = rows(tmp_path, "step")
    assert [row["step"] for row in logged if row.get("skipped")] == [3, 4, 5, 6, 9]
    assert logged[2]["gradient_norm"] is None and (logged[2]["loss"] is None) == (kind == "loss")
    assert "NaN" not in (tmp_path / "log.jsonl").read_text() and "Infinity" not in (tmp_path / "log.jsonl").read_text()
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values() if tensor.is_floating_point())
    # the skipped steps left no trace in the optimizer: a run of the good batches alone ends with the same weights
    good, twin = [0, 1, 6, 7, 9], poisoned(set(), kind)[1]
    train(twin, lambda step: batches(good[step]), Run(5, 2), options, tmp_path / "good", Hooks())
    assert_same_bits(weights(twin), weights(model))


def test_five_bad_steps_in_a_row_end_the_run_also_across_a_resume(tmp_path: Path) -> None:
    batches, model = poisoned({1, 2, 3, 4, 5, 6}, "loss")
    with pytest.raises(UserError, match="not finite 5 steps in a row"):
        train(model, batches, Run(10, 2), OPTIONS, tmp_path / "one", Hooks())
    assert [row["step"] for row in rows(tmp_path / "one", "step") if row.get("skipped")] == [2, 3, 4, 5, 6]
    with pytest.raises(Interrupted):
        train(poisoned({1, 2, 3, 4, 5, 6}, "loss")[1], stopping(3, batches), Run(10, 2), OPTIONS, tmp_path / "two", Hooks())
    with pytest.raises(UserError, match="not finite 5 steps in a row"):
        train(poisoned({1, 2, 3, 4, 5, 6}, "loss")[1], batches, Run(10, 2), OPTIONS, tmp_path / "two", Hooks())
    assert rows(tmp_path / "one", "step") == rows(tmp_path / "two", "step")


# ---- resuming ----

STEPS = 7


@pytest.fixture(scope="module", params=["muon", "adamw", "sgd"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainOptions, dict[str, Tensor], list]:
    options = tuned(optimizer=request.param, validations=3)
    folder, model = tmp_path_factory.mktemp("whole"), decoder()
    train(model, read, Run(STEPS, 2), options, folder, looks(model))
    return options, weights(model), rows(folder)


def looks(model: Decoder) -> Hooks:
    return Hooks(lambda: {"loss": -float(model.log_probs([1, 2, 3]).mean())}, lambda: "a\u2028b\x85漢\n")


@pytest.mark.parametrize("step", range(STEPS))
def test_stopped_after_any_step_it_resumes_to_the_same_bits(
        step: int, uninterrupted: tuple[TrainOptions, dict[str, Tensor], list], tmp_path: Path) -> None:
    options, expected, logged = uninterrupted
    model = decoder()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"step {step + 1} of {STEPS}.*--resume"):
        train(model, stopping(step), Run(STEPS, 2), options, tmp_path, looks(model))
    assert signal.getsignal(signal.SIGTERM) == before
    again = decoder(seed=9)  # its first weights must not matter
    end = train(again, read, Run(STEPS, 2), options, tmp_path, looks(again))
    assert_same_bits(weights(again), expected)
    assert rows(tmp_path) == logged
    assert (end.step, end.tokens) == (STEPS, STEPS * 32)


def test_killed_at_any_step_it_resumes_from_the_checkpoint_to_the_same_bits(
        uninterrupted: tuple[TrainOptions, dict[str, Tensor], list], tmp_path: Path) -> None:
    options, expected, logged = uninterrupted
    model = decoder()
    with pytest.raises(Interrupted):
        train(model, stopping(2), Run(STEPS, 2), options, tmp_path, looks(model))
    for step in (6, 4, 5, 3):  # each time it goes on from step 3, and nothing is saved
        model = decoder(seed=step)
        with pytest.raises(RuntimeError, match="killed"):
            train(model, crashing(step), Run(STEPS, 2), options, tmp_path, looks(model))
        with (tmp_path / "log.jsonl").open("a") as file:
            file.write('{"event": "step", "st')  # the row it was writing
    model = decoder(seed=8)
    train(model, read, Run(STEPS, 2), options, tmp_path, looks(model))
    assert_same_bits(weights(model), expected)
    assert rows(tmp_path) == logged


def test_killed_before_the_first_checkpoint_it_starts_again(tmp_path: Path) -> None:
    whole, again = decoder(), decoder()
    train(whole, read, Run(4, 2), OPTIONS, tmp_path / "whole", Hooks())
    with pytest.raises(RuntimeError):
        train(decoder(), crashing(3), Run(4, 2), OPTIONS, tmp_path / "again", Hooks())
    train(again, read, Run(4, 2), OPTIONS, tmp_path / "again", Hooks())
    assert_same_bits(weights(again), weights(whole))
    assert rows(tmp_path / "again") == rows(tmp_path / "whole")


def test_carry_and_random_numbers_are_resumed_too(tmp_path: Path) -> None:
    def remembering(model: Toy, batch: Tensor, carry: Any) -> Any:
        seen, count = carry if carry is not None else (torch.zeros(len(batch), 3), torch.zeros(len(batch), dtype=torch.int64))
        noise = torch.rand(3)  # as dropout would draw it
        total = ((batch[:, :3].float() * noise + seen) @ model.cell.weight * model.gain).square().sum()
        return {"a": (total, 1.0)}, ((0.5 * seen + batch[:, :3].float()).detach(), count + 1)

    whole = Toy(remembering)
    torch.manual_seed(0)
    train(whole, read, Run(6, 2), OPTIONS, tmp_path / "whole", Hooks())
    torch.manual_seed(0)
    with pytest.raises(Interrupted):
        train(Toy(remembering), stopping(2), Run(6, 2), OPTIONS, tmp_path / "cut", Hooks())
    torch.manual_seed(1)
    again = Toy(remembering)
    train(again, read, Run(6, 2), OPTIONS, tmp_path / "cut", Hooks())
    assert_same_bits(weights(again), weights(whole))
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_each_row_keeps_its_own_carry_however_the_batch_is_cut(micro_rows: int, tmp_path: Path) -> None:
    def adding(model: Toy, batch: Tensor, carry: Any) -> Any:
        (seen,) = carry if carry is not None else (torch.zeros(len(batch), 3),)
        seen = 0.5 * seen + batch[:, :3].float()
        return {"a": ((seen @ model.cell.weight).square().sum(), 1.0)}, (seen.detach(),)

    whole, cut = Toy(adding), Toy(adding)
    options = tuned(optimizer="sgd")
    train(whole, read, Run(5, 4), options, tmp_path / "whole", Hooks())
    train(cut, read, Run(5, micro_rows), options, tmp_path / "cut", Hooks())
    losses = [[row["loss"] for row in rows(tmp_path / name, "step")] for name in ("cut", "whole")]
    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(cut.cell.weight, whole.cell.weight, rtol=0, atol=1e-5)


def test_a_look_is_taken_without_dropout(tmp_path: Path) -> None:
    model = decoder()
    seen: list[bool] = []
    train(model, lambda step: seen.append(model.training) or read(step), Run(4, 4), tuned(validations=2), tmp_path,
          Hooks(lambda: {"training": float(model.training)}))
    assert seen == [True] * 4 and [row["training"] for row in rows(tmp_path, "valid")] == [0.0, 0.0]


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    model = decoder()
    train(model, read, Run(3, 4), OPTIONS, tmp_path, Hooks())
    before = rows(tmp_path)
    again = decoder(seed=1)
    end = train(again, crashing(3), Run(3, 4), OPTIONS, tmp_path, Hooks())
    assert end.step == 3 and rows(tmp_path) == before
    assert_same_bits(weights(again), weights(model))


def test_a_checkpoint_of_another_model_or_optimizer_is_an_error(tmp_path: Path) -> None:
    train(decoder(), read, Run(2, 4), OPTIONS, tmp_path, Hooks())
    with pytest.raises(UserError, match="does not fit"):
        train(Decoder(DecoderConfig(vocab_size=16, hidden_size=64, num_hidden_layers=1)), read, Run(2, 4), OPTIONS, tmp_path, Hooks())
    for optimizer in ("adamw", "sgd"):
        with pytest.raises(UserError):
            train(decoder(), read, Run(2, 4), tuned(optimizer=optimizer), tmp_path, Hooks())


def test_checkpoints_are_as_far_apart_as_the_options_say(tmp_path: Path, clock: SimpleNamespace) -> None:
    saved: list[int] = []
    folder = tmp_path / "checkpoints"

    def note(step: int) -> Tensor:
        found = load_checkpoint(folder)
        saved.append(found.step if found else 0)
        clock.now += 10.0
        return read(step)

    train(decoder(), note, Run(8, 4), tuned(checkpoint_seconds=30.0), tmp_path, Hooks())
    assert saved == [0, 0, 0, 3, 3, 3, 6, 6]
    found = load_checkpoint(folder)
    assert found is not None and found.step == 8


def test_while_the_log_is_cut_back_it_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        train(decoder(), stopping(2), Run(4, 4), OPTIONS, tmp_path, Hooks())
    before = rows(tmp_path)

    def killed(self: Path, target: Path) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(decoder(), read, Run(4, 4), OPTIONS, tmp_path, Hooks())
    assert rows(tmp_path) == before and len(before) == 3


# ---- signals ----

def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        train(decoder(), stopping(1, times=2), Run(4, 4), OPTIONS, tmp_path, Hooks())
    assert not isinstance(caught.value, Interrupted)
    assert load_checkpoint(tmp_path / "checkpoints") is None


def test_in_another_thread_it_trains_without_signals(tmp_path: Path) -> None:
    ends: list[Position] = []
    thread = threading.Thread(target=lambda: ends.append(train(decoder(), read, Run(2, 4), OPTIONS, tmp_path, Hooks())))
    thread.start()
    thread.join()
    assert ends and ends[0].step == 2


SCRIPT = """
    import sys, time, torch
    from pathlib import Path
    from myna.models.decoder import Decoder, DecoderConfig
    from myna.train.loop import Hooks, Interrupted, Run, train
    from myna.train.options import TrainOptions
    from myna.train.shapes import settle

    torch.set_num_threads(1)
    shape = DecoderConfig(vocab_size=16, hidden_size=32, num_hidden_layers=1, intermediate_size=32, head_dim=32, max_position_embeddings=16)

    def read(step):
        time.sleep(0.01)
        windows = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(step))
        return {"input_ids": windows[:, :-1], "labels": windows[:, 1:]}

    try:
        train(Decoder(shape), read, Run(2000, 2), settle(TrainOptions(validations=0), "decoder"), Path(sys.argv[1]), Hooks())
    except Interrupted as stop:
        print(stop)
        sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_process_asked_to_stop_saves_the_step_it_is_at(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(rows(tmp_path, "step")) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    logged = rows(tmp_path, "step")
    assert "--resume" in said and f"step {len(logged)} of 2000" in said
    found = load_checkpoint(tmp_path / "checkpoints")
    assert found is not None and 5 <= found.step == len(logged) < 2000
    model = decoder()  # what it logged and saved is what these steps give here
    with pytest.raises(RuntimeError, match="killed"):
        train(model, crashing(found.step), Run(2000, 2), OPTIONS, tmp_path / "again", Hooks())
    assert rows(tmp_path / "again", "step") == logged
    saved = {name.removeprefix("model."): value for name, value in found.tensors.items() if name.startswith("model.")}
    assert_same_bits(weights(model), saved)


# ---- the clock ----

@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def timed(clock: SimpleNamespace, seconds: Callable[[int], float], then: Read = read) -> Read:
    def work(step: int) -> Tensor:
        clock.now += seconds(step)
        return then(step)
    return work


CLOCKED = tuned(checkpoint_seconds=1e9, decay=0.5, warmup=0.0, learning_rate=0.01)


def test_a_machine_that_gets_slower_ends_in_time_with_a_whole_decay(tmp_path: Path, clock: SimpleNamespace) -> None:
    began = clock.now
    work = timed(clock, lambda step: 1.0 if step < 20 else 2.0)
    end = train(decoder(), work, Run(100, 4, seconds=105.0), CLOCKED, tmp_path, Hooks())
    assert 95 <= clock.now - began <= 105.5 and end.seconds == clock.now - began
    (note,) = rows(tmp_path, "note")
    assert end.decay_start == note["step"] < 50 and end.step == end.steps < 100
    assert str(end.decay_start) in note["text"] and str(end.steps) in note["text"]
    rates = [row["learning_rate"] for row in rows(tmp_path, "step")]
    start, left = end.decay_start, end.steps - end.decay_start
    assert rates[:start] == [0.01] * start
    assert rates[start:] == pytest.approx([0.01 * (1 - k / left) for k in range(left)])


def test_an_early_decay_is_kept_with_the_run(tmp_path: Path, clock: SimpleNamespace) -> None:
    def slow(step: int) -> float:
        return 1.0 if step < 20 else 2.0

    options, run = replace(CLOCKED, validations=6), Run(100, 4, seconds=105.0)
    whole = decoder()
    end = train(whole, timed(clock, slow), run, options, tmp_path / "whole", looks(whole))
    cut = decoder()
    with pytest.raises(RuntimeError, match="killed"):  # the decision itself was checkpointed: nothing else has been
        train(cut, timed(clock, slow, crashing(end.decay_start + 3)), run, options, tmp_path / "cut", looks(cut))
    found = load_checkpoint(tmp_path / "cut" / "checkpoints")
    assert found is not None and found.step == end.decay_start
    again = decoder(seed=3)
    resumed = train(again, timed(clock, lambda step: 0.1), run, options, tmp_path / "cut", looks(again))  # it is fast again: too late
    assert (resumed.step, resumed.steps, resumed.decay_start) == (end.step, end.steps, end.decay_start)
    assert_same_bits(weights(again), weights(whole))
    assert rows(tmp_path / "cut", "step", "valid", "sample") == rows(tmp_path / "whole", "step", "valid", "sample")
    assert rows(tmp_path / "cut", "valid")[-1]["step"] == end.steps


def test_looks_and_checkpoints_that_were_planned_for_do_not_start_the_decay(tmp_path: Path, clock: SimpleNamespace) -> None:
    def look() -> dict[str, float]:
        clock.now += 10.0  # as much as ten steps
        return {"loss": 1.0}

    options = replace(CLOCKED, validations=10)
    end = train(decoder(), timed(clock, lambda step: 1.0), Run(100, 4, seconds=205.0), options, tmp_path, Hooks(look))
    assert (end.step, end.decay_start) == (100, 50) and not rows(tmp_path, "note")
    clock.now = 1000.0
    end = train(decoder(), timed(clock, lambda step: 1.0), Run(100, 4, seconds=150.0), options, tmp_path / "less", Hooks(look))
    assert end.step < 100 and clock.now - 1000 <= 165  # looks that were not planned for do


def test_one_long_pause_is_not_taken_for_a_slower_machine(tmp_path: Path, clock: SimpleNamespace) -> None:
    work = timed(clock, lambda step: 15.0 if step == 25 else 1.0)
    end = train(decoder(), work, Run(100, 4, seconds=120.0), CLOCKED, tmp_path, Hooks())
    assert end.step == 100 and not rows(tmp_path, "note")


def test_without_a_time_only_steps_decide(tmp_path: Path, clock: SimpleNamespace) -> None:
    end = train(decoder(), timed(clock, lambda step: 10.0**step), Run(40, 4), CLOCKED, tmp_path, Hooks())
    assert end.step == 40 and not rows(tmp_path, "note")


# ---- the log ----

def test_rows_are_json_a_line_each_with_exact_numbers(tmp_path: Path) -> None:
    train(decoder(), read, Run(2, 4), tuned(validations=1), tmp_path, Hooks(lambda: {"loss": 1 / 3}, lambda: "a\u2028b\x85漢\n"))
    lines = (tmp_path / "log.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b"" and [json.loads(line) for line in lines] == read_log(tmp_path / "log.jsonl")
    step, _, valid, sample = read_log(tmp_path / "log.jsonl")
    assert set(step) == {"event", "step", "loss", "gradient_norm", "learning_rate", "tokens", "seconds"}
    assert valid["loss"] == 1 / 3 and sample["text"] == "a\u2028b\x85漢\n"
    assert read_log(tmp_path / "absent") == []


# ---- the best of the looks ----

def scripted(values: list[float]) -> Hooks:
    """Looks that measure what a test says, one after the other."""
    left = iter(values)
    return Hooks(lambda: {"bits_per_byte": next(left)})


def test_the_weights_that_were_best_on_the_validation_text_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[int, dict[str, Tensor]] = {}
    model = decoder()

    def watched(step: int) -> Batch:
        seen[step] = weights(model)
        return read(step)

    train(model, watched, Run(8, 4), tuned(validations=4), tmp_path, scripted([2.5, 2.1, 2.2, 2.3]))
    assert_same_bits(weights(model), seen[4])  # the second look came after step 4
    (note,) = rows(tmp_path, "note")
    assert "step 4" in note["text"] and "2.100" in note["text"] and note["text"] in capsys.readouterr().err
    last = decoder()
    train(last, read, Run(8, 4), tuned(validations=4), tmp_path / "falling", scripted([2.5, 2.4, 2.3, 2.2]))
    assert not rows(tmp_path / "falling", "note") and not torch.equal(last.embed_tokens.weight, model.embed_tokens.weight)


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_the_best_weights_survive_a_stop(stop: int, tmp_path: Path) -> None:
    values = [2.5, 2.1, 2.2, 2.3]
    whole = decoder()
    train(whole, read, Run(8, 4), tuned(validations=4), tmp_path / "whole", scripted(values))
    with pytest.raises(Interrupted):
        train(decoder(), stopping(stop), Run(8, 4), tuned(validations=4), tmp_path / "cut", scripted(values))
    again = decoder(seed=3)
    train(again, read, Run(8, 4), tuned(validations=4), tmp_path / "cut", scripted(values[(stop + 1) // 2:]))
    assert_same_bits(weights(again), weights(whole))
    finished = decoder(seed=4)  # a run that had ended gives the same again
    train(finished, read, Run(8, 4), tuned(validations=4), tmp_path / "cut", scripted([]))
    assert_same_bits(weights(finished), weights(whole))
