"""From the tokenizer files of others to a tokenizer.json: GGUF metadata.

Sources: the keys `tokenizer.ggml.*` of GGUF as ggml's docs/gguf.md lists them, and what llama.cpp's `llama-vocab.cpp` makes of them.

    text, settings = from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", ...})
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from myna.errors import UserError
from myna.tokenizer.assemble import describe_bytes, surround_text
from myna.tokenizer.patterns import ALIASES, entry_of
from myna.tokenizer.sentencepiece import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, Pieces, describe_pieces
from myna.tokenizer.wordpiece import describe_word_pieces

_WHERE = "the GGUF file"
_KEY = "tokenizer.ggml."
_NORMALIZED = ("qwen2", "deepseek-r1-qwen")  # these tokenizers compose characters (NFC) first; llama.cpp leaves that out


def from_gguf(metadata: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make the text of a tokenizer.json and the entries of a tokenizer_config.json from the metadata of a GGUF file.

    Models gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (SentencePiece Unigram) and bert (WordPiece). Raises UserError for
    another model or another pre-tokenizer, by name, and for lists that do not fit together.
    """
    values = {key.removeprefix(_KEY): value for key, value in metadata.items() if key.startswith(_KEY)}
    makers = {"gpt2": _from_bytes, "llama": _from_pieces, "t5": _from_pieces, "bert": _from_words}
    model = values.get("model")
    if model not in makers:
        raise UserError(f"{_WHERE} has a tokenizer of model {model!r:.40}", "one of " + ", ".join(makers),
                        "use the model's Hugging Face directory")
    tokens = values.get("tokens")
    if not isinstance(tokens, Sequence) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"{_WHERE} has no list of tokens", "tokenizer.ggml.tokens, a list of texts", "get the file again")
    values = {"token_type": [NORMAL] * len(tokens), "scores": [0.0] * len(tokens), **values}
    for key in ("token_type", "scores"):
        if not isinstance(values[key], Sequence) or len(values[key]) != len(tokens):
            raise UserError(f"{_WHERE} has {len(tokens):,} tokens and {key} of another length", "as many", "get the file again")
    roles = {role: _token(values, f"{name}_token_id") for role, name in (
        ("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"), ("sep_token", "seperator"),
        ("cls_token", "cls"), ("mask_token", "mask"))}  # "seperator" is how the format spells it
    text = makers[model](values, roles)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return text, settings | {role: token for role, token in roles.items() if token is not None}


def _token(values: dict[str, Any], key: str) -> str | None:
    """Give the token that an id of the metadata names. An id of 2 ** 32 - 1 says that there is none."""
    id, tokens = values.get(key), values["tokens"]
    if id is None or id in (-1, (1 << 32) - 1):
        return None
    if not isinstance(id, int) or not 0 <= id < len(tokens):
        raise UserError(f"{_WHERE} has {key} {id!s:.30}", f"0 to {len(tokens) - 1:,}", "get the file again")
    return str(tokens[id])


def _added(values: dict[str, Any]) -> list[tuple[int, str, bool]]:
    """List the tokens that are no pieces of words: control tokens and unused ids are special, those of the user are text."""
    kinds = zip(values["tokens"], values["token_type"], strict=True)
    return [(id, text, kind != USER_DEFINED) for id, (text, kind) in enumerate(kinds) if kind in (UNKNOWN, CONTROL, USER_DEFINED, UNUSED)]


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise UserError(f"{_WHERE} has {len(tokens) - len(ids):,} tokens twice", "each token once", "get the file again")
    return ids


def _from_bytes(values: dict[str, Any], roles: dict[str, str | None]) -> str:
    name, merges = values.get("pre"), values.get("merges")
    if not isinstance(name, str):
        raise UserError(f"{_WHERE} does not say how text is cut into words", "tokenizer.ggml.pre", "use the model's Hugging Face directory")
    if not isinstance(merges, Sequence) or not all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges):
        raise UserError(f"{_WHERE} has no list of merges", "tokenizer.ggml.merges, each of two tokens", "get the file again")
    ids = _ids(values["tokens"])
    llama = ALIASES.get(name, name) == "llama-bpe" and name not in ("dbrx", "smaug-bpe")  # a word that is a token is taken whole
    first = roles["bos_token"] if values.get("add_bos_token", llama) else None
    last = roles["eos_token"] if values.get("add_eos_token", False) else None
    return describe_bytes(ids, [merge.split(" ") for merge in merges], entry_of(name), ignore_merges=llama, added=_added(values),
                          normalizer={"type": "NFC"} if name in _NORMALIZED else None, post_processor=surround_text(first, last, ids))


def _from_pieces(values: dict[str, Any], roles: dict[str, str | None]) -> str:
    tokens, types = values["tokens"], list(values["token_type"])
    unigram = values["model"] == "t5"
    scores = [float(score) for score in values["scores"]]
    if not all(map(math.isfinite, scores)):
        raise UserError(f"{_WHERE} has a score that is no number", "finite scores", "get the file again")
    ids = _ids(tokens)
    unknown = roles["unk_token"]
    if UNKNOWN not in types and unknown is not None:
        types[ids[unknown]] = UNKNOWN
    charsmap = values.get("precompiled_charsmap") or b""
    pieces = Pieces(tokens, scores, types, "Unigram" if unigram else "BPE", BYTE in types,
                    bytes(number & 255 for number in charsmap), bool(values.get("add_space_prefix", True)),
                    bool(values.get("remove_extra_whitespaces", False)))
    first = roles["bos_token"] if values.get("add_bos_token", not unigram) else None
    last = roles["eos_token"] if values.get("add_eos_token", unigram) else None
    return describe_pieces(pieces, _WHERE, post_processor=surround_text(first, last, ids))


def _from_words(values: dict[str, Any], roles: dict[str, str | None]) -> str:
    """Undo llama.cpp's spelling, which marks the first piece of a word and not the others; [CLS] and such have no mark."""
    types = values["token_type"]
    words = [token if types[id] in (CONTROL, UNKNOWN, UNUSED) or (token[:1] == "[" and token[-1:] == "]")
             else token[1:] if token.startswith(SPACE) else f"##{token}" for id, token in enumerate(values["tokens"])]
    special = {token for token in roles.values() if token is not None} - {None}
    return describe_word_pieces(words, {"do_lower_case": True}, _WHERE, special=sorted(special))
