"""The n-gram model against a slow twin that writes the published formulas with dictionaries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.models.counts import FALLBACK_DISCOUNTS, Counts, modified_discounts, with_start
from myna.models.ngram import Ngram, draw_documents, fit_ngram
from myna.models.options import NgramOptions

SEPARATOR = 0


class SlowTwin:
    """Chen & Goodman (1999): every formula as written, over tuples in dictionaries."""

    def __init__(self, documents: list[list[int]], vocab_size: int, order: int, smoothing: str) -> None:
        self.vocab_size, self.order, self.smoothing = vocab_size, order, smoothing
        raw: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            ids = [SEPARATOR, *document, SEPARATOR]
            for end in range(2, len(ids) + 1):  # the last id of the n-gram is predicted, so the first separator never is
                for length in range(1, min(order, end) + 1):
                    raw[tuple(ids[end - length:end])] += 1
        left: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for gram in raw:
            left[gram[1:]].add(gram[0])
        self.counts: dict[tuple[int, ...], int] = {}
        for gram, count in raw.items():
            lower = len(gram) < order and smoothing == "kneser_ney" and not (len(gram) > 1 and gram[0] == SEPARATOR)
            self.counts[gram] = len(left[gram]) if lower else count
        self.discounts = {k: self._discounts([c for g, c in self.counts.items() if len(g) == k]) for k in range(1, order + 1)}
        self.children: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for gram, count in self.counts.items():
            self.children[gram[:-1]].append(count)

    def _discounts(self, counts: list[int]) -> tuple[float, float, float]:
        n1, n2, n3, n4 = (counts.count(j) for j in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return FALLBACK_DISCOUNTS
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return found if all(0 < d <= j for j, d in zip((1, 2, 3), found, strict=True)) else FALLBACK_DISCOUNTS

    def probability(self, word: int, context: tuple[int, ...]) -> float:
        context = context[max(0, len(context) - self.order + 1):]
        lower = self.probability(word, context[1:]) if context else 1 / self.vocab_size
        children = self.children.get(context, [])
        if not children:
            return lower
        count, total = self.counts.get((*context, word), 0), sum(children)
        if self.smoothing == "witten_bell":
            return (count + len(children) * lower) / (total + len(children))
        d = (0.0, *self.discounts[len(context) + 1])
        return (count - d[min(count, 3)]) / total + sum(d[min(c, 3)] for c in children) / total * lower


def corpus(seed: int = 0, documents: int = 30, length: int = 40, vocab_size: int = 12) -> list[list[int]]:
    """Documents with structure: a random walk whose next id depends on the last two."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(99).dirichlet(np.full(vocab_size - 2, 0.15), size=(vocab_size, vocab_size))
    made = []
    for _ in range(documents):
        ids = [0, 0]
        for _ in range(int(rng.integers(1, length))):
            ids.append(1 + int(rng.choice(vocab_size - 2, p=table[ids[-2], ids[-1]])))  # the last id is never seen
        made.append(ids[2:])
    return made


def stream(documents: list[list[int]]) -> np.ndarray:
    return np.array([i for document in documents for i in [*document, SEPARATOR]], np.uint16)


