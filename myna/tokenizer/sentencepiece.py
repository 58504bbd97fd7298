"""SentencePiece models, read as bytes and described as a tokenizer.json that gives the same ids.

A `.model` file is a protocol buffer: pieces with scores and types, how the text is normalised (a compiled map of
characters, spaces), and which of two algorithms cuts it: Unigram (the most probable pieces) or BPE (the best-scored pair
first). A tokenizer.json's BPE has merges in place of scores: every way to make a piece of two others, in order of the score.

Sources: SentencePiece's `sentencepiece_model.proto`, `normalizer.cc`, `unigram_model.cc` and `bpe_model.cc`; Kudo and Richardson
2018, "SentencePiece: A simple and language independent subword tokenizer"; the wire format as protobuf.dev documents it.

    pieces = read_pieces(Path("spiece.model").read_bytes(), "spiece.model")
    text = describe_pieces(pieces)
"""

from __future__ import annotations

import base64
import dataclasses
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from myna.errors import UserError
from myna.tokenizer.assemble import describe, surround_with
from myna.tokenizer.patterns import FIRST_SPACES, LAST_SPACES, RUN_OF_SPACES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece.Type, and llama.cpp's token types
SPACE = "▁"
_UNIGRAM, _BPE = 1, 2  # TrainerSpec.ModelType
_MAX_PIECE = 256  # characters of one piece; SentencePiece learns at most 16
_MAX_CHARACTERS = 8 << 20  # of all pieces together; Gemma's 256,000 have 1.9 million
_UNKNOWN_PENALTY = 10.0  # kUnkPenalty of unigram_model.cc


@dataclass(frozen=True)
class Pieces:
    """What a SentencePiece model says: piece i has id i."""

    texts: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    kind: str  # Unigram or BPE
    byte_fallback: bool
    charsmap: bytes  # empty: the text is not normalised
    add_dummy_prefix: bool  # a space before the text
    remove_extra_whitespaces: bool


def read_pieces(data: bytes, where: str) -> Pieces:
    """Read the bytes of a `.model` file; every length is compared with the file's. Raises UserError."""
    rows: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(data):
            if number == 1:
                piece = dict(_fields(value))
                rows.append((piece.get(1, b"").decode("utf-8"), _float(piece.get(2, b"\0\0\0\0")), piece.get(3, NORMAL)))
            elif number == 2:
                trainer.update(_fields(value))
            elif number == 3:
                normalizer.update(_fields(value))
        charsmap = bytes(normalizer.get(2, b""))
    except (ValueError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{where} is not a SentencePiece model ({error})", "a whole .model file", "get the file again") from None
    kind = {_UNIGRAM: "Unigram", _BPE: "BPE"}.get(trainer.get(3, _UNIGRAM))
    if not rows or kind is None or trainer.get(24) or not normalizer.get(5, 1):
        raise UserError(f"{where} is a SentencePiece model of {len(rows)} pieces that Myna does not know",
                        "a Unigram or BPE model with spaces before words", "use another model")
    texts, scores, types = zip(*rows, strict=True)
    return Pieces(texts, scores, types, kind, bool(trainer.get(35, 0)), charsmap,
                  bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1)))


def describe_pieces(pieces: Pieces, where: str = "the model", *, before: Sequence[dict[str, Any]] = (), post_processor: Any = None,
                    text_tokens: Sequence[str] = (), unspell: bool = False) -> str:
    """Give the text of a tokenizer.json with the same ids; `before` are normalisers that run first.

    `text_tokens` are control tokens that a text may hold all the same; with `unspell` the decoder drops spaces inside names.

    Raises UserError when the pieces are not distinct, are too long, or have scores that are no numbers.
    """
    if len(set(pieces.texts)) != len(pieces.texts) or not all(math.isfinite(score) for score in pieces.scores):
        raise UserError(f"{where} has a piece twice, or a score that is no number", "distinct pieces with scores", "get the file again")
    if max(map(len, pieces.texts)) > _MAX_PIECE or sum(map(len, pieces.texts)) > _MAX_CHARACTERS:
        raise UserError(f"{where} has pieces of more than {_MAX_PIECE} characters, or {_MAX_CHARACTERS:,} in all",
                        "the pieces of a language", "get the file again")
    model = _unigram(pieces, where) if pieces.kind == "Unigram" else _bpe(pieces)
    whole = (CONTROL, UNKNOWN, UNUSED, *((USER_DEFINED,) if pieces.kind == "BPE" else ()))  # no pieces of words
    added = [(id, text, pieces.types[id] != USER_DEFINED and text not in text_tokens) for id, text in enumerate(pieces.texts)
             if pieces.types[id] in whole]
    whole_words = all(SPACE not in text[1:] for text in pieces.texts)
    cuts = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": True} if whole_words else None
    return describe(model, added=added, normalizer=_normalizer(pieces, before), pre_tokenizer=cuts, post_processor=post_processor,
                    decoder=_decoder(pieces, unspell))


