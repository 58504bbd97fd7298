"""Summaries are measured beside the beginning of their texts: numbers worked by hand, Chinese by characters."""

from __future__ import annotations

import pytest

from myna.data.pairs import Pair
from myna.evaluate.options import EvaluateOptions
from myna.evaluate.summaries import measure_summaries

PAIRS = [Pair("台风今天登陆上海，学校停课。", "上海停课", "a:1"), Pair("The river rose fast after rain.", "the river rose", "a:2"),
         Pair("Nothing to see here at all.", "quiet day", "a:3")]


def test_scores_and_what_lies_behind_them() -> None:
    summaries = ["上海停电", "the river rose", "  "]
    measured = measure_summaries(PAIRS, summaries, 3, {"other": [pair.target for pair in PAIRS]}, "whole", EvaluateOptions(resamples=200))
    report = measured.report
    # 3 of 4 characters; all; none. the beginnings: 台风今 shares none, The river rose all, Nothing to see none
    assert report.metrics["rouge_1"].value == pytest.approx((0.75 + 1 + 0) / 3)
    assert report.metrics["rouge_2"].value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert report.baseline_metrics["rouge_l"].value == pytest.approx(1 / 3) and report.baseline == "the first 3 words"
    assert "first 3 words" in report.metrics["rouge_1"].signature and "read=whole" in report.metrics["rouge_1"].signature
    details = measured.details
    assert details["length_ratio"] == pytest.approx(7 / 9) and details["empty"] == 1 and details["others"]["other"]["rouge_l"] == 1.0
    assert details["novel_bigrams"] == pytest.approx(2 / 5)  # 海停 and 停电 of 上海, 海停, 停电, the river, river rose
    assert details["novel_bigrams_of_references"] == pytest.approx(2 / 6)  # 海停 and quiet day
    assert [row["where"] for row in details["best"]] == ["a:2", "a:1", "a:3"] and details["worst"][0]["where"] == "a:3"
    assert any("1 summaries are empty" in line for line in measured.lines) and any("上海停电" in line for line in measured.lines)