def fit(order: int | None = 4, smoothing: str | None = "kneser_ney", seed: int = 0, **options: object) -> Ngram:
    return fit_ngram(stream(corpus(seed)), stream(corpus(seed + 1)), 12, SEPARATOR,
                     NgramOptions(order=order, smoothing=smoothing, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("smoothing", ["kneser_ney", "witten_bell"])
def test_probabilities_are_those_of_the_published_formulas(order: int, smoothing: str) -> None:
    model, twin = fit(order, smoothing), SlowTwin(corpus(), 12, order, smoothing)
    if smoothing == "kneser_ney":
        np.testing.assert_allclose(model.facts["discounts"], list(twin.discounts.values()))
    for document in corpus(seed=1)[:10]:
        seen = (SEPARATOR, *document)
        expected = [np.log(twin.probability(word, seen[:t + 1])) for t, word in enumerate(document)]
        np.testing.assert_allclose(model.log_probs(document), expected, atol=1e-6)
        state = model.start()
        row = model.step([list(seen)], state)[0]
        np.testing.assert_allclose(row, [np.log(twin.probability(word, seen)) for word in range(12)], atol=1e-6)


def test_three_discounts_are_estimated_and_not_only_the_fixed_ones() -> None:
    assert 4 not in fit(4).facts["fixed_discounts"]


def test_a_case_worked_by_hand() -> None:
    # Documents "1 2" and "1 1": bigrams (0,1)x2 (1,2) (2,0) (1,1) (1,0); left neighbours: of 1 {0,1}, of 2 {1}, of 0 {2,1}.
    model = fit_ngram(np.array([1, 2, 0, 1, 1, 0]), np.array([1, 0]), 3, 0, NgramOptions(order=2, smoothing="kneser_ney"))
    # Fixed discounts. Unigrams: (2-1)/5, (2-1)/5, (1-.5)/5, weight (1+1+.5)/5 = .5 on 1/3.
    unigram = np.array([1 / 5, 1 / 5, 0.5 / 5]) + 0.5 / 3
    after_1 = 0.5 / 3 + 1.5 / 3 * unigram  # every id follows 1 once
    np.testing.assert_allclose(np.exp(model.step([[1]], model.start())[0]), after_1, rtol=1e-6)
    after_start = np.array([0, (2 - 1) / 2, 0]) + 1 / 2 * unigram
    np.testing.assert_allclose(np.exp(model.step([[0]], model.start())[0]), after_start, rtol=1e-6)


def test_every_context_sums_to_one_and_leaves_nothing_impossible() -> None:
    model = fit(3)
    contexts = [[a, b] for a in range(12) for b in range(12)]
    rows = model.step(contexts, model.start(len(contexts)))
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(-1), 1, atol=2e-6)
    assert np.isfinite(rows).all()


def test_contexts_do_not_cross_a_separator() -> None:
    model = fit(4)
    rows = model.step([[3, 4, 5, SEPARATOR], [SEPARATOR], [9, SEPARATOR, SEPARATOR]], model.start(3))
    assert (rows == rows[0]).all()


def test_discounts_come_from_counts_of_counts_or_are_said_to_be_fixed(capsys: pytest.CaptureFixture[str]) -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 3, 2, 1])  # Y = 10/20
    assert modified_discounts(counts) == (pytest.approx((0.5, 2 - 1.5 * 3 / 5, 3 - 2 * 2 / 3)), False)
    assert modified_discounts(np.array([1, 1, 2, 3])) == (FALLBACK_DISCOUNTS, True)  # no n-gram seen 4 times
    assert modified_discounts(np.repeat([1, 2, 3, 4], [1, 1, 9, 1]))[1]  # D2 = 2 - 3 / 3 * 9 < 0
    fit_ngram(np.array([1, 2, 0]), np.array([1, 0]), 3, 0, NgramOptions(order=2, smoothing="kneser_ney"))
    assert "fixed discounts" in capsys.readouterr().err


def test_order_and_smoothing_are_those_with_the_fewest_validation_bits() -> None:
    chosen = fit(order=None, smoothing=None)
    tried = {(row["order"], row["smoothing"]): row["bits_per_token"] for row in chosen.facts["tried"]}
    assert min(tried, key=tried.__getitem__) == (chosen.order, chosen.facts["smoothing"])
    assert {order for order, _ in tried} >= {1, 2, 3}
    valid = corpus(seed=1)
    for (order, smoothing), bits in tried.items():  # the bits are those of a model made with that choice alone
        model = fit(order, smoothing)
        scores = np.concatenate([model.log_probs(document) for document in valid])
        assert bits == pytest.approx(-scores.mean() / np.log(2), rel=1e-6)


def test_a_long_dependency_makes_a_long_order_and_noise_a_short_one() -> None:
    rng = np.random.default_rng(0)
    cycle = np.tile([1, 1, 1, 2, 1, 1, 1, 3], 200)  # 4 ids back are needed to tell 2 from 3
    assert fit_ngram(np.append(cycle, 0), np.append(cycle, 0), 5, 0).order >= 5
    noise = np.append(rng.integers(1, 40, 4000), 0)
    assert fit_ngram(noise[:2000], noise[2000:], 40, 0).order <= 2


def test_step_gives_the_same_bits_as_log_probs() -> None:
    model = fit(5)
    document = corpus(seed=3)[0] * 3
    rows = model.step([[SEPARATOR, *document]], model.start(), last=False)[0]
    assert (rows[np.arange(len(document)), document] == model.log_probs(document)).all()


def test_save_and_open_give_the_same_bits_and_facts(tmp_path: Path) -> None:
    model = fit()
    model.save(tmp_path)
    again = Ngram.open(tmp_path)
    document = corpus(seed=5)[0]
    assert (again.log_probs(document) == model.log_probs(document)).all()
    assert json.loads(json.dumps(again.facts)) == json.loads(json.dumps(model.facts))
    assert (again.order, again.vocab_size, again.separator_id) == (4, 12, 0)


@pytest.mark.parametrize("key, value", [
    ("order", 9), ("order", True), ("vocab_size", -1), ("vocab_size", 10**12), ("separator_id", 12), ("ngrams", [12, 10**15, 3, 4]),
    ("ngrams", "x"), ("ngrams", []), ("model_type", "qwen3")])
def test_a_config_with_wrong_sizes_is_refused(tmp_path: Path, key: str, value: object) -> None:
    fit().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError):
        Ngram.open(tmp_path)


