"""The learning rate's shape: up, level, down; and nothing but the step and the plan decides it."""

from __future__ import annotations

import math

import pytest

from myna.train.options import TrainOptions
from myna.train.schedule import decay_start, rate_factor


def curve(steps: int, options: TrainOptions) -> list[float]:
    start = decay_start(steps, options)
    return [rate_factor(step, steps, start, options) for step in range(steps)]


def test_linear_rises_stays_and_falls_to_nothing_after_the_last_step() -> None:
    factors = curve(100, TrainOptions(schedule="linear", warmup=0.1, decay=0.5))
    assert factors[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert factors[10:50] == [1.0] * 40
    assert factors[50:] == pytest.approx([1 - k / 50 for k in range(50)])  # the step after the last would have 0


def test_cosine_falls_along_a_half_wave() -> None:
    factors = curve(100, TrainOptions(schedule="cosine", warmup=0.0, decay=0.8))
    assert factors[:20] == [1.0] * 20
    assert factors[20:] == pytest.approx([(1 + math.cos(math.pi * k / 80)) / 2 for k in range(80)])


def test_constant_only_rises() -> None:
    factors = curve(50, TrainOptions(schedule="constant", warmup=0.1))
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and factors[5:] == [1.0] * 45


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "decay"), [(0.02, 0.6), (0.0, 0.0), (1.0, 1.0), (0.5, 1.0)])
@pytest.mark.parametrize("steps", [1, 2, 3, 17, 1000])
def test_every_step_trains_and_none_beyond_the_peak(schedule: str, warmup: float, decay: float, steps: int) -> None:
    options = TrainOptions(schedule=schedule, warmup=warmup, decay=decay)  # type: ignore[arg-type]
    factors = curve(steps, options)
    assert all(0 < factor <= 1 for factor in factors)
    start = decay_start(steps, options)
    assert 0 <= start < steps
    peak = factors.index(max(factors))
    assert factors[:peak + 1] == sorted(factors[:peak + 1]) and factors[peak:] == sorted(factors[peak:], reverse=True)


def test_a_decay_that_starts_early_ends_at_nothing_all_the_same() -> None:
    options = TrainOptions(warmup=0.0)
    factors = [rate_factor(step, 40, 30, options) for step in range(40)]
    assert factors[:31] == [1.0] * 31
    assert factors[30:] == pytest.approx([1 - k / 10 for k in range(10)])
