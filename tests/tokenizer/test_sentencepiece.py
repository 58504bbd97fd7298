"""SentencePiece models give the ids that the SentencePiece library gives, and damaged ones are refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from myna.errors import UserError
from myna.tokenizer.sentencepiece import CONTROL, NORMAL, UNKNOWN, describe_pieces, read_pieces
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from tests.tokenizer.model_files import SMALL, train_pieces, write_pieces
from tests.tokenizer.strings import strings

GOLDEN = {  # the ids of sentencepiece 0.2.3 for the pieces of SMALL: text, Unigram, BPE
    "abc abcab": ([12, 15, 14, 17], [16, 14, 17]), " a  b ": ([12, 3, 5], [12, 3, 5]),
    "</s>ab": ([3, 7, 9, 8, 10, 13], [3, 7, 9, 8, 10, 13]),
    "春abc春春a": ([3, 18, 15, 11, 18], [3, 11, 13, 6, 11, 18]), "xyzab": ([3, 0, 13], [3, 0, 13]),
    "cabcab": ([3, 17, 17], [3, 17, 17]),
    "": ([], []), "   ": ([], [])}


def opened(data: bytes) -> Tokenizer:
    return Tokenizer(describe_pieces(read_pieces(data, "spiece.model")))


@pytest.mark.parametrize("kind", [1, 2])
def test_golden_ids(kind: int) -> None:
    tokenizer = opened(write_pieces(SMALL, kind))
    assert {text: tokenizer.encode(text) for text in GOLDEN} == {text: ids[kind - 1] for text, ids in GOLDEN.items()}
    assert tokenizer.decode(tokenizer.encode("  abc  cab")) == "abc cab"
    assert tokenizer.decode([1, *tokenizer.encode("</s>"), 2]) == "</s>"
    assert tokenizer.separator_id == 2
    assert not tokenizer.lossless


@pytest.mark.parametrize("options", [
    {"model_type": "unigram"}, {"model_type": "bpe"}, {"model_type": "unigram", "byte_fallback": True, "vocab_size": 1000},
    {"model_type": "bpe", "byte_fallback": True, "vocab_size": 1000, "normalization_rule_name": "identity",
     "remove_extra_whitespaces": False},
    {"model_type": "bpe", "byte_fallback": True, "vocab_size": 1000, "add_dummy_prefix": False, "split_digits": True},
    {"model_type": "unigram", "vocab_size": 900, "user_defined_symbols": ["[MASK]", "don't"]},
    {"model_type": "bpe", "vocab_size": 900, "split_by_whitespace": False},
], ids=["unigram", "bpe", "unigram bytes", "llama", "no prefix", "user defined", "across words"])
def test_equals_the_library(options: dict[str, Any]) -> None:
    library = pytest.importorskip("sentencepiece")
    data = train_pieces(**options)
    theirs, scores = library.SentencePieceProcessor(model_proto=data), read_pieces(data, "m").scores
    tokenizer = opened(data)
    ties = 0
    for text in (*GOLDEN_TEXTS, *strings(2000, 3)):
        ids = theirs.encode(text)
        if tokenizer.encode(text) != ids:  # of cuts with the same score the library takes one by rounding to float32
            best = sum(scores[id] for id in tokenizer.encode(text))
            assert tokenizer.decode(tokenizer.encode(text)) == tokenizer.decode(ids), text
            assert abs(best - sum(scores[id] for id in ids)) < 1e-4, text
            ties += 1
        if theirs.unk_id() not in ids:
            assert tokenizer.decode(ids) == theirs.decode(ids)
            streamed = tokenizer.decode_bytes(ids).decode("utf-8", "replace")
            assert streamed in (tokenizer.decode(ids), " " + tokenizer.decode(ids))
    assert ties <= 2


def test_a_symbol_of_the_user_begins_a_new_text() -> None:
    """The one known difference: after such a symbol a BPE model with a space before each text puts one again."""
    library = pytest.importorskip("sentencepiece")
    data = train_pieces(model_type="bpe", vocab_size=900, user_defined_symbols=["<sep>"])
    theirs, tokenizer = library.SentencePieceProcessor(model_proto=data), opened(data)
    assert tokenizer.encode("the<sep> the") == theirs.encode("the<sep> the")
    assert tokenizer.decode(tokenizer.encode("the<sep>the")) == "the<sep> the"
    assert theirs.decode(theirs.encode("the<sep>the")) == "the<sep>the"


def test_long_texts_are_cut_between_words_without_changing_ids() -> None:
    tokenizer = opened(write_pieces(SMALL, 2))
    text = "abc ab a cab " * 30_000
    assert len(text) > 1 << 18
    assert tokenizer.encode(text) == tokenizer.encode("abc ab a cab") * 30_000
    assert tokenizer.encode_inputs([text])[0] == tokenizer.encode(text)


@pytest.mark.parametrize("kind", [1, 2])
def test_cut_or_damaged_files_are_refused_or_read(kind: int) -> None:
    data = write_pieces(SMALL, kind)
    rng = random.Random(4)
    cuts = [data[:len(data) * step // 50] for step in range(50)]
    flips = [data[:at] + bytes([rng.randrange(256)]) + data[at + 1:] for at in (rng.randrange(len(data)) for _ in range(150))]
    refused = 0
    for damaged in (*cuts, *flips):
        try:
            tokenizer = opened(damaged)
            tokenizer.decode(tokenizer.encode("abc </s> 春x"))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(("pieces", "message"), [
    ([("<unk>", 0.0, UNKNOWN), ("a", float("nan"), NORMAL)], "no number"),
    ([("<unk>", 0.0, UNKNOWN), ("a", 1.0, NORMAL), ("a", 2.0, NORMAL)], "twice"),
    ([("<unk>", 0.0, UNKNOWN), ("a" * 300, 1.0, NORMAL)], "more than 256"),
    ([("<s>", 0.0, CONTROL), ("a", 1.0, NORMAL)], "no unknown token")])
def test_pieces_that_are_none_are_refused(pieces: list[tuple[str, float, int]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(write_pieces(pieces))


def test_a_length_is_compared_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff\xff\xff\x0fabc")
    with pytest.raises(UserError, match="where 3 are left"):
        Tokenizer.open(tmp_path)
