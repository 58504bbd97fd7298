"""The linear classifier: scikit-learn's counts and optimum, and a directory of which nothing is believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.models.calibration import fit_temperature, mean_loss, to_log_probs
from myna.models.linear import Linear, LinearConfig, find_ngrams
from myna.models.linear_fit import add_linear, fit_linear, tabulate_texts, weigh_ngrams, weigh_rarity

WORDS = {"good": "fine great lovely bright warm", "bad": "dull grey cold poor broken", "odd": "purple sideways seven moon fish"}


def draw(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts in which the label's words are likelier than others, and which label each has."""
    generator = np.random.default_rng(seed)
    pools = [words.split() for words in WORDS.values()]
    texts, labels = [], generator.integers(0, len(pools), count)
    for label in labels:
        chosen = [pools[label if generator.random() < 0.6 else generator.integers(len(pools))] for _ in range(8)]
        texts.append(" ".join(pool[generator.integers(len(pool))] for pool in chosen))
    return texts, labels


def one_hot(labels: np.ndarray, size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)[labels]


def test_ngrams_are_a_set_of_characters_and_words() -> None:
    assert find_ngrams("ＡＢ  b", LinearConfig(characters=(1, 2))) == {"ca", "cb", "c ", "cab", "cb ", "c b"}
    assert find_ngrams("A good, good day", LinearConfig(words=(1, 2))) == {"wa", "wgood", "wday", "wa good", "wgood good", "wgood day"}
    assert find_ngrams("好书", LinearConfig(characters=(1, 3))) == {"c好", "c书", "c好书"}
    assert find_ngrams("", LinearConfig(characters=(1, 3), words=(1, 2))) == set()


def test_naive_bayes_weights_are_log_count_ratios() -> None:
    table = tabulate_texts(["a b", "a", "b b", "c"], LinearConfig(words=(1, 1)))
    ratios = dict(zip(table.features, weigh_ngrams(table, np.array([True, True, False, False])), strict=True))
    # with the label: a 2, b 1, c 0; without: a 0, b 1, c 1; one added to each
    assert ratios == pytest.approx({"wa": np.log(3 / 6) - np.log(1 / 5), "wb": np.log(2 / 6) - np.log(2 / 5),
                                    "wc": np.log(1 / 6) - np.log(2 / 5)})


@pytest.mark.parametrize("naive_bayes", [False, True])
@pytest.mark.parametrize("labels", [2, 3])
def test_the_fit_is_the_optimum_that_scikit_learn_finds(naive_bayes: bool, labels: int) -> None:
    svm = pytest.importorskip("sklearn.svm")
    texts, truth = draw(150)
    truth = truth % labels
    config = LinearConfig(words=(1, 2), naive_bayes=naive_bayes)
    table = tabulate_texts(texts, config)
    model = fit_linear(table, one_hot(truth, labels), list("abc")[:labels], config, strength=0.7)
    x = np.zeros((len(texts), len(table.features)))
    for row in range(len(texts)):
        columns = table.columns[table.starts[row] : table.starts[row + 1]]
        x[row, columns] = len(columns) ** -0.5
    scores = model.score(texts)
    for label in range(labels):
        positive = truth == label
        ratios = weigh_rarity(table) * (weigh_ngrams(table, positive) if naive_bayes else 1)
        reference = svm.LinearSVC(C=0.7, tol=1e-6, max_iter=100_000).fit(x * ratios, positive)
        np.testing.assert_allclose(scores[:, label], reference.decision_function(x * ratios), atol=0.03)
        # no step from here lowers what both minimise by more than the tolerance allows
        weight = np.concatenate([model.weight[:, label] / ratios, model.bias[label : label + 1]])
        best = np.concatenate([reference.coef_[0], reference.intercept_])
        signs, full = np.where(positive, 1, -1), np.concatenate([x * ratios, np.ones((len(x), 1))], axis=1)
        costs = [w @ w / 2 + 0.7 * (np.maximum(0, 1 - signs * (full @ w)) ** 2).sum() for w in (weight, best)]
        assert costs[0] == pytest.approx(costs[1], rel=2e-3)


def test_rarity_is_the_inverse_document_frequency_of_scikit_learn() -> None:
    features = pytest.importorskip("sklearn.feature_extraction.text")
    texts, _ = draw(40)
    table = tabulate_texts(texts, LinearConfig(words=(1, 2)))
    reference = features.TfidfVectorizer(ngram_range=(1, 2)).fit(texts)
    theirs = dict(zip(reference.get_feature_names_out(), reference.idf_, strict=True))
    assert dict(zip((name[1:] for name in table.features), weigh_rarity(table), strict=True)) == pytest.approx(theirs)


