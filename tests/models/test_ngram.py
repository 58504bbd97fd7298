"""The n-gram model against readable versions of the published formulas, and against what lmplz estimated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.formats.arpa import read_arpa
from myna.models.counts import FALLBACK_DISCOUNTS, Counts, modified_discounts, with_start
from myna.models.ngram import Ngram, draw_documents, fit_ngram
from myna.models.options import NgramOptions
from tests.docs_code import load_block
from tests.formats.test_arpa import GOLDEN, grams

SEPARATOR = 0


class Counted:
    """Witten-Bell and stupid back-off as written, over tuples in dictionaries; stupid scores are divided by a sum over all ids."""

    def __init__(self, documents: list[list[int]], vocab_size: int, order: int, smoothing: str, prune: tuple[int, ...] = (0,)) -> None:
        self.vocab_size, self.order, self.smoothing = vocab_size, order, smoothing
        raw: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            ids = [SEPARATOR, *document, SEPARATOR]
            for end in range(2, len(ids) + 1):  # the last id of the n-gram is predicted, so the first separator never is
                for length in range(1, min(order, end) + 1):
                    raw[tuple(ids[end - length:end])] += 1
        self.after: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for gram, count in raw.items():
            self.after[gram[:-1]].append(count)
        self.counts = {gram: count for gram, count in raw.items() if count > prune[min(len(gram), len(prune)) - 1]}

    def score(self, word: int, context: tuple[int, ...]) -> float:
        seen = self.after.get(context, [])
        if self.smoothing == "stupid_backoff":
            if (*context, word) in self.counts:
                return self.counts[(*context, word)] / sum(seen)
            return (0.4 if seen else 1) * (self.score(word, context[1:]) if context else 1 / self.vocab_size)
        lower = self.score(word, context[1:]) if context else 1 / self.vocab_size
        return (self.counts.get((*context, word), 0) + len(seen) * lower) / (sum(seen) + len(seen)) if seen else lower

    def __call__(self, word: int, context: tuple[int, ...]) -> float:
        context = context[max(0, len(context) - self.order + 1):]
        return self.score(word, context) / sum(self.score(other, context) for other in range(self.vocab_size))


def readable(documents: list[list[int]], order: int, smoothing: str) -> Callable[[int, tuple[int, ...]], float]:
    """The readable version: the page's for Kneser-Ney."""
    if smoothing == "kneser_ney":
        return load_block("docs/families/ngram.md", 0).modified_kneser_ney(documents, 12, order)
    return Counted(documents, 12, order, smoothing)


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
@pytest.mark.parametrize("smoothing", ["kneser_ney", "witten_bell", "stupid_backoff"])
def test_probabilities_are_those_of_the_published_formulas(order: int, smoothing: str) -> None:
    model, p = fit(order, smoothing), readable(corpus(), order, smoothing)
    for document in corpus(seed=1)[:6]:
        seen = (SEPARATOR, *document)
        expected = [np.log(p(word, seen[:t + 1])) for t, word in enumerate(document)]
        np.testing.assert_allclose(model.log_probs(document), expected, atol=1e-6)
        state = model.start()
        row = model.step([list(seen)], state)[0]
        np.testing.assert_allclose(row, [np.log(p(word, seen)) for word in range(12)], atol=1e-6)


def words_of(model: Ngram) -> dict[tuple[str, ...], tuple[float, float]]:
    """The model's n-grams as lmplz names them: id i is w<i>, the unused id 11 is <unk>."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    for ids, chances, backoffs in model.levels():
        weights = np.zeros(len(ids)) if backoffs is None else backoffs
        for gram, chance, weight in zip(ids.tolist(), chances / np.log(10), weights / np.log(10), strict=True):
            names = [{0: "<s>", 11: "<unk>"}.get(id, f"w{id}") for id in gram]
            if gram == [0]:
                found["<s>",] = (0.0, float(weight))
            if gram[-1] == 0:
                names[-1], weight = "</s>", 0.0
            found[tuple(names)] = (float(chance), float(weight))
    return found


@pytest.mark.parametrize("name, prune", [("lmplz", ()), ("lmplz_pruned", (0, 0, 1))])
def test_estimates_are_those_of_lmplz(name: str, prune: tuple[int, ...]) -> None:
    """The files' origin is told in tests/formats/test_arpa.py. The discounts are those that lmplz printed."""
    model, golden = fit(4, prune=prune), grams(read_arpa(GOLDEN / f"{name}.arpa"))
    ours = words_of(model)
    assert ours.keys() == golden.keys()
    for gram, numbers in golden.items():
        assert ours[gram] == pytest.approx(numbers, abs=1e-6), gram
    np.testing.assert_allclose(model.facts["discounts"], [(0.5, 1, 1.5), (0.298969, 1.41965, 2.45642), (0.591489, 1.1867, 2.56983),
                                                          (0.697531, 1.40212, 1.00705)], rtol=1e-5)


