"""Real tokenizers on thousands of strings: SmolLM2's ids are llama.cpp's, MiniLM's and Whisper's those of `tokenizers`, and back.

The weights are those that `myna fetch` brings; where they are absent the tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers

from myna.fetch import default_folder
from myna.formats.gguf import write_gguf
from myna.formats.gguf_read import open_gguf
from myna.tokenizer.convert import from_gguf
from myna.tokenizer.sentencepiece import CONTROL, NORMAL
from myna.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.strings import strings

SIZES = [pytest.param(2_000, id="some"), pytest.param(100_000, id="all", marks=pytest.mark.slow)]


def fetched(name: str, pattern: str) -> Path:
    """Find a file below the folder of a fetched model; skips where it is absent."""
    found = sorted(default_folder(name).rglob(pattern)) if default_folder(name).is_dir() else []
    if not found:
        pytest.skip(f"no {pattern}: myna fetch {name}")
    return found[0]


@pytest.mark.parametrize("count", SIZES)
def test_smollm2_equals_llama_cpp(count: int, tmp_path: Path) -> None:
    library = pytest.importorskip("llama_cpp")
    folder = fetched("smollm2", "tokenizer.json").parent  # made of the GGUF file at import; its words go back into one without weights
    opened = Tokenizer.open(folder)
    types = [CONTROL if id in opened.special_ids else NORMAL for id in range(opened.vocab_size)]
    write_gguf(tmp_path / "v.gguf", {
        "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": opened.pre_tokenizer_name,
        "tokenizer.ggml.tokens": opened.token_names(), "tokenizer.ggml.token_type": types, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in opened.merges], "tokenizer.ggml.eos_token_id": 2}, [])
    text, settings = from_gguf(open_gguf(tmp_path / "v.gguf").metadata)
    ours, theirs = Tokenizer(text, settings), library.Llama(model_path=str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    assert (ours.token_names(), ours.merges) == (opened.token_names(), opened.merges)
    texts = list(strings(count, 7))
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        lost = ours.missing_bytes.intersection(text.encode())
        expected = theirs.tokenize(text.encode(), add_bos=False, special=False)
        # a byte without a token is dropped before the merges here and in `tokenizers`, after them in llama.cpp
        assert ids == expected or (lost and ours.decode(ids) == ours.decode(expected)), text
        assert lost or ours.decode(ids) == text


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("name", ["minilm", "whisper-tiny"])
def test_equal_to_their_library(name: str, count: int) -> None:
    path = fetched(name, "tokenizer.json")
    ours, theirs = Tokenizer.open(path.parent), tokenizers.Tokenizer.from_file(str(path))
    theirs.no_padding()
    theirs.no_truncation()
    theirs.encode_special_tokens = True
    texts = list(strings(count, 7))
    for text, ids, encoded in zip(texts, ours.encode_batch(texts), theirs.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        assert ids == encoded.ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert not ours.lossless or ours.decode(ids) == text
    assert ours.lossless is (name != "minilm")
