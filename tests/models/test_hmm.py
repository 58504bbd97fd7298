"""The hidden Markov model against a sum over all paths, against the documentation's readable version, and against hmmlearn."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from myna.errors import UserError
from myna.models.hmm import Hmm, best_path
from myna.models.hmm_fit import Parameters, cut_rows, draw_start, expect, fit_hmm, maximize, score
from myna.models.options import HmmOptions
from myna.models.pretrained import load_model
from tests.docs_code import load_block

READABLE = load_block("docs/families/hmm.md", 0)
SEPARATOR = 0
GOLDEN_DOCUMENTS = [[0, 1, 2, 3, 1, 1, 0], [3, 2, 2], [1, 0, 3, 3, 0]]


def random_hmm(states: int = 3, vocab_size: int = 6, seed: int = 0) -> Hmm:
    rng = np.random.default_rng(seed)
    parts = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), states), rng.dirichlet(np.ones(vocab_size), states)
    return Hmm(SEPARATOR, *(np.log(part) for part in parts), facts={})


def logs(model: Hmm) -> tuple[Any, Any, Any]:
    return np.log(model.initial), np.log(model.transition), np.log(model.emission)


def golden_parameters() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(5)
    return rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(4), 3)


@functools.cache
def planted(tokens: int = 4000, seed: int = 1) -> tuple[Hmm, Any]:
    """A model with structure, and a text that it made: documents of about 20 ids, each followed by the separator 0."""
    initial = np.array([0.9, 0.05, 0.05])
    transition = np.array([[0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.85, 0.1, 0.05]])
    emission = np.full((3, 10), 0.01)
    emission[0, 1:4] += 0.3
    emission[1, 4:7] += 0.3
    emission[2, 7:10] += 0.3
    emission[2, 0] = 0.14
    emission /= emission.sum(1, keepdims=True)
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    state = rng.choice(3, p=initial)
    while len(ids) < tokens or ids[-1]:
        ids.append(int(rng.choice(10, p=emission[state])))
        state = rng.choice(3, p=transition[state] if ids[-1] else initial)
    return Hmm(SEPARATOR, np.log(initial), np.log(transition), np.log(emission), {}), np.array(ids, np.uint16)


def all_paths(model: Hmm, ids: list[int]) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of hidden states with these ids."""
    found = {}
    for path in itertools.product(range(model.states), repeat=len(ids)):
        p = model.initial[path[0]] * model.emission[path[0], ids[0]]
        for (a, b), x in zip(itertools.pairwise(path), ids[1:], strict=True):
            p *= model.transition[a, b] * model.emission[b, x]
        found[path] = p
    return found


@pytest.mark.parametrize("seed", range(4))
def test_likelihood_posterior_and_path_are_those_of_a_sum_over_all_paths(seed: int) -> None:
    model, ids = random_hmm(3, 6, seed), np.random.default_rng(seed).integers(1, 6, 6).tolist()
    paths = all_paths(model, ids)
    assert model.log_probs(ids).sum() == pytest.approx(np.log(sum(paths.values())), abs=1e-5)
    assert model.viterbi(ids).tolist() == list(max(paths, key=paths.__getitem__))
    used = np.zeros((len(ids), model.states))
    for path, p in paths.items():
        used[np.arange(len(ids)), path] += p / sum(paths.values())
    np.testing.assert_allclose(np.exp(model.posterior(ids)), used, atol=1e-12)


@pytest.mark.parametrize("states", [1, 2, 7])
def test_it_is_the_readable_version(states: int) -> None:
    model, ids = random_hmm(states, 12, 3), np.random.default_rng(3).integers(1, 12, 40).tolist()
    initial, transition, emission = logs(model)
    a, b = READABLE.forward(initial, transition, emission, ids), READABLE.backward(transition, emission, ids)
    totals = READABLE.log_sum(a, axis=1)
    np.testing.assert_allclose(model.log_probs(ids), np.diff(totals, prepend=0), atol=1e-5)
    np.testing.assert_allclose(model.posterior(ids), a + b - totals[-1], atol=1e-9)
    assert model.viterbi(ids).tolist() == READABLE.viterbi(initial, transition, emission, ids).tolist()


