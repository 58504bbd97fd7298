"""Hidden tokens: how many, which, by what they are replaced; whole words; pairs; and that all depends on (seed, step) alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myna.data.masking import Marks, Masked, choose, position_padding, read_marks, uniform
from myna.data.options import MaskingOptions
from myna.errors import UserError
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.docs_code import load_block
from tests.tokenizer.corpora import write_corpus

V, MASK, CLS, SEP = 200, 197, 198, 199


def marks(starts: np.ndarray | None = None) -> Marks:
    special = np.zeros(V, bool)
    special[[MASK, CLS, SEP]] = True
    starts = np.ones(V, bool) if starts is None else starts
    return Marks(MASK, CLS, SEP, special, starts | special, special.copy())


def stream(length: int = 40_000, seed: int = 0, document: int = 300) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, 190, length)
    ids[document::document] = SEP
    return ids


def reader(**changes: Any) -> Masked:
    return Masked(**{"ids": stream(), "context": 128, "seed": 3, "marks": marks(), **changes})


def test_rows_are_framed_windows_and_every_token_of_an_epoch_is_seen_once() -> None:
    read = reader(ids=stream(126 * 10 + 5), context=128).read
    rows = read(0, 10)
    assert {name: values.shape for name, values in rows.items()} == dict.fromkeys(("input_ids", "labels", "attention_mask"), (10, 128))
    assert all(values.dtype == np.int64 for values in rows.values())
    text = np.where(rows["labels"] >= 0, rows["labels"], rows["input_ids"])
    assert (text[:, 0] == CLS).all() and (text[:, -1] == SEP).all()
    ids = stream(126 * 10 + 5)
    circle = " ".join(map(str, np.concatenate((ids, ids))))
    assert all(" ".join(map(str, row[1:-1])) in circle for row in text)
    seen = np.bincount(text[:, 1:-1].ravel(), minlength=V)
    assert seen.sum() == 1260 and (seen <= np.bincount(ids, minlength=V)).all()


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_a_share_of_the_tokens_is_hidden_80_10_10(share: float) -> None:
    read = reader(options=MaskingOptions(mask_probability=share)).read
    rows = {name: np.concatenate([read(step, 64)[name] for step in range(20)]) for name in ("input_ids", "labels")}
    inputs, labels = rows["input_ids"], rows["labels"]
    chosen = labels >= 0
    assert not chosen[:, [0, -1]].any() and not np.isin(labels, [MASK, CLS, SEP]).any()  # nor the separators inside
    candidates = (~np.isin(np.where(chosen, labels, inputs), [CLS, SEP])).sum(axis=1)
    assert np.abs(chosen.sum(axis=1) - share * candidates).max() <= 0.5 + 1e-9
    kinds = np.array([(inputs[chosen] == MASK).mean(), ((inputs != MASK) & (inputs != labels))[chosen].mean(),
                      (inputs == labels)[chosen].mean()])
    np.testing.assert_allclose(kinds, [0.8, 0.1 * 196 / 197, 0.1 + 0.1 / 197], atol=0.01)
    drawn = inputs[chosen & (inputs != MASK) & (inputs != labels)]
    assert not np.isin(drawn, [CLS, SEP]).any() and len(np.unique(drawn)) > 180
    assert chosen.mean(axis=0)[1:-1].std() < 0.05  # every position alike


def test_the_same_seed_and_step_give_the_same_rows_and_others_others() -> None:
    first = reader().read(7, 16)
    for name, values in reader().read(7, 16).items():
        np.testing.assert_array_equal(values, first[name])
    assert not np.array_equal(reader(seed=4).read(7, 16)["labels"] >= 0, first["labels"] >= 0)
    assert not np.array_equal(reader().read(8, 16)["labels"] >= 0, first["labels"] >= 0)
    # the stream of numbers is fixed for good: a resumed run may meet another NumPy
    np.testing.assert_allclose(uniform(0, 0, 3), [0.7485488196257984, 0.09157585014107261, 0.47808214764658163], rtol=0, atol=0)


def test_pieces_of_a_word_are_hidden_together() -> None:
    starts = np.arange(V) % 3 == 0
    read = reader(marks=marks(starts), options=MaskingOptions(mask_probability=0.15, whole_word=True))
    shares = []
    for step in range(20):
        rows = read.read(step, 16)
        chosen = rows["labels"] >= 0
        text = np.where(chosen, rows["labels"], rows["input_ids"])
        for row, hidden in zip(text, chosen, strict=True):
            first = 1
            for at in range(2, 128):
                if starts[row[at]] or row[at] in (CLS, SEP) or row[at - 1] in (CLS, SEP):
                    first = at
                else:
                    assert hidden[at] == hidden[first]
        shares.append(chosen.mean() * 128 / 126)
    assert np.mean(shares) == pytest.approx(0.15, abs=0.005)


def test_words_are_chosen_as_the_readable_version_does() -> None:
    page = load_block("docs/families/encoder.md", 1)
    rng = np.random.default_rng(0)
    for _ in range(200):
        begins = rng.random(30) < 0.5
        words = np.where(rng.random(30) < 0.1, -1, np.cumsum(begins))
        words = np.where(words < 0, -1, words - words[words >= 0].min())
        draws = rng.random(30)
        share = rng.choice([0.05, 0.15, 0.5])
        assert choose(words[None], draws[None], share)[0].tolist() == page.choose(words.tolist(), draws.tolist(), share)


def test_rows_are_those_of_the_readable_version() -> None:
    page = load_block("docs/families/encoder.md", 1)
    read = reader(context=40, options=MaskingOptions(mask_probability=0.4))
    rows = read.read(2, 6)
    text = np.where(rows["labels"] >= 0, rows["labels"], rows["input_ids"])
    chosen_by, acted_by, drawn_by = uniform(3, 2, 6 * (3 * 40 + 2))[:3 * 240].reshape(3, 6, 40)
    for b in range(6):
        words = [-1 if id in (CLS, SEP) else place for place, id in enumerate(text[b])]
        chosen = page.choose(words, chosen_by[b].tolist(), 0.4)
        assert (rows["labels"][b] >= 0).tolist() == chosen
        expected = [page.hide(id, u, int(v * 197), MASK) if hidden else id
                    for id, hidden, u, v in zip(text[b].tolist(), chosen, acted_by[b], drawn_by[b], strict=True)]
        assert rows["input_ids"][b].tolist() == expected


def test_a_row_always_hides_a_word_and_a_row_of_marks_none() -> None:
    words = np.array([[0, 0, 0, 0, 0, 0], [-1, 0, 1, -1, -1, -1], [-1] * 6])
    chosen = choose(words, np.full((3, 6), 0.5), 0.01)
    assert chosen[0].all() and chosen[1].sum() >= 1 and not chosen[2].any()


def test_pairs_are_two_segments_half_of_them_swapped() -> None:
    ids = np.arange(20_000) % 150
    ids[400::400] = SEP
    read = reader(ids=ids, pairs=True, options=MaskingOptions(mask_probability=0.01))
    rows = {name: np.concatenate([read.read(step, 64)[name] for step in range(10)])
            for name in ("input_ids", "labels", "token_type_ids", "sentence_order_label")}
    text = np.where(rows["labels"] >= 0, rows["labels"], rows["input_ids"])
    order = rows["sentence_order_label"]
    assert set(order.tolist()) == {0, 1, -100} and (order == 1).mean() == pytest.approx(0.5, abs=0.05)
    lengths = []
    for row, types, swapped in zip(text, rows["token_type_ids"], order, strict=True):
        cut = int(np.argmax(types))  # the first of the second segment
        assert (types[cut:] == 1).all() and row[0] == CLS and row[cut - 1] == SEP and row[-1] == SEP
        first, second = row[1:cut - 1], row[cut:-1]
        lengths.append(len(second) if swapped == 1 else len(first))
        before, after = (second[-1], first[0]) if swapped == 1 else (first[-1], second[0])
        assert (after == (before + 1) % 150) if swapped >= 0 else (SEP in (before, after))
    assert min(lengths) == 125 // 4 and max(lengths) == 125 - 125 // 4


def test_what_cannot_be_is_one_line() -> None:
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="mask_probability"):
            reader(options=MaskingOptions(mask_probability=share))
    with pytest.raises(UserError, match="a context of 5"):
        reader(context=5)
    with pytest.raises(UserError, match="126 tokens"):
        reader(ids=stream(126))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = ["From fairest creatures we desire increase. " * 30, "从前有一只鸟，它学会了说话。" * 30]
    folder = write_corpus(tmp_path_factory.mktemp("c") / "c", texts)
    return train_tokenizer(folder, TokenizerOptions(vocab_size=400, special_tokens=("<|mask|>", "<|cls|>")))


def test_the_marks_of_a_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = read_marks(tokenizer)
    assert tokenizer.tokens([found.mask_id, found.cls_id, found.separator_id]) == ["<|mask|>", "<|cls|>", "<|endoftext|>"]
    assert found.special.sum() == len(tokenizer.special_ids) and len(found.starts) == tokenizer.vocab_size
    ids = tokenizer.encode("desire 鸟只一有 (creatures")
    read = Masked(np.array(ids * 50), 64, 0, found, MaskingOptions(whole_word=True))
    words = read.words(np.array([[found.cls_id, *ids, found.separator_id]]))[0]
    assert words[0] == words[-1] == -1
    grouped = ["".join(tokenizer.decode_bytes([id]).decode("latin-1") for id, w in zip(ids, words[1:-1], strict=True) if w == word)
               for word in dict.fromkeys(words[1:-1].tolist())]
    assert [piece.encode("latin-1").decode() for piece in grouped] == ["desire", " ", "鸟", "只", "一", "有", " ", "(", "creatures"]
    with pytest.raises(UserError, match=r"<\|mask\|>"):
        read_marks(train_tokenizer(write_corpus(tmp_path / "c", ["abc " * 100]), TokenizerOptions(vocab_size=320)))


def test_roberta_counts_positions_from_an_id_that_no_text_has(tokenizer: Tokenizer) -> None:
    id = position_padding(tokenizer)
    assert tokenizer.token_bytes[id] == b"\xc0" and id < 256
