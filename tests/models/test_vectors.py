"""Word vectors: the step is the gradient, training finds planted company, and the same seed and threads give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from myna.errors import UserError
from myna.models import vectors_kernels as kernels
from myna.models.options import VectorsOptions
from myna.models.vectors import Vectors, hash_parts, import_word2vec, name_tokens, open_vectors
from myna.models.vectors_fit import Stream, fit_vectors
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.docs_code import load_block
from tests.tokenizer.corpora import write_corpus

ORACLE = load_block("docs/families/vectors.md")
GROUPS = [["red", "green", "blue", "black"], ["cat", "dog", "horse", "mouse"], ["one", "two", "three", "four"]]
SMALL = VectorsOptions(hidden_size=16, window=3, epochs=8, learning_rate=0.05, sample=0, min_count=1)


def _planted(sentences: int = 1500) -> str:
    """Sentences whose words all belong to one group."""
    rng = np.random.default_rng(0)
    return "\n".join(" ".join(rng.choice(GROUPS[rng.integers(3)], 6)) for _ in range(sentences))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(write_corpus(tmp_path_factory.mktemp("c") / "c", [_planted()]), TokenizerOptions(kind="words"))


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer) -> Any:
    return np.array([id for line in _planted().split("\n") for id in (*tokenizer.encode(line), tokenizer.separator_id)], np.uint16)


@pytest.fixture(scope="module")
def made(tokenizer: Tokenizer, ids: Any) -> Vectors:
    return fit_vectors(ids, tokenizer, tokenizer.separator_id, SMALL)


@pytest.fixture(scope="module")
def parted(tokenizer: Tokenizer, ids: Any) -> Vectors:
    return fit_vectors(ids, tokenizer, tokenizer.separator_id, VectorsOptions(hidden_size=8, epochs=1, subwords=True, buckets=100))


@pytest.mark.parametrize("rows", [[3], [1, 4, 6, 0, 2]], ids=["skip-gram", "cbow"])
def test_a_step_is_the_gradient(rows: list[int]) -> None:
    rng = np.random.default_rng(1)
    inputs, outputs = rng.normal(0, 0.5, (8, 12)).astype(np.float32), rng.normal(0, 0.5, (8, 12)).astype(np.float32)
    targets = np.array([5, 1, 7])
    v, u = (torch.tensor(table, requires_grad=True) for table in (inputs, outputs))
    hidden = v[rows].mean(0)
    hidden.retain_grad()
    loss = F.binary_cross_entropy_with_logits(u[targets] @ hidden, torch.tensor([1.0, 0.0, 0.0]), reduction="sum")
    loss.backward()
    before = inputs.copy(), outputs.copy()
    found = kernels.update(inputs, outputs, np.array(rows), targets, 0.1, np.zeros(12, np.float32), np.zeros(12, np.float32))
    assert found == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(outputs, before[1] - 0.1 * u.grad.numpy(), atol=1e-6)
    expected = before[0].copy()
    expected[rows] -= 0.1 * hidden.grad.numpy()  # each row takes the whole gradient of the mean
    np.testing.assert_allclose(inputs, expected, atol=1e-6)


def test_steps_equal_the_readable_ones() -> None:
    rng = np.random.default_rng(2)
    tables = [rng.normal(0, 0.3, (9, 10)).astype(np.float32) for _ in range(2)]
    slow = [table.astype(np.float64) for table in tables]
    room = np.zeros(10, np.float32), np.zeros(10, np.float32)
    for _ in range(50):
        word, right, *wrong = rng.choice(9, 5, replace=False)
        ours = kernels.update(*tables, np.array([word]), np.array([right, *wrong]), 0.05, *room)
        assert ours == pytest.approx(ORACLE.step(*slow, word, right, wrong, 0.05), rel=1e-4)
    for table, expected in zip(tables, slow, strict=True):
        np.testing.assert_allclose(table, expected, atol=1e-5)


def _clusters(vectors: Vectors) -> bool:
    return all({word for word, _ in vectors.nearest(group[0], 3)} == set(group[1:]) for group in GROUPS)


def test_planted_company_comes_out_here_and_in_the_readable_version(made: Vectors, tokenizer: Tokenizer) -> None:
    assert sorted(made.words) == sorted(word for group in GROUPS for word in group)
    assert _clusters(made)
    numbers = {word: number for number, word in enumerate(made.words)}
    documents = [[numbers[word] for word in line.split()] for line in _planted(120).split("\n")]
    assert _clusters(Vectors(made.words, ORACLE.train(documents, 12, rate=0.2)))


@pytest.mark.parametrize(("method", "subwords"), [("cbow", False), ("skipgram", True), ("cbow", True)])
def test_every_method_finds_it(tokenizer: Tokenizer, ids: Any, method: Any, subwords: bool) -> None:
    options = VectorsOptions(method=method, hidden_size=16, window=3, epochs=12, learning_rate=0.05, sample=0, subwords=subwords,
                             buckets=500)
    found = fit_vectors(ids, tokenizer, tokenizer.separator_id, options, threads=2)
    assert _clusters(found)
    assert found.buckets == (500 if subwords else 0)


def test_training_lowers_the_loss(made: Vectors) -> None:
    losses = made.facts["losses"]
    assert len(losses) == 8
    assert losses[-1] < losses[0] < 6 * np.log(2)  # at the beginning each of six answers is a coin's
    assert losses[-1] < 0.4 * 6 * np.log(2)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_and_threads_give_the_same_bytes(tokenizer: Tokenizer, ids: Any, threads: int) -> None:
    first, second = (fit_vectors(ids, tokenizer, tokenizer.separator_id, SMALL, seed=3, threads=threads) for _ in range(2))
    assert first.inputs.tobytes() == second.inputs.tobytes()
    assert first.outputs.tobytes() == second.outputs.tobytes()
    assert _clusters(first)
    other = fit_vectors(ids, tokenizer, tokenizer.separator_id, SMALL, seed=4, threads=threads)
    assert other.inputs.tobytes() != first.inputs.tobytes()


def test_threads_meet_in_the_mean_of_those_that_changed_a_row() -> None:
    table, copies = np.zeros((3, 2), np.float32), np.array([[[1, 1], [2, 2], [9, 9]], [[3, 3], [7, 7], [9, 9]]], np.float32)
    touched = np.array([[True, True, False], [True, False, False]])
    kernels.merge(table, copies, touched)
    assert table.tolist() == [[2, 2], [2, 2], [0, 0]]
    assert copies[0, :2].tolist() == copies[1, :2].tolist() == table[:2].tolist()
    assert not touched.any()


def test_seconds_bound_the_training(tokenizer: Tokenizer, ids: Any, made: Vectors) -> None:
    found = fit_vectors(ids, tokenizer, tokenizer.separator_id, SMALL, seconds=0.5)
    assert found.facts["epochs"] >= 1
    assert np.isfinite(found.table).all()


def test_wrong_words_are_drawn_by_their_weight() -> None:
    weights = np.array([1.0, 5, 0.5, 3.5])
    alias, other = kernels.make_alias(weights)
    state, targets, drawn = np.array([12345], np.uint64), np.zeros(2, np.int64), np.zeros(4)
    for _ in range(20_000):
        if kernels.draw_targets(targets, 9, alias, other, 4, state) == 2:
            drawn[targets[1]] += 1
    np.testing.assert_allclose(drawn / drawn.sum(), weights / 10, atol=0.015)
    counts = [kernels.draw_targets(targets, 1, alias, other, 4, state) for _ in range(1000)]
    assert 0.4 < np.mean(np.array(counts) == 1) < 0.6  # the right word is drawn half the time, and left out


def test_the_stream_joins_forms_and_skips_what_is_no_word(tokenizer: Tokenizer) -> None:
    text = "red Red, cat!\n dog xyzzy one"
    shard = np.array([*tokenizer.encode(text.lower()), tokenizer.separator_id, *tokenizer.encode("two")])
    stream = Stream(shard, tokenizer, tokenizer.separator_id, "words")
    assert [stream.words[i] if i >= 0 else "|" for i in stream.block(0, len(shard))] == ["red", "red", "cat", "dog", "one", "|", "two"]
    stream.keep(2)
    assert stream.words == ["red"]
    assert stream.block(0, len(shard)).tolist() == [0, 0, -1]
    tokens = Stream(shard, tokenizer, tokenizer.separator_id, "tokens")
    assert len(tokens.block(0, len(shard))) == len(shard)
    assert "\u2581red" in tokens.words


def test_frequent_words_are_passed_over_and_documents_end_windows() -> None:
    fixed = (*kernels.make_alias(np.ones(4)), np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32), np.arange(5), np.arange(4))
    flags = np.zeros(4, np.bool_), np.zeros(4, np.bool_)

    def predictions(block: list[int], keep: float) -> int:
        chances = np.array([keep, 1.0, 1.0, 1.0])
        return int(kernels.train_block(np.array(block, np.int32), chances, *fixed, 1, 1, False, 0.1, 0.1, np.uint64(1), *flags)[1])

    assert predictions([0, 1, 2], 1.0) == 4
    assert predictions([0, -1, 1, -1, 2, -1], 1.0) == 0
    assert predictions([1, 0, 2], 0.0) == 2  # 1 and 2 have become neighbours
    assert 3000 < predictions([0, 0] * 5000, 0.2) < 5000


def test_saved_and_opened_it_is_the_same(made: Vectors, parted: Vectors, tmp_path: Path) -> None:
    for name, vectors in (("a", made), ("b", parted)):
        (tmp_path / name).mkdir()
        vectors.save(tmp_path / name)
        again = Vectors.open(tmp_path / name)
        assert (again.words, again.facts, again.counts.tolist(), again.name) == (vectors.words, json.loads(json.dumps(vectors.facts)),
                                                                              vectors.counts.tolist(), vectors.name)
        assert again.inputs.tobytes() == vectors.inputs.tobytes()
        assert again.nearest("cat") == vectors.nearest("cat")
        assert json.loads((tmp_path / name / "config.json").read_text())["model_type"] == "vectors"


@pytest.mark.parametrize(("file", "change"), [
    ("config.json", {"vocab_size": 13}), ("config.json", {"hidden_size": 0}), ("config.json", {"buckets": -1}),
    ("config.json", {"buckets": "x"}), ("config.json", {"hidden_size": 1 << 30}), ("config.json", {"model_type": "ngram"}),
    ("words.json", {"words": ["a"]}), ("words.json", {"counts": [-1] * 12}), ("words.json", {"words": [3] * 12}),
    ("model.safetensors", None)])
def test_damaged_directories_are_refused(made: Vectors, tmp_path: Path, file: str, change: dict[str, Any] | None) -> None:
    made.save(tmp_path)
    if change is None:
        save_file({"input": np.full((12, 16), np.nan, np.float32)}, tmp_path / file)
    else:
        (tmp_path / file).write_text(json.dumps({**json.loads((tmp_path / file).read_text()), **change}))
    with pytest.raises(UserError):
        Vectors.open(tmp_path)


def test_words_that_are_not_there(made: Vectors, parted: Vectors, tokenizer: Tokenizer, ids: Any) -> None:
    with pytest.raises(UserError, match=r"no vector for 'hors' \(did you mean horse\?\)"):
        made.vector("hors")
    np.testing.assert_array_equal(made.vector("Horse"), made.vector("horse"))
    rows = [12 + part for part in hash_parts("horsey", 100)]
    np.testing.assert_allclose(parted.vector("horsey"), parted.inputs[rows].mean(0))
    own = parted.words.index("horse")
    np.testing.assert_allclose(parted.vector("horse"), parted.inputs[[own, *[12 + part for part in hash_parts("horse", 100)]]].mean(0))
    tokens = fit_vectors(ids, tokenizer, tokenizer.separator_id, VectorsOptions(hidden_size=4, epochs=1, forms="tokens", min_count=1))
    np.testing.assert_array_equal(tokens.vector("horse"), tokens.table[tokens.words.index("\u2581horse")])
    assert np.isfinite(tokens.vector("horse dog")).all()  # of its two tokens


def test_parts_of_a_word() -> None:
    assert len(hash_parts("cat", 1 << 30)) == 3 + 2 + 1  # <ca cat at> <cat cat> <cat>
    assert hash_parts("a", 7) == [hash_parts("a", 7)[0]]
    assert all(0 <= part < 7 for part in hash_parts("unquestionably", 7))


def test_an_analogy() -> None:
    table = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [-1, -1, 0]], np.float32)
    vectors = Vectors(["man", "king", "woman", "queen", "stone"], table)
    assert vectors.analogy("man", "king", "woman", 1)[0][0] == "queen"
    assert [word for word, _ in vectors.nearest("king", 9)] != ["king"]
    assert len(vectors.nearest("king", 9)) == 4
    with pytest.raises(UserError, match="n is 0"):
        vectors.nearest("king", 0)


@pytest.mark.parametrize("width", [4, 16, 24])
def test_a_table_to_begin_a_neural_model_with(made: Vectors, tokenizer: Tokenizer, width: int) -> None:
    table, found = made.embeddings_for(tokenizer, width, std=0.05)
    names = name_tokens(tokenizer, merged=True)
    known = [id for id, name in enumerate(names) if name in made.words]
    assert table.shape == (tokenizer.vocab_size, width)
    assert found == len(known) >= 12
    assert np.std(table) == pytest.approx(0.05, rel=0.2)
    cosines = made.table @ made.table.T
    rows = [next(id for id in known if names[id] == word) for word in made.words]
    ours = table[rows][:, :16].astype(np.float64) @ table[rows][:, :16].T
    if width >= 16:  # nothing is lost but the scale
        np.testing.assert_allclose(ours / ours[0, 0], cosines / cosines[0, 0], atol=1e-4)
    else:
        assert np.corrcoef(ours.ravel(), cosines.ravel())[0, 1] > 0.95
    assert Vectors(["nowhere"], np.ones((1, 4), np.float32)).embeddings_for(tokenizer, 4)[1] == 0


def test_the_table_of_a_neural_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(tokenizer.vocab_size, 4)).astype(np.float32)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    save_file({"model.embed_tokens.weight": table, "model.norm.weight": np.ones(4, np.float32)}, tmp_path / "model.safetensors")
    vectors = open_vectors(tmp_path)
    np.testing.assert_array_equal(vectors.vector("cat"), table[tokenizer.encode(" cat")[0]])
    save_file({"model.norm.weight": np.ones(4, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no table of its tokens"):
        open_vectors(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "ngram"}')
    with pytest.raises(UserError, match="has no vectors"):
        open_vectors(tmp_path)


@pytest.mark.parametrize("options", [{"hidden_size": 0}, {"negatives": 21}, {"epochs": 0}, {"window": 0}, {"sample": 2.0},
                                     {"learning_rate": 0.0}, {"min_count": 10**6}])
def test_what_cannot_be_trained_is_refused(tokenizer: Tokenizer, ids: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        fit_vectors(ids, tokenizer, tokenizer.separator_id, VectorsOptions(**options))
    with pytest.raises(UserError, match="beyond the vocabulary"):
        fit_vectors(np.array([60_000]), tokenizer, tokenizer.separator_id)


def test_a_file_of_word2vec_is_vectors(tmp_path: Path) -> None:
    (tmp_path / "v.vec").write_text("2 3\nköttur 1 2 3\nhundur 1 2 -3\n", encoding="utf-8")
    vectors = import_word2vec(tmp_path / "v.vec")
    assert vectors.nearest("köttur") == [("hundur", pytest.approx(-4 / 14))]
    vectors.save(tmp_path)
    assert Vectors.open(tmp_path).words == ["köttur", "hundur"]