def test_a_separator_ends_the_chain() -> None:
    model = random_hmm()
    first, second = [1, 2, SEPARATOR], [3, 3, 4]
    np.testing.assert_array_equal(model.log_probs([*first, *second])[3:], model.log_probs(second))
    np.testing.assert_allclose(model.posterior([*first, *second]), np.concatenate([model.posterior(first), model.posterior(second)]))
    assert model.viterbi([*first, *second]).tolist() == [*model.viterbi(first), *model.viterbi(second)]
    rows = model.step([[SEPARATOR], [5, 1, SEPARATOR]], model.start(2))
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_allclose(np.exp(rows[0]), model.initial @ model.emission, rtol=1e-6)
    assert model.posterior([]).shape == (0, 3) and model.viterbi([]).shape == (0,)


def test_probabilities_far_below_what_a_float_holds_stay_right() -> None:
    """Two states that almost never change and almost never say the other's id: a product of these numbers underflows at once."""
    rare = 1e-25
    transition = np.array([[1 - rare, rare], [rare, 1 - rare]])
    emission = np.array([[0.1, 0.9 - rare, rare], [0.1, rare, 0.9 - rare]])
    model = Hmm(SEPARATOR, np.log([0.5, 0.5]), np.log(transition), np.log(emission), {})
    ids = [1] * 300 + [2] * 300 + [1] * 300
    scores = model.log_probs(ids)
    a = READABLE.forward(*logs(model), ids)
    np.testing.assert_allclose(scores.astype(np.float64).sum(), READABLE.log_sum(a[-1], axis=0), rtol=1e-5)
    assert model.viterbi(ids).tolist() == [0] * 300 + [1] * 300 + [0] * 300
    assert np.isfinite(model.posterior(ids)).all()


def test_the_step_agrees_with_the_scores_of_rows_together_and_apart() -> None:
    model = random_hmm(5, 9)
    rows = [[SEPARATOR, 1, 2, 3], [SEPARATOR, 8], [4, 4, SEPARATOR]]
    state = model.start(3)
    together = model.step(rows, state, last=False)
    for b, row in enumerate(rows):
        scores = model.log_probs([*row, 7])
        before = model.step([[SEPARATOR]], model.start())[0]
        found = [before[row[0]], *(together[b, t, id] for t, id in enumerate([*row[1:], 7]))]
        np.testing.assert_allclose(found, scores, atol=1e-6)


def test_hmmlearn_gave_these_numbers() -> None:
    """hmmlearn 0.3.3: h = CategoricalHMM(3, n_features=4, n_iter=1, init_params="", implementation="log") with `golden_parameters`;
    h.score and h.predict of each document, h.predict_proba of the second; then h.fit of all three documents."""
    initial, transition, emission = golden_parameters()
    wide = np.concatenate([emission, np.zeros((3, 1))], axis=1)  # a separator that never occurs
    with np.errstate(divide="ignore"):
        model = Hmm(4, np.log(initial), np.log(transition), np.maximum(np.log(wide), -80), {})
    totals = [model.log_probs(ids).sum() for ids in GOLDEN_DOCUMENTS]
    assert totals == pytest.approx([-10.289474611901609, -4.597510886475024, -6.243460231611467], abs=1e-5)
    assert [model.viterbi(ids).tolist() for ids in GOLDEN_DOCUMENTS] == [[2, 0, 0, 0, 0, 0, 2], [0, 0, 0], [0, 2, 1, 0, 2]]
    np.testing.assert_allclose(np.exp(model.posterior(GOLDEN_DOCUMENTS[1])), [
        [0.4288813110944316, 0.25874425259232525, 0.31237443631324335], [0.6416027790672182, 0.2776766977696885, 0.08072052316309365],
        [0.7966564566794082, 0.12021521837650538, 0.08312832494408645]], atol=1e-6)
    found = one_round(initial, transition, emission, GOLDEN_DOCUMENTS)
    np.testing.assert_allclose(found[0], [0.48537630530479553, 0.20562597927345472, 0.3089977154217496], atol=1e-9)
    np.testing.assert_allclose(found[1], [
        [0.5532294655286636, 0.0359751404433475, 0.4107953940279888], [0.8265851054674639, 0.12974276412984953, 0.043672130402686554],
        [0.44518787589758296, 0.3255884931075804, 0.2292236309948367]], atol=1e-9)
    np.testing.assert_allclose(found[2], [
        [0.03266648326895655, 0.44754271842813864, 0.26908367472205885, 0.250707123580846],
        [0.27296639356298363, 0.09572951233361969, 0.23976402285508508, 0.3915400712483117],
        [0.6767945409169009, 0.022530955386544416, 0.06065073189990074, 0.24002377179665382]], atol=1e-9)


