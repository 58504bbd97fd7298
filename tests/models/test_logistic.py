"""Logistic regression equals scikit-learn's, ends where classes are apart, and is read back only whole."""

from __future__ import annotations

import numpy as np
import pytest

from myna.errors import UserError
from myna.models.logistic import fit_logistic, read_logistic


@pytest.mark.parametrize("count", [30, 300, 3000])
def test_the_fit_is_that_of_scikit_learn(count: int) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(count)
    x = generator.normal(size=(count, 4)) * [1, 10, 0.1, 3] + 2
    z = x @ [1, 0.1, 5, 0] + generator.normal(size=count) * 0.3
    y = (z > np.quantile(z, 0.9)).astype(float)  # few positives, nearly apart: where plain Newton's steps run away
    model = fit_logistic(x, y, list("abcd"))
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    reference = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(scaled, y)
    assert model.probabilities(x) == pytest.approx(reference.predict_proba(scaled)[:, 1], abs=1e-5)


def test_one_class_and_features_that_never_change_are_no_trouble() -> None:
    x = np.array([[1.0, 5.0], [2.0, 5.0]])
    assert fit_logistic(x, np.ones(2), ["a", "b"]).probabilities(x).min() > 0.9
    assert fit_logistic(x, np.array([0.0, 1.0]), ["a", "b"]).weights[1] == 0


def test_it_is_read_back_and_damage_is_named() -> None:
    model = fit_logistic(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]), ["size"])
    assert read_logistic(model.to_json(), ["size"], "here") == model
    for wrong in (None, {}, {"features": {"other": 1.0}, "intercept": 0}, {"features": {"size": "1"}, "intercept": 0},
                  {"features": {"size": float("nan")}, "intercept": 0}, {"features": {"size": 1e99}, "intercept": 0}):
        with pytest.raises(UserError, match="here has the"):
            read_logistic(wrong, ["size"], "here")
