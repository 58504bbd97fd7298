"""The conditional random field beside a slow twin that lists every sequence of labels."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.models.chain import (
    FORBIDDEN,
    SEGMENTS,
    Chain,
    Steps,
    atom_features,
    decode,
    legal_steps,
    marginals,
    scheme_of,
    word_features,
)
from myna.models.chain_fit import _expect, fit_chain, share_right

SPANS = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
SURNAMES, GIVEN, VERBS, PLACES = "陳王李張", "明華玲偉", "去見食", "港京"


def draw_names(count: int, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences in which 明 is a name after a surname and nothing otherwise."""
    generator = np.random.default_rng(seed)
    sentences, labels = [], []
    for number in range(count):
        words, tags = [f"第{number}"], ["O"]
        for _ in range(generator.integers(1, 4)):
            kind = generator.integers(3)
            if kind == 0:
                words += [generator.choice(list(SURNAMES)), *generator.choice(list(GIVEN), generator.integers(1, 3))]
                tags += ["B-PER"] + ["I-PER"] * (len(words) - len(tags) - 1)
            elif kind == 1:
                words += [generator.choice(list(PLACES))]
                tags += ["B-LOC"]
            words += [generator.choice(list(VERBS)), generator.choice(list(GIVEN))]
            tags += ["O", "O"]
        sentences.append([str(word) for word in words])
        labels.append(tags)
    return sentences, labels


def total(emissions: np.ndarray, steps: Steps, path: tuple[int, ...]) -> float:
    inside = sum(steps.between[a, b] for a, b in itertools.pairwise(path))
    return float(steps.start[path[0]] + steps.end[path[-1]] + inside + emissions[range(len(path)), path].sum())


def random_case(seed: int, tags: list[str]) -> tuple[np.ndarray, Steps]:
    generator = np.random.default_rng(seed)
    size = len(tags)
    learned = Steps(generator.normal(size=size), generator.normal(size=(size, size)), generator.normal(size=size))
    steps = Steps(*(rule + part for rule, part in zip(legal_steps(tags), learned, strict=True)))
    return generator.normal(0, 2, size=(int(generator.integers(1, 5)), size)), steps


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tags", [["a", "b", "c"], SPANS, sorted(SEGMENTS)])
def test_best_path_and_probabilities_are_those_of_all_sequences(seed: int, tags: list[str]) -> None:
    emissions, steps = random_case(seed, tags)
    paths = list(itertools.product(range(len(tags)), repeat=len(emissions)))
    scores = np.array([total(emissions, steps, path) for path in paths])
    assert tuple(decode(emissions, steps)) == paths[int(scores.argmax())]
    chances = np.exp(scores - scores.max())
    expected = np.zeros_like(emissions)
    for path, chance in zip(paths, chances / chances.sum(), strict=True):
        expected[range(len(path)), path] += chance
    np.testing.assert_allclose(marginals(emissions, steps), expected, atol=1e-9)
    # what training expects is the same, and its pairs too
    size = len(tags)
    forward, backward = np.zeros_like(emissions), np.zeros_like(emissions)
    spare, pairs = np.zeros((size, size)), np.zeros((size, size))
    emitted = np.exp(emissions - emissions.max(axis=1, keepdims=True))
    _expect(emitted, steps.start, steps.between, steps.end, forward, backward, spare, pairs)
    np.testing.assert_allclose(forward, expected, atol=1e-9)
    wanted = np.zeros((size, size))
    for path, chance in zip(paths, chances / chances.sum(), strict=True):
        for step in itertools.pairwise(path):
            wanted[step] += chance
    np.testing.assert_allclose(pairs, wanted, atol=1e-9)


def test_what_labels_are_and_which_may_follow() -> None:
    assert [scheme_of(tags) for tags in (["n", "v"], SPANS, ["B", "E", "M", "S"], ["O", "X"], ["B-PER", "O"])] == [
        "tags", "spans", "segments", "tags", "spans"]
    steps = legal_steps(SPANS)
    place = {tag: at for at, tag in enumerate(SPANS)}
    assert steps.start[place["I-PER"]] == FORBIDDEN and steps.start[place["B-PER"]] == 0 and not steps.end.any()
    assert steps.between[place["B-PER"], place["I-PER"]] == steps.between[place["I-PER"], place["I-PER"]] == 0
    assert steps.between[place["O"], place["I-PER"]] == steps.between[place["B-LOC"], place["I-PER"]] == FORBIDDEN
    cut = legal_steps(["B", "E", "M", "S"])
    assert [list(row == 0) for row in cut.between] == [[False, True, True, False], [True, False, False, True],
                                                       [False, True, True, False], [True, False, False, True]]
    assert list(cut.start == 0) == [True, False, False, True] and list(cut.end == 0) == [False, True, False, True]


def test_names_that_only_neighbours_tell_are_learned_and_kept(tmp_path: Path) -> None:
    (sentences, labels), (others, truth) = draw_names(300), draw_names(60, seed=1)
    chain, shares = fit_chain(sentences, labels, SPANS, "words", others, truth, seed=3)
    assert max(shares) == share_right(chain, others, truth) > 0.97
    chain.save(tmp_path)
    opened = Chain.open(tmp_path)
    for words in others[:10]:
        np.testing.assert_array_equal(opened.emissions(words), chain.emissions(words))
        # of all features, one by one: the slow twin
        slow = np.zeros((len(words), len(SPANS)))
        place = {name: number for number, name in enumerate(chain.features)}
        for row, names in zip(slow, word_features(words), strict=True):
            for feature in (place[name] for name in names if name in place):
                for pair in range(chain.starts[feature], chain.starts[feature + 1]):
                    row[chain.labels[pair]] += chain.weight[pair]
        np.testing.assert_allclose(opened.emissions(words), slow, atol=1e-6)
    assert opened.emissions(["全", "新"]).shape == (2, 5)
    again, _ = fit_chain(sentences, labels, SPANS, "words", others, truth, seed=3)
    np.testing.assert_array_equal(again.weight, chain.weight)


def test_wide_forms_are_read_as_what_they_are_forms_of() -> None:
    assert word_features(["好", "，", "ＯＫ", "。"]) == word_features(["好", ",", "OK", "."])
    assert atom_features(["好", "？"]) == atom_features(["好", "?"]) != atom_features(["好", "!"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    fit_chain(*draw_names(20), SPANS, "words", *draw_names(5, seed=1), passes=1)[0].save(folder)
    return folder


@pytest.mark.parametrize(("name", "change"), [
    ("config.json", {"model_type": "x"}), ("config.json", {"tokens": "x"}), ("config.json", {"num_features": 10**12}),
    ("config.json", {"num_pairs": 3}), ("config.json", {"id2label": {"0": "a"}}), ("features.json", {"features": ["a"]}),
    ("features.json", {"counts": 3}), ("features.json", {"labels": [10**9]})])
def test_a_damaged_directory_is_refused(saved: Path, tmp_path: Path, name: str, change: dict[str, object]) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    value = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**value, **change}))
    with pytest.raises(UserError):
        Chain.open(tmp_path)


def test_labels_out_of_range_in_the_file_are_refused(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    value = json.loads((tmp_path / "features.json").read_text())
    for spoiled in ([99, *value["labels"][1:]], [-1, *value["labels"][1:]], [0.5, *value["labels"][1:]], [True, *value["labels"][1:]]):
        (tmp_path / "features.json").write_text(json.dumps({**value, "labels": spoiled}))
        with pytest.raises(UserError):
            Chain.open(tmp_path)