def one_round(initial: Any, transition: Any, emission: Any, documents: list[list[int]], separator_id: int = -1) -> list[Any]:
    """One round of the real Baum-Welch on whole documents, each its own row: probabilities (S,), (S, S), (S, V)."""
    parameters = Parameters(initial, np.full_like(initial, 1 / len(initial)), transition, np.ascontiguousarray(emission.T))
    sums = None
    for ids in documents:
        counted = expect(parameters, cut_rows(np.array(ids), separator_id, len(ids)).rows, separator_id)
        sums = sums.plus(counted) if sums else counted
    assert sums is not None
    found = maximize(sums, np.full(emission.shape[1], 1 / emission.shape[1]))
    return [found.initial, found.transition, found.emission.T]


def test_hmmlearn_agrees_where_it_is_installed() -> None:
    hmmlearn = pytest.importorskip("hmmlearn.hmm")
    rng = np.random.default_rng(8)
    initial, transition, emission = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4), 4), rng.dirichlet(np.ones(7), 4)
    documents = [rng.integers(0, 7, length).tolist() for length in (30, 1, 12)]
    other = hmmlearn.CategoricalHMM(4, n_features=7, n_iter=1, tol=-np.inf, init_params="", implementation="log")
    other.startprob_, other.transmat_, other.emissionprob_ = initial, transition, emission
    column = [np.array(ids)[:, None] for ids in documents]
    model = Hmm(7, np.log(initial), np.log(transition), np.log(np.concatenate([emission, np.full((4, 1), 1e-35)], axis=1)), {})
    for ids, data in zip(documents, column, strict=True):
        assert model.log_probs(ids).sum() == pytest.approx(other.score(data), abs=1e-4)
        assert model.viterbi(ids).tolist() == other.predict(data).tolist()
        np.testing.assert_allclose(np.exp(model.posterior(ids)), other.predict_proba(data), atol=1e-5)
    other.fit(np.concatenate(column), [len(ids) for ids in documents])
    found = one_round(initial, transition, emission, documents)
    for mine, theirs in zip(found, (other.startprob_, other.transmat_, other.emissionprob_), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_one_round_over_a_stream_of_documents_is_the_readable_baum_welch(dtype: Any, tolerance: float) -> None:
    """Documents in one row, with the chain starting anew after each separator, count as documents apart; float32 is near enough."""
    rng = np.random.default_rng(4)
    documents = [[*rng.integers(1, 6, length).tolist(), SEPARATOR] for length in (9, 1, 0, 30, 4)]
    model = random_hmm(4, 6, 2)
    total, *expected = READABLE.baum_welch(*logs(model), documents)
    parameters = Parameters(*(part.astype(dtype) for part in (model.initial, model.initial, model.transition, model.emission.T)))
    counted = expect(parameters, cut_rows(np.concatenate(documents), SEPARATOR, 10**6).rows, SEPARATOR)
    assert counted.log_likelihood == pytest.approx(total, rel=tolerance)
    found = maximize(counted, np.full(6, 1 / 6))
    for mine, theirs in zip((found.initial, found.transition, found.emission.T), expected, strict=True):
        np.testing.assert_allclose(mine, np.exp(theirs), atol=tolerance)
    assert counted.emissions.sum() == pytest.approx(sum(map(len, documents)), rel=1e-5)


def test_rows_of_any_length_hold_the_whole_text_and_know_where_documents_begin() -> None:
    ids = np.array([3, 4, 0, 5, 6, 7, 0, 8, 0])
    text = cut_rows(ids, SEPARATOR, 2)
    assert text.rows.ids.tolist() == [[3, 4], [0, 5], [6, 7], [0, 8]] and text.rows.begins.tolist() == [True, False, False, False]
    assert text.tail is not None and text.tail.ids.tolist() == [[0]] and text.tail.begins.tolist() == [False]
    text = cut_rows(ids, SEPARATOR, 3)
    assert text.rows.begins.tolist() == [True, True, False] and text.tail is None and text.tokens == 9
    assert cut_rows(np.arange(1, 1001), SEPARATOR, 10, limit=50).rows.ids[:, 0].tolist() == [1, 241, 491, 741, 991]


@pytest.mark.parametrize("length", [7, 10**6])
def test_baum_welch_never_lowers_the_likelihood(length: int) -> None:
    _, ids = planted(600)
    text = cut_rows(ids, SEPARATOR, length)
    parameters = draw_start(4, np.full(10, 0.1), (0,), np.float64)
    before = -np.inf
    for _ in range(12):
        counted = expect(parameters, text.rows, SEPARATOR)
        if text.tail:
            counted = counted.plus(expect(parameters, text.tail, SEPARATOR))
        assert counted.log_likelihood >= before - 1e-9
        before = counted.log_likelihood
        parameters = maximize(counted, np.full(10, 0.1))
    assert -score(parameters, text, SEPARATOR) * np.log(2) * text.tokens >= before - 1e-9


def fitted(options: HmmOptions | None = None, seconds: float | None = None, seed: int = 0, tokens: int = 4000) -> Hmm:
    return fit_hmm(planted(tokens)[1], planted(1500, seed=2)[1], 10, SEPARATOR, options or HmmOptions(states=3), seconds, seed)


@pytest.mark.parametrize("update_tokens", [512, 0])
def test_a_planted_model_is_found_again(update_tokens: int) -> None:
    truth, train = planted()
    held_out = planted(3000, seed=3)[1].tolist()
    model = fitted(HmmOptions(states=3, update_tokens=update_tokens, iterations=12 if update_tokens else 50))
    counts = np.bincount(train, minlength=10) / len(train)
    mine, best, unigram = (-float(np.mean(scores)) / np.log(2) for scores in (
        model.log_probs(held_out), truth.log_probs(held_out), np.log(counts[held_out])))
    assert best < mine < best + 0.03 < unigram - 0.5
    agreement = np.zeros((3, 3))
    np.add.at(agreement, (truth.viterbi(held_out), model.viterbi(held_out)), 1)
    assert agreement.max(1).sum() > 0.9 * len(held_out)  # the same states, under other numbers


def test_updates_within_a_pass_need_fewer_passes() -> None:
    often, rarely = (fitted(HmmOptions(states=3, update_tokens=tokens, iterations=2, restarts=1)) for tokens in (256, 0))
    assert often.facts["bits_per_token"] < rarely.facts["bits_per_token"] - 0.05


def test_a_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, again, other = (fitted(HmmOptions(states=3, iterations=2), seed=seed, tokens=1000) for seed in (3, 3, 4))
    ids = planted(50, seed=6)[1].tolist()
    np.testing.assert_array_equal(first.log_probs(ids), again.log_probs(ids))
    assert not np.array_equal(first.log_probs(ids), other.log_probs(ids))


def test_the_best_of_the_restarts_goes_on() -> None:
    options = HmmOptions(states=3, iterations=2)
    many = fitted(replace(options, restarts=4), tokens=1000)
    assert len(many.facts["restarts"]) == 4 and fitted(replace(options, restarts=1), tokens=1000).facts["restarts"] == []
    best = int(np.argmin(many.facts["restarts"]))
    assert best > 0, "a case in which the first start is not the best"
    ids = planted(50, seed=6)[1].tolist()
    scores = {count: fitted(replace(options, restarts=count), tokens=1000).log_probs(ids) for count in (best, best + 1)}
    np.testing.assert_array_equal(many.log_probs(ids), scores[best + 1])
    assert not np.array_equal(many.log_probs(ids), scores[best])


def test_every_id_can_follow_everywhere_even_one_that_was_never_seen() -> None:
    model = fit_hmm(np.array([1, 2, 1, 2, 0] * 40), np.array([1, 3, 0]), 5, SEPARATOR, HmmOptions(states=2))
    rows = model.step([[1], [2], [4]], model.start(3))
    assert np.isfinite(rows).all() and (rows > -20).all()
    assert model.log_probs([4, 3]).sum() > -40


def test_the_number_of_states_follows_text_and_time() -> None:
    assert fitted(HmmOptions(iterations=1), tokens=600).states < fitted(HmmOptions(iterations=1), tokens=4000).states <= 256
    assert fitted(HmmOptions(iterations=1), seconds=1e-4, tokens=3000).states == 2


def test_time_that_is_up_ends_training_with_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import myna.models.hmm_fit as module

    clock = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    for update_tokens in (128, 0):
        model = fitted(HmmOptions(states=3, update_tokens=update_tokens), seconds=2)
        assert len(model.facts["validation_bits_per_token"]) == 1
        assert np.isfinite(model.log_probs([1, 2])).all()


@pytest.mark.parametrize("change, said", [
    ({"states": 0}, "states of the HMM is 0"), ({"restarts": 0}, "restarts"), ({"iterations": 0}, "iterations"),
    ({"update_tokens": -1}, "update_tokens"), ({"states": 900}, "an HMM of 900 states for a text of")])
def test_wrong_options_are_one_line(change: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        fitted(replace(HmmOptions(states=3), **change), tokens=300)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train, valid", [([], [1, 0]), ([0, 0], [1, 0]), ([1, 0], []), ([7, 0], [1, 0]), ([1, 0], [7, 0])])
def test_nothing_to_learn_from_is_one_line(train: list[int], valid: list[int]) -> None:
    with pytest.raises(UserError):
        fit_hmm(np.array(train, np.int64), np.array(valid, np.int64), 3, SEPARATOR, HmmOptions())


def test_one_token_is_enough() -> None:
    assert fit_hmm(np.array([1]), np.array([1]), 3, SEPARATOR).log_probs([1]).shape == (1,)


def test_wrong_ids_are_refused() -> None:
    model = random_hmm()
    for ids in ([6], [-1]):
        with pytest.raises(ValueError, match="from 0 to 5"):
            model.log_probs(ids)
        with pytest.raises(ValueError, match="from 0 to 5"):
            model.step([ids], model.start())
    with pytest.raises(ValueError, match="cannot cut"):
        model.start().truncate([1])
    with pytest.raises(ValueError, match="2 rows of ids"):
        model.step([[1], [2]], model.start())


def test_save_and_open_give_the_same_bits_and_facts(tmp_path: Path) -> None:
    model = fitted(HmmOptions(states=3, iterations=2), tokens=500)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, Hmm)
    ids = planted(60, seed=5)[1].tolist()
    np.testing.assert_array_equal(again.log_probs(ids), model.log_probs(ids))
    np.testing.assert_array_equal(again.posterior(ids), model.posterior(ids))
    assert again.facts == json.loads(json.dumps(model.facts)) and again.name == model.name == "HMM, 3 states"


@pytest.mark.parametrize("key, value", [
    ("num_states", 4), ("num_states", True), ("num_states", 0), ("num_states", 10**15), ("vocab_size", -1), ("vocab_size", 11),
    ("separator_id", 10), ("separator_id", "0"), ("model_type", "ngram"), ("num_states", None)])
def test_a_config_with_wrong_sizes_is_refused(tmp_path: Path, key: str, value: object) -> None:
    random_hmm(3, 10).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError):
        Hmm.open(tmp_path)


