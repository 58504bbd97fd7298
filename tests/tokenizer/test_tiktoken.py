"""Rank files give tiktoken's own ids."""

from __future__ import annotations

import base64
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import tokenizers

from myna.errors import UserError
from myna.tokenizer.patterns import QWEN2
from myna.tokenizer.pieces import byte_alphabet
from myna.tokenizer.tiktoken import describe_ranks, read_ranks
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from tests.tokenizer.strings import strings

PATTERNS = {  # as OpenAI (tiktoken_ext/openai_public.py) and Qwen write them
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k_base": (r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
                    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""),
    "qwen": QWEN2, "llama3": QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")}


@pytest.fixture(scope="module")
def data() -> bytes:
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([*list(topics.values())[:80], "从前有一只鸟，它学会了说话。" * 50, "a" * 100], trainer)
    back = {character: byte for byte, character in byte_alphabet().items()}
    rows = sorted((rank, bytes(back[character] for character in token)) for token, rank in learner.get_vocab().items())
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in rows)


@pytest.mark.parametrize("name", PATTERNS)
def test_equals_the_library(data: bytes, name: str) -> None:
    library = pytest.importorskip("tiktoken")
    ranks = read_ranks(data, name)
    theirs = library.Encoding(name="x", pat_str=PATTERNS[name], mergeable_ranks=ranks, special_tokens={})
    tokenizer = Tokenizer(describe_ranks(ranks, name))
    assert tokenizer.lossless
    for text in (*GOLDEN_TEXTS, *("a" * count for count in range(40)), *strings(1000, 6)):
        assert tokenizer.encode(text) == theirs.encode(text, disallowed_special=()), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_word_that_is_a_token_is_taken_whole() -> None:
    """Golden, without the library: a word that is a token, and one whose lowest ranks come first."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"bc", b"ab", b"abc", b" a"]
    tokenizer = Tokenizer(describe_ranks({token: rank for rank, token in enumerate(tokens)}, "gpt2"))
    assert tokenizer.encode("abc abc") == [258, 32, 258]
    assert (tokenizer.separator_id, tokenizer.vocab_size) == (260, 261)


def test_directories_and_names(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "qwen.tiktoken").write_bytes(data)
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.pre_tokenizer_name == "qwen2"
    assert [tokenizer.special_id(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [2000, 2001, 2002]
    (tmp_path / "qwen.tiktoken").rename(tmp_path / "tokenizer.model")  # Llama 3's original files
    assert Tokenizer.open(tmp_path).special_id("<|eot_id|>") == 2009
    (tmp_path / "tokenizer.model").rename(tmp_path / "o200k_base.tiktoken")
    with pytest.raises(UserError, match="o200k_base"):
        Tokenizer.open(tmp_path)


def test_cut_and_damaged_files_are_refused(data: bytes, tmp_path: Path) -> None:
    for step in range(50):
        (tmp_path / "gpt2.tiktoken").write_bytes(data[:len(data) * step // 50 + 1])
        try:
            Tokenizer.open(tmp_path).encode("hello")
        except UserError as error:
            assert "\n" not in str(error)
    for damaged in (b"YQ== 0\nYg== 0\n", b"YQ== -1\n", b"YQ== 1e9\n", b"Y 0\n", b"YQ==\n", b"\xff\xfe\n", b"YQ== 99999999999\n"):
        with pytest.raises(UserError):
            Tokenizer(describe_ranks(read_ranks(damaged, "x"), "gpt2"))
