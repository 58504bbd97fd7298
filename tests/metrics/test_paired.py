"""Scores from sums: the whole is the formula of the sums, intervals come from paired draws, the direction of a metric counts."""

from __future__ import annotations

import numpy as np
import pytest

from myna.errors import UserError
from myna.metrics.intervals import percentile_interval
from myna.metrics.paired import Measure, divided, means, measured_report, ratio


def test_the_value_is_the_formula_of_the_sums_and_the_interval_is_of_paired_draws() -> None:
    generator = np.random.default_rng(1)
    model, baseline = (np.stack([generator.integers(0, 5, 50), np.full(50, 5)], axis=1) for _ in range(2))
    report = measured_report({"accuracy": Measure(model, ratio, "a|v1", baseline)}, "majority", resamples=500, seed=3)
    score, beside, difference = report.metrics["accuracy"], report.baseline_metrics["accuracy"], report.differences["accuracy"]
    assert score.value == model[:, 0].sum() / 250 and beside.value == baseline[:, 0].sum() / 250
    draws = np.random.default_rng(3).integers(0, 50, (500, 50))
    values = model[:, 0][draws].sum(1) / 250
    others = baseline[:, 0][draws].sum(1) / 250
    assert (score.low, score.high) == pytest.approx(percentile_interval(values))
    assert (difference.low, difference.high) == pytest.approx(percentile_interval(values - others))
    assert report.baseline == "majority" and score.signature == "a|v1"


@pytest.mark.parametrize(("lower", "sign"), [(False, 1), (True, -1)])
def test_better_points_the_way_of_the_metric(lower: bool, sign: int) -> None:
    model, baseline = means(np.full(10, 0.5)), means(np.full(10, 0.4))
    report = measured_report({"x": Measure(model, ratio, "x", baseline, lower_is_better=lower)}, "b")
    assert report.improvements["x"].value == pytest.approx(sign * 25)
    assert ("better" if sign > 0 else "worse") in report.verdict()


def test_what_cannot_be_compared_is_shown_and_not_compared() -> None:
    model, baseline = means(np.arange(4)), means(np.arange(4))
    report = measured_report({"x": Measure(model, ratio, "x|tokenizer=1", baseline, "x|tokenizer=2")}, "b")
    assert report.baseline_metrics["x"].signature == "x|tokenizer=2" and not report.differences and not report.improvements
    never = measured_report({"x": Measure(model, ratio, "x", means(np.zeros(4)))}, "b")  # no percentage of nothing
    assert never.differences and not never.improvements


def test_several_measures_share_the_draws() -> None:
    values = np.random.default_rng(0).random(30)
    report = measured_report({"a": Measure(means(values), ratio, "a"), "b": Measure(means(values), ratio, "b", means(values))}, "same")
    assert report.metrics["a"].low == report.metrics["b"].low
    assert (report.differences["b"].value, report.differences["b"].low, report.differences["b"].high) == (0, 0, 0)


def test_one_item_and_other_items_are_refused() -> None:
    with pytest.raises(UserError, match="1 items"):
        measured_report({"a": Measure(means(np.ones(1)), ratio, "a")})
    with pytest.raises(ValueError, match="items"):
        measured_report({"a": Measure(means(np.ones(3)), ratio, "a", means(np.ones(4)))}, "b")


def test_nothing_divided_by_nothing_is_nothing() -> None:
    assert divided(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == [0, 0.5]
