"""SentencePiece models for tests: trained with the library, or written by hand in its wire format."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pydoc_data.topics import topics
from typing import Any

import pytest

from myna.tokenizer.sentencepiece import CONTROL, NORMAL, UNKNOWN
from tests.tokenizer.conftest import CHINESE


def train_pieces(**options: Any) -> bytes:
    """Train a small SentencePiece model on Python's documentation and a little Chinese; skips where the library is missing."""
    library = pytest.importorskip("sentencepiece")
    lines = [line for text in (*list(topics.values())[:60], CHINESE) for line in text.split("\n") if line.strip()]
    out = io.BytesIO()
    library.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, minloglevel=2, num_threads=1,
                                       **{"model_type": "unigram", "vocab_size": 800, **options})
    return out.getvalue()


def write_pieces(pieces: Sequence[tuple[str, float, int]], kind: int = 1, byte_fallback: bool = False, prefix: bool = True) -> bytes:
    """Write a `.model` file without charsmap; kind 1 is Unigram, 2 BPE."""
    rows = [_field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, type_]) for text, score, type_ in pieces]
    trainer = bytes([0x18, kind]) + (b"\x98\x02\x01" if byte_fallback else b"")
    normalizer = bytes([0x18, int(prefix), 0x20, 1])
    return b"".join(_field(1, row) for row in rows) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, data: bytes) -> bytes:
    size, length = b"", len(data)
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


SMALL = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL),
         *((text, score, NORMAL) for text, score in (
             ("▁", -3.0), ("a", -3.5), ("b", -3.6), ("c", -3.7), ("<", -6.0), ("s", -4.0), ("/", -6.1), (">", -6.2), ("春", -7.0),
             ("▁a", -2.0), ("ab", -2.5), ("▁ab", -2.4), ("bc", -2.6), ("▁abc", -5.0), ("cab", -2.2), ("春a", -6.5)))]
