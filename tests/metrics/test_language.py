"""Bits per byte and its fellows: the values by hand, the pairing, and when numbers may not be compared."""

from __future__ import annotations

import numpy as np
import pytest

from myna.errors import UserError
from myna.metrics.language import Blocks, block_size, language_report


def blocks(bits: np.ndarray, tokenizer: str = "a" * 64, size: int = 2048) -> Blocks:
    n = len(bits)
    sizes = np.full(n, float(size))
    sizes[-1] = 100
    return Blocks(bits, sizes, sizes / 2, np.full(n, 500.0), size, tokenizer)


def test_values_are_ratios_of_sums_and_not_means_of_ratios() -> None:
    model = blocks(np.array([4096.0, 2048, 500]))
    report = language_report(model)
    total, size = 4096 + 2048 + 500, 2048 * 2 + 100
    assert report.metrics["bits_per_byte"].value == pytest.approx(total / size)
    assert report.metrics["bits_per_character"].value == pytest.approx(2 * total / size)
    assert report.metrics["perplexity"].value == pytest.approx(2 ** (total / 1500))
    assert model.bits_per_byte == pytest.approx(total / size)
    assert model.loss == pytest.approx(total / 1500 * np.log(2))
    assert report.baseline == "" and report.differences == {}


def test_pairing_sees_a_small_difference_that_the_text_would_hide() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(4000, 800, 150)
    model, baseline = blocks(hard - rng.normal(60, 20, 150)), blocks(hard)
    report = language_report(model, baseline, "n-gram")
    one, two = report.metrics["bits_per_byte"], report.baseline_metrics["bits_per_byte"]
    assert one.low < two.value < one.high  # apart, the intervals overlap
    difference, improvement = report.differences["bits_per_byte"], report.improvements["bits_per_byte"]
    assert difference.high < 0 < improvement.low
    assert difference.low < difference.value < difference.high
    assert difference.value == pytest.approx(one.value - two.value)
    assert improvement.value == pytest.approx(100 * (two.value - one.value) / two.value)
    assert "significantly better" in report.verdict()
    assert "significantly worse" in language_report(baseline, model, "n-gram").verdict()
    assert "not distinguishable" in language_report(blocks(hard), blocks(rng.permutation(hard)), "n-gram").verdict()


def test_perplexities_under_two_tokenizers_stand_side_by_side_but_are_not_compared() -> None:
    bits = np.random.default_rng(0).normal(4000, 800, 30)
    report = language_report(blocks(bits), blocks(bits + 1, "b" * 64), "n-gram")
    assert "perplexity" in report.baseline_metrics
    assert set(report.differences) == {"bits_per_byte", "bits_per_character"}


def test_another_text_is_refused() -> None:
    bits = np.full(30, 4000.0)
    with pytest.raises(ValueError, match="same text"):
        language_report(blocks(bits), blocks(bits, size=1024), "n-gram")
    with pytest.raises(UserError, match="at least 128 bytes"):
        language_report(blocks(bits[:1]))


def test_the_signature_names_all_that_made_the_number() -> None:
    report = language_report(blocks(np.full(30, 4000.0)), resamples=100, seed=7)
    expected = "bits_per_byte|bootstrap=100|block=2048B|seed=7|stride=half|separator=context-only|v1"
    assert report.metrics["bits_per_byte"].signature == expected
    assert "|tokenizer=aaaaaaaaaaaa|" in report.metrics["perplexity"].signature


@pytest.mark.parametrize("text_bytes, size", [(10, 64), (5000, 250), (300_000, 2048), (20_480_000, 2048), (204_800_000, 20480)])
def test_blocks_are_2048_bytes_between_few_and_many(text_bytes: int, size: int) -> None:
    assert block_size(text_bytes) == size
