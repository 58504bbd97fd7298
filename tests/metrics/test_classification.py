"""Accuracy, precision, recall, F1 and the confusion matrix equal scikit-learn's on random cases."""

from __future__ import annotations

import numpy as np
import pytest

from myna.metrics import classification

CASES = 1000


@pytest.mark.parametrize("several", [False, True])
def test_classification_is_scikit_learns(several: bool) -> None:
    learn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(6)
    labels = ["a", "b", "c", "never"]
    for _ in range(CASES):
        items = int(generator.integers(1, 12))
        if several:
            tables = [generator.random((items, 4)) < 0.4 for _ in range(2)]
            for table in tables:
                table[:, 3] = False
            rows = [[{labels[k] for k in np.flatnonzero(row)} for row in table] for table in tables]
            wanted = tables
        else:
            drawn = [[labels[k] for k in generator.integers(0, 3, items)] for _ in range(2)]
            rows, wanted = [[{label} for label in side] for side in drawn], drawn
        counted = classification.count_decisions(rows[0], rows[1], labels).sum(0)[None]
        keywords = {"labels": [0, 1, 2, 3] if several else labels, "zero_division": 0}
        scores = learn.precision_recall_fscore_support(*wanted, average=None, **keywords)[:3]
        for function, macro, score in zip((classification.precision, classification.recall, classification.f1),
                                          (classification.macro_precision, classification.macro_recall, classification.macro_f1),
                                          scores, strict=True):
            np.testing.assert_allclose(function(counted)[0], score, atol=1e-12)
            assert macro(counted)[0] == pytest.approx(score.mean())
        assert classification.micro_f1(counted)[0] == pytest.approx(learn.f1_score(*wanted, average="micro", **keywords))
        exact = classification.count_exact(*rows).sum(0)
        assert exact[0] / exact[1] == pytest.approx(learn.accuracy_score(*wanted))
        if not several:
            np.testing.assert_array_equal(classification.confusion_matrix(*drawn, labels), learn.confusion_matrix(*drawn, labels=labels))


def test_an_unknown_label_and_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="'x' is not one of"):
        classification.count_decisions([{"x"}], [{"a"}], ["a"])
    with pytest.raises(ValueError, match="2 predictions for 1"):
        classification.count_decisions([{"a"}], [{"a"}, {"a"}], ["a"])


def test_calibration_error_by_hand() -> None:
    assert classification.calibration_error(np.array([0.95, 0.95, 0.55, 1.0]), np.array([1, 0, 1, 1])) == pytest.approx(
        (abs(0.95 + 0.95 + 1.0 - 2) + abs(0.55 - 1)) / 4)
    assert classification.calibration_error(np.full(10, 0.8), np.array([1] * 8 + [0] * 2)) == pytest.approx(0)
