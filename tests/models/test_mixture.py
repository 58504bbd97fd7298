"""The mixture: the sum by hand, weights that no others beat, and a directory that can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myna.errors import UserError
from myna.models.mixture import MIXTURE, Mixture, fit_weights, open_mixture, write_mixture
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions
from myna.models.pretrained import load_directory, load_model
from tests.docs_code import load_block


def ids(seed: int, count: int = 600) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    drawn = rng.choice(12, size=count, p=np.arange(1, 13) / 78)
    drawn[1::2] = (drawn[::2] * 5 + 1) % 12  # every second id follows from the one before
    drawn[::40] = 0
    return np.append(drawn, 0)


def models() -> list[Ngram]:
    train = ids(0)
    return [fit_ngram(train, train, 12, 0, NgramOptions(order=order, smoothing="witten_bell")) for order in (1, 3)]


DOCUMENTS = [[1, 6, 3, 4, 2, 11], [], [5, 2, 7, 0 + 1, 9, 10], list(range(1, 12))]


def bits(members: list[Ngram], weight: float) -> float:
    scores = [np.exp(np.concatenate([member.log_probs(text) for text in DOCUMENTS if text]).astype(np.float64)) for member in members]
    return float(-np.log2(weight * scores[0] + (1 - weight) * scores[1]).mean())


def test_the_weights_are_those_with_the_fewest_bits() -> None:
    members = models()
    fitted = fit_weights(members, DOCUMENTS)
    tried = {weight: bits(members, weight) for weight in np.linspace(0, 1, 1001).tolist()}
    best = min(tried, key=lambda weight: tried[weight])
    assert fitted.bits == pytest.approx(tried[best], abs=1e-6) and fitted.weights[0] == pytest.approx(best, abs=2e-3)
    assert sum(fitted.weights) == pytest.approx(1) and fitted.tokens == sum(map(len, DOCUMENTS))
    assert fitted.member_bits == pytest.approx([bits(members, 1.0), bits(members, 0.0)]) and fitted.bits <= min(fitted.member_bits) + 1e-6


def test_weights_and_sums_are_those_of_the_readable_version() -> None:
    readable = load_block("docs/families/mixture.md")
    members = [*models(), fit_ngram(ids(3), ids(3), 12, 0, NgramOptions(order=2))]
    texts = [text for text in DOCUMENTS if text]
    scores = np.stack([np.concatenate([member.log_probs(text) for text in texts]) for member in members])
    chances = np.exp(scores.astype(np.float64)).T.tolist()
    fitted, weights = fit_weights(members, DOCUMENTS), readable.fit_weights(chances)
    assert fitted.bits == pytest.approx(readable.bits(weights, chances), abs=1e-5)
    assert fitted.weights == pytest.approx(weights, abs=0.02)
    mixture = Mixture(members, ["a", "b", "c"], weights)
    found = np.exp(np.concatenate([mixture.log_probs(text) for text in texts]))
    np.testing.assert_allclose(found, [readable.mix(weights, row) for row in chances], rtol=1e-4)


def test_a_member_that_only_harms_gets_no_weight() -> None:
    good, train = models()[1], ids(0)
    bad = fit_ngram(np.append(np.full(50, 3), 0), train, 12, 0, NgramOptions(order=1, smoothing="witten_bell"))
    fitted = fit_weights([bad, good], [train[:300].tolist()])
    assert fitted.weights[0] < 0.05 and fitted.bits == pytest.approx(fitted.member_bits[1], rel=0.01)


def test_it_is_the_weighted_sum() -> None:
    first, second = models()
    mixture = Mixture([first, second], ["a", "b"], [0.3, 0.7])
    expected = 0.3 * np.exp(first.log_probs(DOCUMENTS[0])) + 0.7 * np.exp(second.log_probs(DOCUMENTS[0]))
    np.testing.assert_allclose(np.exp(mixture.log_probs(DOCUMENTS[0])), expected, rtol=1e-5)
    only = Mixture([first, second], ["a", "b"], [0.0, 1.0])
    assert np.array_equal(only.log_probs(DOCUMENTS[0]), second.log_probs(DOCUMENTS[0]))
    assert mixture.name == "0.30 a + 0.70 b"


def test_members_must_fit_each_other() -> None:
    first, second = models()
    other = fit_ngram(ids(0), ids(0), 13, 0, NgramOptions(order=1))
    with pytest.raises(ValueError, match="vocabularies"):
        Mixture([first, other], ["a", "b"], [0.5, 0.5])
    for weights in ([0.5, 0.6], [1.5, -0.5], [1.0]):
        with pytest.raises(ValueError):
            Mixture([first, second], ["a", "b"], weights)
    with pytest.raises(UserError, match="validation split is empty"):
        fit_weights([first, second], [[], []])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first, second = models()
    second.save(tmp_path / "m")
    first.save(tmp_path / "m" / "low")
    write_mixture(tmp_path / "m", ["high", "low"], [".", "low"], fit_weights([second, first], DOCUMENTS))
    return tmp_path / "m"


def test_a_directory_is_used_as_its_mixture_and_each_member_can_be_had_alone(folder: Path) -> None:
    first, second = models()
    mixture = load_directory(folder)
    assert isinstance(mixture, Mixture) and mixture.names == ["high", "low"]
    weights = fit_weights([second, first], DOCUMENTS).weights
    assert np.array_equal(mixture.log_probs(DOCUMENTS[0]), Mixture([second, first], ["high", "low"], weights).log_probs(DOCUMENTS[0]))
    assert np.array_equal(load_directory(folder, "low").log_probs(DOCUMENTS[0]), first.log_probs(DOCUMENTS[0]))
    for alone in (load_directory(folder, "high"), load_model(folder)):
        assert isinstance(alone, Ngram) and np.array_equal(alone.log_probs(DOCUMENTS[0]), second.log_probs(DOCUMENTS[0]))
    with pytest.raises(UserError, match=r"no member 'hihg' \(did you mean high\?\); expected one of high, low"):
        load_directory(folder, "hihg")
    with pytest.raises(UserError, match="no member 'decoder'"):
        load_directory(folder / "low", "decoder")
    assert isinstance(load_directory(folder / "low", "ngram"), Ngram)


@pytest.mark.parametrize("change", [
    {"members": []}, {"members": "x"}, {"members": [{"name": "a", "path": ".", "weight": 1.0}]},
    {"path": "../elsewhere"}, {"path": "/etc"}, {"path": ""}, {"path": ".hidden"}, {"path": 3}, {"path": "."},
    {"weight": 2.0}, {"weight": "1"},
    {"weight": True}, {"name": "high"}, {"name": None},
], ids=str)
def test_damage_and_paths_out_of_the_directory_are_refused(change: dict[str, Any], folder: Path) -> None:
    value = json.loads((folder / MIXTURE).read_text(encoding="utf-8"))
    if "members" in change:
        value |= change
    else:
        value["members"][1] |= change
    (folder / MIXTURE).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        open_mixture(folder, load_model)


def test_members_of_other_vocabularies_are_one_line(folder: Path) -> None:
    fit_ngram(ids(0), ids(0), 13, 0, NgramOptions(order=1)).save(folder / "low")
    with pytest.raises(UserError, match="vocabularies of 12, 13"):
        load_directory(folder)