def describe_pair(pieces: Pieces, vocabulary: Mapping[str, int], where: str, codes: Sequence[str] = (), end: str = "</s>") -> str:
    """Give the text of a tokenizer.json whose ids are those of `vocabulary` and whose cuts are those of `pieces`: Marian's way.

    A name of the vocabulary that is no piece has a space before it, which no text reaches and the decoder drops. Pieces without an
    id are left out. `codes` (">>fr<<") are recognised in a text. Raises UserError when the ids leave no room or a name is missing.
    """
    names: list[str | None] = [None] * len(vocabulary)
    for name, id in vocabulary.items():
        if not isinstance(id, int) or not 0 <= id < len(names) or names[id] is not None:
            raise UserError(f"{where} gives {name!r:.40} the id {id!s:.30}", f"each of 0 to {len(names) - 1:,} once", "get the file again")
        names[id] = name
    unknown = vocabulary.get("<unk>")
    if pieces.kind != "Unigram" or unknown is None or end not in vocabulary:
        raise UserError(f"{where} has no <unk> or {end}, or its pieces are not those of a Unigram model", "Marian's files",
                        "use another model")
    rows = zip(pieces.texts, pieces.scores, pieces.types, strict=True)
    scores = {text: score for text, score, kind in rows if kind in (NORMAL, USER_DEFINED)}
    special = {name for name in ("<unk>", end, "<pad>", "<s>") if name in vocabulary}
    whole = special.union(codes)
    texts = [str(name) if name in whole or name in scores else f" {name}" for name in names]
    types = [UNKNOWN if id == unknown else CONTROL if name in whole else NORMAL for id, name in enumerate(names)]
    lowest = min(scores.values(), default=0.0)
    joined = dataclasses.replace(pieces, texts=texts, scores=[scores.get(text, lowest) for text in texts], types=types)
    return describe_pieces(joined, where, text_tokens=codes, unspell=True,
                           post_processor=surround_with(["A", end], ["A", "B", end], {end: vocabulary[end]}))


def order_merges(texts: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """List every pair of pieces that makes a piece, the best score first: the order in which SentencePiece's BPE merges."""
    ids = {text: id for id, text in enumerate(texts) if types[id] == NORMAL}
    merges = []
    for text, id in ids.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in ids and right in ids:
                merges.append((-scores[id], id, ids[left], ids[right]))
    return [(texts[left], texts[right]) for _, _, left, right in sorted(merges)]


def _bpe(pieces: Pieces) -> dict[str, Any]:
    unknown = next((text for text, kind in zip(pieces.texts, pieces.types, strict=True) if kind == UNKNOWN), None)
    return {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": pieces.byte_fallback, "ignore_merges": False,
            "vocab": {text: id for id, text in enumerate(pieces.texts)},
            "merges": order_merges(pieces.texts, pieces.scores, pieces.types)}


def _unigram(pieces: Pieces, where: str) -> dict[str, Any]:
    unknown = next((id for id, kind in enumerate(pieces.types) if kind == UNKNOWN), None)
    learned = [score for score, kind in zip(pieces.scores, pieces.types, strict=True) if kind == NORMAL]
    if unknown is None or not learned:
        raise UserError(f"{where} has no unknown token or no pieces", "a Unigram model with both", "get the file again")
    highest, lowest = max(learned), min(learned)
    scores = list(pieces.scores)
    for id, (text, kind) in enumerate(zip(pieces.texts, pieces.types, strict=True)):
        if kind == USER_DEFINED:  # always preferred to its parts: unigram_model.cc, with the length in bytes
            scores[id] = len(text.encode("utf-8")) * highest - 0.1
        elif kind == BYTE:  # "<0x41>" as text is six characters: the piece must lose against them, known or unknown
            scores[id] = 8 * (lowest - _UNKNOWN_PENALTY)
    return {"type": "Unigram", "unk_id": unknown, "byte_fallback": pieces.byte_fallback,
            "vocab": [[text, score] for text, score in zip(pieces.texts, scores, strict=True)]}


def _normalizer(pieces: Pieces, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    steps = list(before)
    if pieces.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(pieces.charsmap).decode("ascii")})
    if pieces.remove_extra_whitespaces:
        steps += [{"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
                  for pattern, content in ((FIRST_SPACES, ""), (LAST_SPACES, ""), (RUN_OF_SPACES, " "))]
    if pieces.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    return {"type": "Sequence", "normalizers": steps}


def _decoder(pieces: Pieces, unspell: bool) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": ""}] if unspell else []
    steps.append({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})
    if pieces.byte_fallback:
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if pieces.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Read the fields of a protobuf message: (number, whole number or bytes). Raises ValueError where the bytes end too early."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        size, at = _varint(data, at) if wire == 2 else ({5: 4, 1: 8}.get(wire, -1), at)
        if not 0 <= size <= end - at:
            raise ValueError(f"a field of {size:,} bytes where {end - at:,} are left")
        yield tag >> 3, data[at:at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise ValueError("a number that ends with the file")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _float(value: bytes) -> float:
    (number,) = struct.unpack("<f", value)
    return float(number)
