"""A tokenizer as metadata of a GGUF file: byte-level BPE under llama.cpp's name of its pattern, or SentencePiece's BPE with scores.

llama.cpp cuts words by a pattern that it knows by name (`tokenizer.ggml.pre`); one with another pattern cannot be exported.
SentencePiece's BPE merges the pair whose joined piece scores highest, where a tokenizer.json lists pairs in order: the rank of the
first pair that makes a piece is written as its score, which gives the same order. `convert.from_gguf` is the way back.
Source: the keys `tokenizer.ggml.*` in ggml's docs/gguf.md; `llm_tokenizer_spm` of llama.cpp's llama-vocab.cpp.

    pattern, metadata = describe_tokenizer(Path("my-model"), Tokenizer.open(Path("my-model")), vocab_size=32000, eos=2)
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.files import read_json
from myna.formats.gguf import Value
from myna.models.gguf_names import PLAIN
from myna.tokenizer.tokenizer import Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # llama_token_type
_SPACE = "▁"  # U+2581, SentencePiece's sign for a space
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}


def describe_tokenizer(folder: Path, tokenizer: Tokenizer, vocab_size: int, eos: int, bos: Any = None) -> tuple[str, dict[str, Value]]:
    """Return the name of the pattern ("llama" for SentencePiece's) and the metadata. `vocab_size` is that of the model's table.

    Raises UserError when llama.cpp would give other ids.
    """
    with tempfile.TemporaryDirectory() as made:  # the directory may hold another form of it
        tokenizer.save(Path(made))
        described = read_json(Path(made) / "tokenizer.json")
    names = tokenizer.token_names()
    if len(names) > vocab_size:
        raise UserError(f"the tokenizer has {len(names):,} tokens", f"at most the {vocab_size:,} of config.json", "restore tokenizer.json")
    # a table padded to a round size has more rows than the tokenizer has tokens
    names = [*names, *(f"[PAD{number}]" for number in range(len(names), vocab_size))]
    kinds = _kinds(described, tokenizer, names)
    first, last = _surrounding(tokenizer)
    bos = first if first is not None else bos if isinstance(bos, int) and 0 <= bos < vocab_size else tokenizer.separator_id
    if last is not None and last != eos:
        raise UserError(f"the tokenizer ends a text with id {last}", f"{eos}, the eos_token_id of config.json, which llama.cpp would add")
    pattern = _pattern(described, tokenizer) if tokenizer.layout.byte_level else "llama"
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "llama" if pattern == "llama" else "gpt2",  # the latter is llama.cpp's word for byte-level BPE
        "tokenizer.ggml.pre": "default" if pattern == "llama" else pattern,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        # without these llama.cpp takes id 11, GPT-2's, for both
        "tokenizer.ggml.bos_token_id": bos,
        "tokenizer.ggml.eos_token_id": eos,
        "tokenizer.ggml.add_bos_token": first is not None,
        "tokenizer.ggml.add_eos_token": last is not None,
    }
    if pattern == "llama":
        metadata |= _spaces(described, folder) | {"tokenizer.ggml.scores": _scores(described, names, kinds, folder)}
        if _UNKNOWN in kinds:
            metadata["tokenizer.ggml.unknown_token_id"] = kinds.index(_UNKNOWN)
    else:
        metadata |= {"tokenizer.ggml.merges": [f"{left} {right}" for left, right in tokenizer.merges],
                     PLAIN: not described.get("normalizer")}
    if tokenizer.pad_id is not None:
        metadata["tokenizer.ggml.padding_token_id"] = tokenizer.pad_id
    return pattern, metadata


def _surrounding(tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Find the ids that are put before and after a text. Raises UserError when they are more than one."""
    (inside,) = tokenizer.encode_batch(["a"])
    (whole,) = tokenizer.encode_inputs(["a"])
    for before in (0, 1):
        after = len(whole) - before - len(inside)
        if after in (0, 1) and whole[before : before + len(inside)] == inside:
            return whole[0] if before else None, whole[-1] if after else None
    raise UserError(f"the tokenizer puts {len(whole) - len(inside)} ids around a text", "at most one before and one after")


def _kinds(described: dict[str, Any], tokenizer: Tokenizer, names: Sequence[str]) -> list[int]:
    kinds = [_NORMAL if piece else _UNUSED for piece in tokenizer.token_bytes] + [_UNUSED] * (len(names) - tokenizer.vocab_size)
    for token in described.get("added_tokens") or []:
        kinds[token["id"]] = _CONTROL if token["id"] in tokenizer.special_ids else _USER_DEFINED
    if not tokenizer.layout.byte_level:
        model = described["model"]
        for id, name in enumerate(names):
            if name == model.get("unk_token"):
                kinds[id] = _UNKNOWN
            elif model.get("byte_fallback") and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
                kinds[id] = _BYTE
            elif kinds[id] == _UNUSED and name in model["vocab"]:
                kinds[id] = _NORMAL
    return kinds


def _pattern(described: dict[str, Any], tokenizer: Tokenizer) -> str:
    """Name llama.cpp's pre-tokenizer that gives this tokenizer's ids."""
    name = tokenizer.pre_tokenizer_name
    whole_words = bool(described["model"].get("ignore_merges", False))
    if name == "llama-bpe" and not whole_words:
        return "dbrx"  # the same pattern; under "llama-bpe" llama.cpp takes a word that is a token without its merges
    if whole_words and name != "llama-bpe":
        raise UserError(f"the tokenizer takes whole words before merges (ignore_merges) with the pattern {name}",
                        "ignore_merges only with llama-bpe, the one pair that llama.cpp has", "train the tokenizer without it")
    return name


def _spaces(described: dict[str, Any], folder: Path) -> dict[str, Value]:
    """Say whether a space is put before a text. Raises UserError when more is done to it."""
    normalizer, cut = described.get("normalizer") or {}, described.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer] if normalizer else []
    scheme = cut.get("prepend_scheme")
    spaced = cut.get("type") == "Metaspace" and cut.get("replacement") == _SPACE and scheme in ("never", "always", "first")
    if any(step not in (_PREPEND, _REPLACE) for step in steps) or (cut and not spaced) or not (spaced or _REPLACE in steps):
        raise UserError(f"the tokenizer of {folder} changes the text before it is cut", "spaces as ▁ and nothing else")
    return {"tokenizer.ggml.add_space_prefix": _PREPEND in steps or scheme in ("always", "first"),
            "tokenizer.ggml.remove_extra_whitespaces": False}


def _scores(described: dict[str, Any], names: Sequence[str], kinds: Sequence[int], folder: Path) -> list[float]:
    """Score each piece by the rank of the first pair that makes it. Raises UserError when that would merge otherwise."""
    model = described["model"]
    if model.get("type") != "BPE" or model.get("ignore_merges"):
        raise UserError(f"the tokenizer of {folder} is a {model.get('type')} model", "byte-level BPE or SentencePiece's BPE, those that "
                        "llama.cpp has for a decoder")
    made: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        made.setdefault(left + right, []).append((left, right))
    ranks = {name: rank for rank, name in enumerate(made)}
    pieces = {name for name, kind in zip(names, kinds, strict=True) if kind == _NORMAL}
    for name in pieces:
        pairs = {(name[:at], name[at:]) for at in range(1, len(name)) if name[:at] in pieces and name[at:] in pieces}
        if not pairs <= set(made.get(name, ())):
            raise UserError(f"the tokenizer of {folder} lacks a merge that makes {name!r:.60}",
                            "every pair of pieces that makes a piece, as SentencePiece has them")
    return [-float(ranks.get(name, len(ranks))) if kind == _NORMAL else 0.0 for name, kind in zip(names, kinds, strict=True)]
