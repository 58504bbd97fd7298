"""The unbounded n-gram against the readable version in docs/families/unbounded.md, and its weights against a search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from myna.corpus.index import Index
from myna.errors import UserError
from myna.models import blend
from myna.models.ngram import Ngram, fit_ngram
from myna.models.options import NgramOptions, UnboundedOptions
from myna.models.pretrained import load_model
from myna.models.unbounded import Unbounded, fit_unbounded
from tests.docs_code import load_block

SEPARATOR, VOCAB_SIZE = 0, 9


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return load_block("docs/families/unbounded.md")


def stream(seed: int, phrases: int = 60) -> np.ndarray:
    """Documents made of phrases that come back, of 3 to 40 ids, with an id changed here and there."""
    stock_rng, rng = np.random.default_rng(99), np.random.default_rng(seed)
    stock = [stock_rng.integers(1, VOCAB_SIZE - 1, length) for length in (3, 5, 8, 13, 20, 40)]  # the last id is never seen
    ids: list[int] = []
    for _ in range(phrases):
        phrase = stock[rng.integers(len(stock))].copy()
        phrase[rng.random(len(phrase)) < 0.03] = rng.integers(1, VOCAB_SIZE - 1)
        ids += [*phrase.tolist(), *([SEPARATOR] if rng.random() < 0.2 else [])]
    return np.array([*ids, SEPARATOR], np.uint16)


def fit(order: int = 3, seed: int = 0, phrases: int = 60) -> Unbounded:
    train, valid = stream(seed, phrases), stream(seed + 100, phrases=30)
    base = fit_ngram(train, valid, VOCAB_SIZE, SEPARATOR, NgramOptions(order=order, smoothing="kneser_ney"))
    return fit_unbounded(train, valid, VOCAB_SIZE, SEPARATOR, base=base)


@pytest.fixture(scope="module")
def model() -> Unbounded:
    return fit()


def weights_of(model: Unbounded):  # type: ignore[no-untyped-def]
    def weights(length: int, count: int, kinds: int) -> tuple[float, float, float]:
        by_length = sum(length >= edge for edge in (6, 8, 12, 16, 24, 32, 64))
        by_count = [1, 2, 4, 8, 16, 64, 10**9]
        row = (by_length * 7 + next(k for k, most in enumerate(by_count) if count <= most)) * 2 + (kinds > 1)
        return tuple(model.weights[row])
    return weights


@pytest.mark.parametrize("order", [1, 3])
def test_every_probability_is_that_of_the_readable_version(page: ModuleType, order: int) -> None:
    model = fit(order, seed=1, phrases=40)
    model.weights = np.random.default_rng(0).dirichlet((1, 1, 1), len(model.weights))  # every class its own
    corpus, document = stream(1, phrases=40).tolist(), [i for i in stream(7, phrases=4).tolist() if i != SEPARATOR]
    document[4] = VOCAB_SIZE - 1  # an id the corpus does not hold
    used = 0
    scores = model.log_probs(document)
    rows = model.step([[SEPARATOR, *document]], model.start(), last=False)[0]
    base = np.exp(model.base.step([[SEPARATOR, *document]], model.base.start(), last=False)[0].astype(np.float64))
    for t in range(len(document) + 1):
        history = [SEPARATOR, *document[:t]]
        used = max(used, len(page.contexts(corpus, history, order)))
        expected = page.distribution(corpus, history, base[t], order, weights_of(model))
        np.testing.assert_allclose(rows[t], np.log(expected), atol=1e-6)
        if t < len(document):
            np.testing.assert_allclose(scores[t], np.log(expected[document[t]]), atol=1e-6)
    assert used >= 3


def test_log_probs_are_the_bits_of_step_and_every_row_sums_to_one(model: Unbounded) -> None:
    document = [i for i in stream(3).tolist() if i != SEPARATOR]
    rows = model.step([[SEPARATOR, *document]], model.start(), last=False)[0]
    assert (rows[np.arange(len(document)), document] == model.log_probs(document)).all()
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(-1), 1, atol=2e-6)


def test_a_history_does_not_cross_a_separator(model: Unbounded) -> None:
    rows = model.step([[3, 4, 5, SEPARATOR, 2, 1], [SEPARATOR, 2, 1], [1, SEPARATOR, SEPARATOR, 2, 1]], model.start(3))
    assert (rows == rows[0]).all()
    corpus = stream(0).tolist()  # a piece of the training text itself, which the index would know across its separator
    at = next(i for i in range(10, len(corpus)) if corpus[i] == SEPARATOR and SEPARATOR not in corpus[i + 1:i + 8])
    across, within = model.step([corpus[at - 6:at + 8], corpus[at:at + 8]], model.start(2))
    assert (across == within).all()
    documents = [part[part != SEPARATOR] for part in np.split(stream(4), np.flatnonzero(stream(4) == SEPARATOR) + 1)]
    together = model.log_probs(stream(4))[stream(4) != SEPARATOR]
    assert (together == np.concatenate([model.log_probs(part) for part in documents if len(part)])).all()


def test_a_long_repeat_is_known_after_a_few_ids_and_better_than_by_the_base(model: Unbounded) -> None:
    phrase = np.random.default_rng(99)
    long = [phrase.integers(1, VOCAB_SIZE - 1, length) for length in (3, 5, 8, 13, 20, 40)][-1]
    assert model.log_probs(long)[8:].mean() > model.base.log_probs(long)[8:].mean() + 0.2
    assert model.facts["bits_per_token"] < model.facts["base_bits_per_token"] - 0.1


def test_the_bits_noted_are_those_of_the_model_and_its_base(model: Unbounded) -> None:
    valid = stream(100, phrases=30)
    text = valid != SEPARATOR
    for scorer, key in ((model, "bits_per_token"), (model.base, "base_bits_per_token")):
        assert model.facts[key] == pytest.approx(-scorer.log_probs(valid)[text].mean() / np.log(2), abs=1e-5)  # type: ignore[attr-defined]


def test_learned_weights_are_better_than_any_near_them(model: Unbounded) -> None:
    valid = stream(100, phrases=30)
    text = valid != SEPARATOR
    contexts, _ = model._contexts(np.append(SEPARATOR, valid))
    row = int(np.bincount(contexts[:, 0]).argmax())

    def cost(weights: np.ndarray) -> float:
        changed = model.weights.copy()
        changed[row] = weights
        prior = np.log(changed) @ np.array([0.1, 0.6, 0.3])  # the one observation each class starts from
        return float(-Unbounded(model.base, model.index, changed, {}).log_probs(valid)[text].astype(np.float64).sum() - prior.sum())

    best = cost(model.weights[row])
    for k in range(3):
        for amount in (-0.05, 0.05):
            other = np.maximum(model.weights[row] + amount * (np.eye(3)[k] - 1 / 3), 1e-3)
            assert cost(other / other.sum()) > best - 0.05


def test_what_an_answer_is_credited_with_is_the_slope_of_the_likelihood_in_its_weight(model: Unbounded) -> None:
    valid = stream(101, phrases=30)
    contexts, begins = model._contexts(np.append(SEPARATOR, valid))
    base = np.exp(model.base.log_probs(valid).astype(np.float64))
    weights = np.random.default_rng(0).dirichlet((1, 1, 1), blend.CLASSES)

    def likelihood(row: int, column: int, amount: float) -> float:
        changed = weights.copy()
        changed[row, column] += amount
        return float(blend.credit(contexts, begins, changed, base, np.zeros((blend.CLASSES, 3))))

    shares = np.zeros((blend.CLASSES, 3))
    chances = base.copy()
    blend.score(contexts, begins, weights, chances)
    assert blend.credit(contexts, begins, weights, base, shares) == pytest.approx(np.log(chances).sum())
    used = np.flatnonzero(shares.sum(1))
    assert len(used) > 10
    for row in used:
        for column in range(3):
            slope = (likelihood(row, column, 1e-5) - likelihood(row, column, -1e-5)) / 2e-5
            assert shares[row, column] == pytest.approx(weights[row, column] * slope, rel=1e-4, abs=1e-5)


def test_noise_leaves_the_base_as_it_is() -> None:
    rng = np.random.default_rng(0)
    train, valid = np.append(rng.integers(1, 30, 3000), 0), np.append(rng.integers(1, 30, 1500), 0)
    model = fit_unbounded(train, valid, 30, 0, base=fit_ngram(train, valid, 30, 0, NgramOptions(order=2, smoothing="kneser_ney")))
    assert model.facts["bits_per_token"] < model.facts["base_bits_per_token"] + 0.01


def test_truncated_long_rows_go_on_as_if_they_had_been_short(model: Unbounded) -> None:
    document = [SEPARATOR, *(i for i in stream(5).tolist() if i != SEPARATOR)]
    state = model.start(2)
    model.step([document, document[:50]], state)
    state.truncate([30, 50])
    state.select([1, 0, 0])
    again = model.step([document[50:52], document[30:31], [5]], state)
    for row, ids in zip(again, (document[:52], document[:31], [*document[:30], 5]), strict=True):
        assert (row == model.step([ids], model.start())[0]).all()


def test_a_repeated_row_goes_its_own_way(model: Unbounded) -> None:
    piece = stream(0)[20:40].tolist()
    state = model.start()
    model.step([piece], state)
    state.select([0, 0])
    for ids in ([[1], [2]], [[3], [4]]):
        after = model.step(ids, state)
    for row, ids in zip(after, ([1, 3], [2, 4]), strict=True):
        assert (row == model.step([[*piece, *ids]], model.start())[0]).all()


def test_a_context_seen_too_often_is_left_to_the_base() -> None:
    chain = np.array([[9, 5, 6], [5, 4, 7], [4, 0, blend.MOST_SEEN], [3, 0, blend.MOST_SEEN + 1], [2, 0, blend.MOST_SEEN * 4]])
    chosen = np.zeros(17, np.int64)
    assert blend.choose(chain, 5, -1, 1, chosen) == 3 and chosen[:3].tolist() == [0, 1, 2]
    assert blend.choose(chain, 5, -1, 5, chosen) == 2  # contexts of 5 ids and more
    assert blend.choose(chain, 5, 5, 1, chosen) == 3 and chosen[:3].tolist() == [1, 2, 3]  # row 5 is followed by nothing


def test_a_base_is_fitted_where_none_is_given(model: Unbounded) -> None:
    made = fit_unbounded(stream(0), stream(100), VOCAB_SIZE, SEPARATOR)
    assert made.base.facts["tried"] and made.name.startswith("unbounded n-gram over a ")


def test_too_many_tokens_are_drawn_by_document_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    made = fit_unbounded(stream(0), stream(100), VOCAB_SIZE, SEPARATOR, UnboundedOptions(max_tokens=200))
    assert made.facts["tokens"] == 200 == len(made.index) and made.facts["tokens_available"] == len(stream(0))
    assert "indexing 200 of" in capsys.readouterr().err


def test_saved_moved_and_opened_it_is_the_same_model(model: Unbounded, tmp_path: Path) -> None:
    model.save(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    again = load_model(tmp_path / "b")
    assert isinstance(again, Unbounded) and again.name == model.name and again.facts == model.facts
    assert (again.log_probs(stream(6)) == model.log_probs(stream(6))).all()
    again.save(tmp_path / "b")  # over the files it reads
    assert (load_model(tmp_path / "b").log_probs(stream(6)) == model.log_probs(stream(6))).all()


@pytest.mark.parametrize("key, value", [
    ("model_type", "ngram"), ("vocab_size", 10), ("vocab_size", None), ("separator_id", 1), ("weights", None), ("weights", "x"),
    ("weights", [[0.1, 0.6, 0.3]]), ("weights", [[1.0, 0.0, 0.0]] * blend.CLASSES), ("weights", [[0.5, 0.6, -0.1]] * blend.CLASSES),
    ("weights", [[0.5, 0.6, 0.3]] * blend.CLASSES), ("weights", [[float("nan"), 0.5, 0.5]] * blend.CLASSES),
    ("weights", [[10**400, 0, 0]] * blend.CLASSES), ("weights", [[0.1, 0.6], [0.3]])])
def test_a_config_that_cannot_be_is_refused(model: Unbounded, tmp_path: Path, key: str, value: object) -> None:
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError) as caught:
        Unbounded.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_of_other_models_are_refused(model: Unbounded, tmp_path: Path) -> None:
    model.save(tmp_path)
    (tmp_path / "index" / "ids.npy").write_bytes(b"")
    with pytest.raises(UserError, match="index"):
        Unbounded.open(tmp_path)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(UserError, match="index"):
        Unbounded.open(tmp_path)
    Index.build(stream(0), VOCAB_SIZE + 1).save(tmp_path / "index")
    with pytest.raises(UserError, match="belong together"):
        Unbounded.open(tmp_path)
    shutil.rmtree(tmp_path / "ngram")
    with pytest.raises(UserError):
        Unbounded.open(tmp_path)
    with pytest.raises(UserError):
        Ngram.open(tmp_path)


@pytest.mark.parametrize("train, valid, vocab_size, options", [
    ([1, 2, 3, 0] * 9, [], 5, UnboundedOptions()), ([1, 2, 3, 0] * 9, [0, 0], 5, UnboundedOptions()), ([], [1, 0], 5, UnboundedOptions()),
    ([1, 0], [1, 0], 5, UnboundedOptions()), ([1, 7, 0] * 9, [1, 0], 5, UnboundedOptions()), ([1, 2, 0] * 9, [7, 0], 5, UnboundedOptions()),
    ([1, 2, 0] * 9, [1, 0], 5, UnboundedOptions(max_tokens=0))])
def test_nothing_to_index_or_to_learn_from_is_one_line(train: list[int], valid: list[int], vocab_size: int,
                                                       options: UnboundedOptions) -> None:
    with pytest.raises(UserError) as caught:
        fit_unbounded(np.array(train), np.array(valid), vocab_size, SEPARATOR, options)
    assert "\n" not in str(caught.value)


def test_a_base_of_other_tokens_or_without_probabilities_is_refused(model: Unbounded) -> None:
    with pytest.raises(UserError, match=f"over {VOCAB_SIZE} ids"):
        fit_unbounded(stream(0), stream(1), VOCAB_SIZE + 1, SEPARATOR, base=model.base)
    scores = fit_ngram(stream(0), stream(1), VOCAB_SIZE, SEPARATOR, NgramOptions(order=3, smoothing="stupid_backoff"))
    with pytest.raises(UserError, match="stupid"):
        fit_unbounded(stream(0), stream(1), VOCAB_SIZE, SEPARATOR, base=scores)
