"""The fast tokenizer and its readable twin give the same words, merges and tokens."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from myna.tokenizer import twin
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.patterns import QWEN2
from myna.tokenizer.pieces import byte_alphabet
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from myna.tokenizer.train import train_tokenizer
from tests.tokenizer.conftest import CHINESE
from tests.tokenizer.corpora import write_corpus

# characters that Unicode 14 (Python 3.11) does not know yet may be letters for the library
KNOWN = st.characters(exclude_categories=["Cs", "Cn"]).filter(lambda character: unicodedata.category(character) != "Cn")
TEXTS = st.text(st.one_of(KNOWN, st.sampled_from("aAbBst'ſ \n\r\t\u3000\x1c\x85你好，。12½!_")), max_size=60)
SPLIT = pre_tokenizers.Split(Regex(QWEN2), "isolated")


def _merges(tokenizer: Tokenizer) -> list[twin.Merge]:
    back = {character: byte for byte, character in byte_alphabet().items()}
    left, right = zip(*tokenizer.merges, strict=True)
    return list(zip(*([bytes(back[c] for c in word) for word in side] for side in (left, right)), strict=True))


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
def test_words_are_cut_alike(text: str) -> None:
    assert list(twin.split(text)) == [word for word, _ in SPLIT.pre_tokenize_str(text)]


def test_golden_texts_are_encoded_alike(merging: Tokenizer) -> None:
    merges = _merges(merging)
    for text in (*GOLDEN_TEXTS, topics["assert"], CHINESE[:300]):
        assert twin.encode(text, merges) == [merging.token_bytes[id] for id in merging.encode(text)]


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_any_text_is_encoded_alike(merging: Tokenizer, text: str) -> None:
    assert twin.encode(text, _merges(merging)) == [merging.token_bytes[id] for id in merging.encode(text)]


def test_merges_are_learned_alike(tmp_path: Path) -> None:
    texts = [topics["assert"], topics["lambda"], CHINESE[:70]]
    learned = _merges(train_tokenizer(write_corpus(tmp_path / "c", texts), TokenizerOptions(vocab_size=384)))
    assert len(learned) == 384 - 260
    assert twin.train(texts, len(learned)) == learned


def test_the_example_in_the_docstring() -> None:
    merges = twin.train(["low lower lowest"] * 10, 4)
    assert b"".join(twin.encode("slowest", merges)) == b"slowest"
    assert (b"l", b"o") in merges
    assert twin.train(["ab"], 10) == []


@pytest.mark.parametrize(("pieces", "joined"), [([b"a", b"a", b"a"], [b"aa", b"a"]), ([b"a", b"b"], [b"a", b"b"]), ([], [])])
def test_join_goes_from_the_left(pieces: list[bytes], joined: list[bytes]) -> None:
    assert twin.join(pieces, (b"a", b"a")) == joined