def _not_a_number(tensors: dict[str, Any]) -> None:
    tensors["log_emission"][1, 2] = np.nan


def _minus_infinity(tensors: dict[str, Any]) -> None:
    tensors["log_emission"][1, 2] = -np.inf


def _no_distribution(tensors: dict[str, Any]) -> None:
    tensors["log_transition"][0] += 0.1


def _other_type(tensors: dict[str, Any]) -> None:
    tensors["log_initial"] = tensors["log_initial"].astype(np.float16)


def _other_shape(tensors: dict[str, Any]) -> None:
    tensors["log_emission"] = tensors["log_emission"].T.copy()


def _one_missing(tensors: dict[str, Any]) -> None:
    del tensors["log_initial"]


@pytest.mark.parametrize("damage", [_not_a_number, _minus_infinity, _no_distribution, _other_type, _other_shape, _one_missing])
def test_damaged_numbers_are_refused(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    random_hmm(3, 10).save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Hmm.open(tmp_path)


def test_a_cut_or_absent_file_is_refused(tmp_path: Path) -> None:
    random_hmm(3, 10).save(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:len(data) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        Hmm.open(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no file"):
        Hmm.open(tmp_path)


def test_of_equal_paths_the_first_is_taken() -> None:
    assert best_path(np.zeros(3), np.zeros((3, 3)), np.zeros((4, 3))).tolist() == [0, 0, 0, 0]


def test_the_modules_import_without_torch() -> None:
    code = "import sys, myna.models.hmm_fit, myna.models.hmm_tagger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
