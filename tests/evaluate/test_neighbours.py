"""Word vectors are measured on pairs of neighbours: counted by hand, and in an order that must come out."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

from myna.errors import UserError
from myna.evaluate.neighbours import _count_together, _pairs, _right, report_neighbours
from myna.evaluate.options import EvaluateOptions
from myna.models.options import VectorsOptions
from myna.models.vectors import Vectors
from myna.models.vectors_fit import fit_vectors
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.corpora import write_corpus

OPTIONS = EvaluateOptions(resamples=200)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any, Any]:
    texts = list(topics.values())[:40]
    corpus = write_corpus(tmp_path_factory.mktemp("corpus") / "c", texts)
    tokenizer = train_tokenizer(corpus, TokenizerOptions(kind="words", vocab_size=1024))
    streams = [np.array([id for text in part for id in [*tokenizer.encode(text), tokenizer.separator_id]])
               for part in (texts[:34], texts[34:])]
    return tokenizer, *streams


def test_pairs_are_counted_as_by_hand() -> None:
    rows = np.array([0, 1, 2, 0, -1, 1, 0, 3])
    for window in (1, 2, 3):
        expected = np.zeros((4, 4), int)
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if 0 < abs(i - j) <= window and min(a, b) >= 0 and not (min(i, j) < 4 < max(i, j)):
                    expected[a, b] += 1
        here, there = np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4)
        (found,) = _count_together(rows, window, 4, here, there)
        assert (found.reshape(4, 4) == expected).all()


def test_a_neighbour_is_in_the_window_and_the_same_document() -> None:
    rows = np.arange(2000) % 50
    rows[::25] = -1
    here, there = _pairs(rows, 3, 0)
    gaps = there - here
    assert len(here) > 1000 and set(np.abs(gaps)) == {1, 2, 3} and (here >= 0).all() and (there >= 0).all()
    assert ((here < 25) == (there < 25)).all()  # a separator stands at every 25th place


def test_ties_count_half() -> None:
    assert _right(np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0])).tolist() == [1, 0.5, 0]


def test_trained_vectors_know_more_than_chance_and_random_ones_nothing(made: tuple[Tokenizer, Any, Any]) -> None:
    tokenizer, train, test = made
    vectors = fit_vectors(train, tokenizer, tokenizer.separator_id, VectorsOptions(hidden_size=24, epochs=12, min_count=3), seed=1)
    report = report_neighbours(vectors, tokenizer, train, test, OPTIONS)
    score, beside = report.metrics["neighbour_accuracy"], report.baseline_metrics["neighbour_accuracy"]
    assert score.low > 0.5 and beside.low > 0.5 and report.baseline == "counted neighbours"
    assert report.differences["neighbour_accuracy"].value == pytest.approx(score.value - beside.value)
    assert report.improvements["neighbour_accuracy"].value == pytest.approx(100 * (score.value / beside.value - 1))
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(2, *vectors.inputs.shape))
    noise = Vectors(vectors.words, *tables, vectors.counts, vectors.facts, tokenizer)
    assert report_neighbours(noise, tokenizer, train, test, OPTIONS).metrics["neighbour_accuracy"].value == pytest.approx(0.5, abs=0.05)


def test_what_cannot_be_measured_is_one_line(made: tuple[Tokenizer, Any, Any]) -> None:
    tokenizer, train, test = made
    vectors = fit_vectors(train, tokenizer, tokenizer.separator_id, VectorsOptions(hidden_size=8, epochs=1, min_count=3))
    with pytest.raises(UserError, match="pairs of known words"):
        report_neighbours(vectors, tokenizer, train, test[:5], OPTIONS)
    with pytest.raises(UserError, match="scores neighbours"):
        report_neighbours(Vectors(vectors.words, vectors.inputs, None, vectors.counts), tokenizer, train, test, OPTIONS)