def test_two_models_add_up_to_one() -> None:
    texts, truth = draw(80)
    plain, bayes = LinearConfig(words=(1, 1), naive_bayes=False), LinearConfig(words=(1, 1))
    table = tabulate_texts(texts, plain)
    one, other = (fit_linear(table, one_hot(truth, 3), list(WORDS), config) for config in (plain, bayes))
    np.testing.assert_allclose(add_linear(one, other, (0.25, 2)).score(texts), 0.25 * one.score(texts) + 2 * other.score(texts), atol=1e-4)
    with pytest.raises(ValueError, match="other n-grams"):
        add_linear(one, fit_linear(tabulate_texts(texts[:40], plain), one_hot(truth[:40], 3), list("xyz"), plain), (1, 1))


def test_it_learns_and_says_which_ngrams_speak_for_a_label() -> None:
    texts, truth = draw(300)
    config = LinearConfig(words=(1, 1))
    model = fit_linear(tabulate_texts(texts, config), one_hot(truth, 3), list(WORDS), config)
    others, expected = draw(200, seed=1)
    assert (model.score(others).argmax(axis=1) == expected).mean() > 0.9
    strongest = [ngram for ngram, part in model.explain("great cold moon fine", "good") if part > 0]
    assert strongest[:2] in (["great", "fine"], ["fine", "great"])
    np.testing.assert_array_equal(model.score(["", "unheard"]), np.stack([model.bias, model.bias]))


def test_a_temperature_undoes_a_scale_and_changes_no_decision() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(4000, 3)) * 2
    drawn = (np.exp(to_log_probs(scores, False)).cumsum(axis=1) > generator.random((4000, 1))).argmax(axis=1)
    targets = one_hot(drawn, 3)
    assert fit_temperature(scores * 5, targets, False) == pytest.approx(5, rel=0.08)
    several = (generator.random(scores.shape) < np.exp(to_log_probs(scores, True))).astype(np.float32)
    assert fit_temperature(scores * 0.1, several, True) == pytest.approx(0.1, rel=0.08)
    assert np.exp(to_log_probs(scores, False)).sum(axis=1) == pytest.approx(np.ones(4000))
    assert mean_loss(np.zeros((2, 3)), targets[:2], False) == pytest.approx(np.log(3))
    assert mean_loss(np.zeros((2, 3)), np.zeros((2, 3)), True) == pytest.approx(np.log(2))
    assert mean_loss(np.zeros((1, 3)), np.zeros((1, 3)), False) == 0.0  # nothing is known of such a text


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear") / "model"
    texts, truth = draw(60)
    config = LinearConfig(characters=(1, 2), words=(1, 1))
    fit_linear(tabulate_texts(texts, config), one_hot(truth, 3), list(WORDS), config).save(folder)
    return folder


def test_a_saved_model_opens_with_the_same_scores(saved: Path) -> None:
    texts, truth = draw(60)
    config = LinearConfig(characters=(1, 2), words=(1, 1))
    before = fit_linear(tabulate_texts(texts, config), one_hot(truth, 3), list(WORDS), config)
    after = Linear.open(saved)
    np.testing.assert_array_equal(after.score(texts), before.score(texts))
    assert after.labels == list(WORDS) and after.config == config and not after.several


@pytest.mark.parametrize(("name", "change"), [
    ("config.json", {"num_features": 1 << 40}), ("config.json", {"num_features": 3}), ("config.json", {"characters": [1, 1 << 30]}),
    ("config.json", {"characters": [2, 1]}), ("config.json", {"words": "1-2"}), ("config.json", {"id2label": {"0": "a"}}),
    ("config.json", {"id2label": {"0": "a", "1": "a", "2": "b"}}), ("config.json", {"id2label": {"0": 1, "1": 2, "2": 3}}),
    ("config.json", {"id2label": ["a", "b", "c"]}), ("config.json", {"problem_type": "regression"}),
    ("config.json", {"model_type": "gpt2"}), ("features.json", {"features": ["ca", "ca"]}), ("features.json", {"features": 7}),
    ("features.json", {"features": [1, 2, 3]}),
])
def test_a_damaged_directory_is_refused_in_a_line(saved: Path, tmp_path: Path, name: str, change: dict[str, object]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**value, **change}))
    with pytest.raises(UserError):
        Linear.open(folder)


def test_weights_that_are_not_finite_are_refused(saved: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["bias"][0] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="not finite"):
        Linear.open(folder)