@pytest.mark.parametrize("smoothing", ["kneser_ney", "witten_bell", "stupid_backoff"])
def test_a_pruned_model_is_a_distribution_without_the_rare_n_grams(smoothing: str) -> None:
    whole, model = fit(4, smoothing), fit(4, smoothing, prune=(0, 1, 2))
    assert model.name.endswith(", pruned")
    sizes = [len(chances) for _, chances, _ in model.levels()]
    assert [len(chances) for _, chances, _ in whole.levels()] == [a + b for a, b in zip(sizes, model.facts["pruned"], strict=True)]
    assert model.facts["pruned"][0] == 0 and min(model.facts["pruned"][1:]) > 5 and min(sizes) > 5
    contexts = [[SEPARATOR, *document[:n]] for document in corpus() for n in (0, 1, 2, 5)]
    rows = model.step(contexts, model.start(len(contexts)))
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(-1), 1, atol=2e-6)
    scores = np.concatenate([model.log_probs(document) for document in corpus(1)])
    assert model.facts["tried"][-1]["bits_per_token"] == pytest.approx(-scores.mean() / np.log(2), rel=1e-6)
    if smoothing == "stupid_backoff":
        p = Counted(corpus(), 12, 4, smoothing, (0, 1, 2))
        document = corpus(1)[0]
        expected = [np.log(p(word, (SEPARATOR, *document[:t]))) for t, word in enumerate(document)]
        np.testing.assert_allclose(model.log_probs(document), expected, atol=1e-6)


def test_pruning_everything_shortens_the_order_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(4, prune=(0, 0, 10_000)).order == 2
    assert "no n-gram longer than 2" in capsys.readouterr().err


@pytest.mark.parametrize("options, said", [
    (NgramOptions(order=0), "order is 0"), (NgramOptions(max_order=0), "max_order is 0"), (NgramOptions(max_tokens=0), "max_tokens is 0"),
    (NgramOptions(prune=(1, 0)), "prune is 1,0"), (NgramOptions(prune=(-1,)), "prune is -1")])
def test_what_no_model_can_have_is_one_line(options: NgramOptions, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit_ngram(stream(corpus()), stream(corpus(1)), 12, SEPARATOR, options)


def test_stupid_back_off_is_only_for_those_who_ask() -> None:
    assert {row["smoothing"] for row in fit(None, None).facts["tried"]} == {"kneser_ney", "witten_bell"}


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("prune", [(), (0, 0, 1)])
def test_the_compiled_scorer_gives_the_same_bits(order: int, prune: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if len(prune) > order:
        return
    model, ids = fit(order, prune=prune), stream(corpus(seed=8)).astype(np.int64)
    expected = model.log_probs(ids)
    assert (model.compiled().scores(np.append(SEPARATOR, ids)) == expected).all()
    monkeypatch.setattr("myna.models.ngram._COMPILE_AFTER", 2 * len(ids))
    assert (model.log_probs(ids) == expected).all() and (model.log_probs(ids[:7]) == expected[:7]).all()


def test_three_discounts_are_estimated_and_not_only_the_fixed_ones() -> None:
    assert 4 not in fit(4).facts["fixed_discounts"]


def test_a_case_worked_by_hand() -> None:
    """Ten tokens, "1 2 1 2", "1 1", "2" and their separators, order 2, on paper.

    Pairs: (0,1) 2, (0,2) 1, (1,2) 2, (2,1) 1, (1,1) 1, (2,0) 2, (1,0) 1. No pair occurs 3 times, so D = 1/2, 1, 3/2.
    Different ids before 0: 2; before 1: 3 (0, 2, 1); before 2: 2 (0, 1). Their sum is 7.
    """
    ids = np.array([1, 2, 1, 2, 0, 1, 1, 0, 2, 0])
    model = fit_ngram(ids, np.array([1, 0]), 3, 0, NgramOptions(order=2, smoothing="kneser_ney"))
    given = (1 + Fraction(3, 2) + 1) / 7 / 3  # the uniform third's share
    single = [Fraction(1, 7) + given, Fraction(3, 14) + given, Fraction(1, 7) + given]
    assert sum(single) == 1
    after_1 = [Fraction(1, 8) + single[0] / 2, Fraction(1, 8) + single[1] / 2, Fraction(1, 4) + single[2] / 2]  # 4 in all, 2 taken
    after_2 = [Fraction(1, 3) + single[0] / 2, Fraction(1, 6) + single[1] / 2, single[2] / 2]  # 3 in all, 1 + 1/2 taken
    after_start = [single[0] / 2, Fraction(1, 3) + single[1] / 2, Fraction(1, 6) + single[2] / 2]
    for context, expected in ((1, after_1), (2, after_2), (0, after_start)):
        assert sum(expected) == 1
        np.testing.assert_allclose(np.exp(model.step([[context]], model.start())[0]), [float(p) for p in expected], rtol=1e-6)


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
    ([], [1, 0], NgramOptions()), ([0, 0], [1, 0], NgramOptions()), ([1, 0], [], NgramOptions()), ([7, 0], [1, 0], NgramOptions())])
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