def _reverse_keys(tensors: dict[str, np.ndarray]) -> None:
    tensors["level_3.keys"] = tensors["level_3.keys"][::-1].copy()


def _point_outside(tensors: dict[str, np.ndarray]) -> None:
    tensors["level_3.keys"][-1] += 10**9


def _negative_key(tensors: dict[str, np.ndarray]) -> None:
    tensors["level_2.keys"][0] = -5


def _not_a_number(tensors: dict[str, np.ndarray]) -> None:
    tensors["level_2.log_probs"][0] = np.nan


def _more_than_certain(tensors: dict[str, np.ndarray]) -> None:
    tensors["level_2.log_probs"][3] = 0.5


def _other_type(tensors: dict[str, np.ndarray]) -> None:
    tensors["level_2.log_probs"] = tensors["level_2.log_probs"].astype(np.float64)


def _one_missing(tensors: dict[str, np.ndarray]) -> None:
    del tensors["level_4.keys"]


@pytest.mark.parametrize("damage", [_reverse_keys, _point_outside, _negative_key, _not_a_number, _more_than_certain, _other_type,
                                    _one_missing])
def test_damaged_numbers_are_refused(tmp_path: Path, damage: object) -> None:
    from safetensors.numpy import load_file, save_file

    fit().save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)  # type: ignore[operator]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Ngram.open(tmp_path)


def test_a_cut_or_absent_file_is_refused(tmp_path: Path) -> None:
    fit().save(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:len(data) // 2])
    with pytest.raises(UserError, match="not a safetensors file"):
        Ngram.open(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no file"):
        Ngram.open(tmp_path)


def test_too_many_tokens_are_drawn_by_document_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ids = stream([[i % 9 + 1] * 9 for i in range(100)])
    drawn = draw_documents(ids, SEPARATOR, 105)
    assert len(drawn) == 105 and (drawn == draw_documents(ids, SEPARATOR, 105)).all()
    assert not (drawn == ids[:105]).all()
    assert all(len(set(part[:-1])) == 1 for part in np.split(drawn, np.arange(10, 105, 10))[:-1])  # whole documents
    assert fit(max_tokens=200).facts["tokens"] == 200
    assert "counting 200 of" in capsys.readouterr().err


def test_documents_too_short_for_the_order_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    model = fit_ngram(np.array([1, 0, 2, 0]), np.array([1, 0]), 3, 0, NgramOptions(order=5, smoothing="kneser_ney"))
    assert model.order == 3  # [separator] 1 [separator] is the longest n-gram there is
    assert "order is at most 3" in capsys.readouterr().err


@pytest.mark.parametrize("train, valid, options", [
    ([], [1, 0], NgramOptions()), ([0, 0], [1, 0], NgramOptions()), ([1, 0], [], NgramOptions()), ([1, 0], [1, 0], NgramOptions(order=0)),
    ([7, 0], [1, 0], NgramOptions())])
def test_nothing_to_count_or_to_choose_by_is_one_line(train: list[int], valid: list[int], options: NgramOptions) -> None:
    with pytest.raises(UserError):
        fit_ngram(np.array(train, np.int64), np.array(valid, np.int64), 3, 0, options)


def test_wrong_ids_are_refused() -> None:
    model = fit()
    for ids in ([12], [-1]):
        with pytest.raises(ValueError, match="from 0 to 11"):
            model.log_probs(ids)
        with pytest.raises(ValueError, match="from 0 to 11"):
            model.step([ids], model.start())
    with pytest.raises(ValueError, match="at least one id"):
        model.step([[]], model.start())
    assert model.log_probs([]).shape == (0,)


def test_counting_keeps_the_levels_sorted_and_the_look_back_inside_the_document() -> None:
    ids, reach = with_start(np.array([5, 6, 0, 7]), 0)
    assert ids.tolist() == [0, 5, 6, 0, 7] and reach.tolist() == [0, 1, 2, 3, 1]
    counts = Counts(stream(corpus()), 12, SEPARATOR)
    while len(counts.levels) < 4:
        assert counts.add_level()
    for level in counts.levels:
        assert (np.diff(level.keys) > 0).all()
    assert len({int(level.counts.sum()) for level in counts.levels[:2]}) == 1  # every id but the added one is predicted


def test_the_module_imports_without_torch() -> None:
    code = "import sys, myna.models.ngram; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("order", [1, 2, 5])
def test_a_long_document_is_scored_in_pieces_with_the_same_bits(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, document = fit(order), [i for part in corpus(seed=7) for i in part]
    whole = model.log_probs(document)
    for size in (1, 3, 64):
        monkeypatch.setattr("myna.models.ngram._POSITIONS", size)
        assert (model.log_probs(document) == whole).all()
