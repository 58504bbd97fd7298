"""The paired bootstrap against its definition and against the normal approximation where that holds."""

from __future__ import annotations

import numpy as np
import pytest

from myna.metrics.intervals import percentile_interval, resampled_sums


def test_sums_are_of_the_rows_drawn_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(0).random((7, 2))
    drawn = np.random.default_rng(3).integers(0, 7, size=(50, 7))
    expected = np.stack([columns[rows].sum(axis=0) for rows in drawn])
    np.testing.assert_allclose(resampled_sums(columns, 50, seed=3), expected)
    monkeypatch.setattr("myna.metrics.intervals._DRAWS_AT_ONCE", 21)
    np.testing.assert_allclose(resampled_sums(columns, 50, seed=3), expected)


def test_the_draw_is_the_same_for_every_column() -> None:
    column = np.random.default_rng(0).random(40)
    sums = resampled_sums(np.stack([column, column + 1], axis=1))
    np.testing.assert_allclose(sums[:, 1] - sums[:, 0], 40)


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = percentile_interval(resampled_sums(values[:, None])[:, 0] / 400)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.04)
    assert high == pytest.approx(values.mean() + half, abs=0.04)


def test_one_block_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 blocks"):
        resampled_sums(np.ones((1, 1)))
