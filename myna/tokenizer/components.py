"""Which parts of somebody else's tokenizer.json Myna runs: a list of known components with checked fields.

A tokenizer.json is a small program: normaliser, cut into words, model, what is added around a text, and the way back. The
library runs whatever the file says, also a regular expression that never ends or a replacement that makes a text a million
times longer. Here each component must be of a known type with bounded fields; a regular expression is run only when it is
one that published tokenizers use. Special tokens are moved out of reach of the text: in a Unigram or WordPiece vocabulary
"</s>" is an entry as any other, and a text that holds these four characters would get the id that ends documents.

Source: the format as `tokenizers` writes it (its Rust `serde` types); the charsmap as in SentencePiece's `normalizer.cc`.

    layout = check_components(json.loads(text), "tokenizer.json")
    layout.byte_level, layout.pattern       # (True, 'gpt-2')
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.tokenizer.patterns import NAMES, SPACES, name_of

_MAX_PARTS = 32  # components in one list; the longest published one has 9
_MAX_GROWTH = 8  # how many times longer all replacements together may make a text
_MAX_CHARSMAP = 8 << 20  # bytes; that of T5 has 0.3 MB
_MAX_REPLACEMENT = 256  # bytes that one character may become; NFKC's longest is 33 (U+FDFA)
_MAX_WORD = 1000  # WordPiece tries every end of a word, so the time grows with its square; BERT says 100
_MAX_TEMPLATE = 64  # parts of a post-processor's template
_HIDDEN = " "  # before a special token's name in the library's vocabulary; no word holds a space

_EXPECTED = "byte-level BPE, WordPiece, Unigram or BPE with Metaspace, of known components"


@dataclass(frozen=True)
class Layout:
    """What the rest of Myna needs to know of a tokenizer.json."""

    kind: str  # the model: BPE, Unigram, WordPiece
    byte_level: bool  # tokens are UTF-8 bytes in the printable byte alphabet
    pattern: str  # name of the pattern that cuts words (`patterns.py`); empty when not byte-level
    prepends: bool  # a space is put before the text
    normalizes: bool  # the text is changed before it is cut


def check_components(described: Any, where: str) -> Layout:
    """Tell the layout of a tokenizer.json that Myna can run safely. Raises UserError, naming `where`, for any other."""
    model = described.get("model") if isinstance(described, dict) else None
    if not isinstance(model, dict):
        raise refusal(where, "no model")
    pre_tokenizer, normalizer = described.get("pre_tokenizer"), described.get("normalizer")
    cuts = list(_flatten(pre_tokenizer, "pretokenizers", where))
    changes = list(_flatten(normalizer, "normalizers", where))
    byte_level = any(cut.get("type") == "ByteLevel" for cut in cuts) or (not cuts and not changes and _spells_bytes(model))
    kind = _check_model(model, byte_level, where)
    if byte_level:
        pattern, spaced = _find_pattern(pre_tokenizer, cuts, where)
        if any(change.get("type") != "NFC" for change in changes):
            raise refusal(where, f"a normalizer before bytes ({str(normalizer)[:60]})")
        return Layout(kind, True, pattern, spaced, bool(changes))
    growth = 1.0
    for change in changes:
        growth *= _check_normalizer(change, where)
    if growth > _MAX_GROWTH:
        raise refusal(where, f"replacements that may make a text {growth:.0f} times longer")
    for cut in cuts:
        _check_cut(cut, where)
    for part in _flatten(described.get("decoder"), "decoders", where):
        _check_decoder(part, where)
    return Layout(kind, False, "", any(map(_prepends, [*cuts, *changes])), True)


def check_post_processor(entry: Any, size: int, where: str) -> None:
    """Refuse a post-processor of an unknown type, or one that adds ids outside a vocabulary of `size`."""
    for part in _flatten(entry, "processors", where):
        kind = part.get("type")
        if kind in ("BertProcessing", "RobertaProcessing"):
            ids = [part[key][1] if isinstance(part.get(key), list) and len(part[key]) == 2 else None for key in ("sep", "cls")]
        elif kind == "TemplateProcessing":
            ids = _template_ids(part, where)
        elif kind == "ByteLevel":
            ids = []
        else:
            raise refusal(where, f"a post-processor of type {kind!s:.30}")
        if not all(isinstance(id, int) and 0 <= id < size for id in ids):
            raise refusal(where, f"a post-processor that adds the ids {str(ids)[:60]}, outside its vocabulary of {size:,}")


def hide_special_tokens(described: dict[str, Any], layout: Layout) -> dict[str, str]:
    """Rename special tokens that a text could reach, in `described` itself; give {new name: true name}, empty when none could.

    The unknown token is one of them. Merges that make or use them go, as in SentencePiece, where control symbols never merge.
    """
    model = described["model"]
    added = [token for token in described.get("added_tokens") or [] if isinstance(token, dict) and token.get("special") is True]
    names = {str(token.get("content")) for token in added} - {""}
    vocabulary = dict.fromkeys(row[0] for row in model["vocab"]) if layout.kind == "Unigram" else model["vocab"]
    unknown = _unknown_token(model, layout)
    if unknown is not None and not layout.byte_level:
        names.add(unknown)
    names = {name for name in names if name in vocabulary}
    made = {"".join(parts) for parts in map(split_merge, model["merges"])} if layout.kind == "BPE" else set()
    if layout.kind == "BPE" and layout.byte_level and not model.get("ignore_merges"):
        names = {name for name in names if name in made or len(name) == 1}
    if not names:
        return {}
    mark = _HIDDEN
    while any(name.startswith(mark) for name in vocabulary):
        mark += _HIDDEN
    if layout.kind == "Unigram":
        model["vocab"] = [[mark + row[0] if row[0] in names else row[0], row[1]] for row in model["vocab"]]
    else:
        model["vocab"] = {mark + name if name in names else name: id for name, id in model["vocab"].items()}
        if model.get("unk_token") in names:
            model["unk_token"] = mark + model["unk_token"]
    if layout.kind == "BPE":
        model["merges"] = [merge for merge in model["merges"] if not _touches(split_merge(merge), names)]
    for token in added:
        if str(token.get("content")) in names:
            token["content"] = mark + token["content"]
    return {mark + name: name for name in names}


def split_merge(merge: Any) -> tuple[str, str]:
    """Read one entry of `merges`, in the old form "a b" or the new one ["a", "b"]; ("", "") for anything else."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    sound = isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)
    return (parts[0], parts[1]) if sound else ("", "")


def refusal(where: str, got: str) -> UserError:
    """Say why a tokenizer.json is not opened."""
    return UserError(f"{where} has {got}", f"a tokenizer.json of {_EXPECTED}", "use another model or restore the file")


def _is_one_of(name: Any, known: Collection[str]) -> bool:
    return isinstance(name, str) and name in known


def _touches(parts: tuple[str, str], names: Collection[str]) -> bool:
    return "".join(parts) in names or parts[0] in names or parts[1] in names


def _unknown_token(model: dict[str, Any], layout: Layout) -> str | None:
    if layout.kind != "Unigram":
        return model.get("unk_token")
    id = model.get("unk_id")
    return model["vocab"][id][0] if id is not None else None


def _flatten(entry: Any, key: str, where: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """List the components of an entry: none, one, or a Sequence of them, nested at most once."""
    if entry is None:
        return
    if not isinstance(entry, dict):
        raise refusal(where, f"{entry!r:.40} in place of a component")
    if entry.get("type") != "Sequence":
        yield entry
        return
    inner = entry.get(key)
    if depth > 1 or not isinstance(inner, list) or len(inner) > _MAX_PARTS:
        raise refusal(where, f"a Sequence that is not a list of at most {_MAX_PARTS} {key}")
    for part in inner:
        yield from _flatten(part, key, where, depth + 1)


def _prepends(entry: dict[str, Any]) -> bool:
    """Tell whether a component puts a space before the text."""
    always = entry.get("prepend_scheme", "always") != "never" and entry.get("add_prefix_space") is not False
    return entry.get("type") == "Prepend" or (entry.get("type") == "Metaspace" and always)


def _find_pattern(entry: Any, cuts: list[dict[str, Any]], where: str) -> tuple[str, bool]:
    """Name the pattern of a byte-level tokenizer, and tell whether a space is put before the text."""
    spaced = any(cut.get("type") == "ByteLevel" and cut.get("add_prefix_space", True) is True for cut in cuts)
    plain: Any = entry
    if spaced:
        bare = [{**cut, "add_prefix_space": False} if cut.get("type") == "ByteLevel" else cut for cut in cuts]
        plain = {"type": "Sequence", "pretokenizers": bare}
    name = name_of(plain)
    if name is None:
        raise UserError(f"{where} has a pre-tokenizer that Myna does not know ({str(entry)[:80]})",
                        "one of " + ", ".join(NAMES), "use another model")
    return name, spaced


def _spells_bytes(model: dict[str, Any]) -> bool:
    """Tell whether a model without any pre-tokenizer is byte-level all the same: it names the byte 0 in that alphabet."""
    vocab = model.get("vocab")
    return isinstance(vocab, dict) and "Ā" in vocab and not model.get("byte_fallback")


def _check_model(model: dict[str, Any], byte_level: bool, where: str) -> str:
    kind = model.get("type", "BPE")
    if kind == "Unigram":
        _check_scores(model, byte_level, where)
    elif kind == "WordPiece" and not byte_level:
        _check_word_piece(model, where)
    elif kind == "BPE":
        _check_merges(model, byte_level, where)
    else:
        raise refusal(where, f"a model of type {kind!s:.30}")
    return str(kind)


def _check_ids(model: dict[str, Any], where: str) -> dict[str, Any]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not vocab:
        raise refusal(where, "no vocabulary")
    if not all(type(id) is int for id in vocab.values()) or len(set(vocab.values())) != len(vocab):
        raise refusal(where, "a vocabulary whose ids are not different whole numbers")
    return vocab


def _check_merges(model: dict[str, Any], byte_level: bool, where: str) -> None:
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise refusal(where, "no BPE vocabulary and merges")
    vocab = _check_ids(model, where)
    if model.get("dropout"):
        raise refusal(where, "a BPE model with dropout")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise refusal(where, "tokens with a prefix or suffix mark")
    if byte_level and model.get("byte_fallback"):
        raise refusal(where, "a BPE model of bytes with byte_fallback")
    unknown = model.get("unk_token")
    if not byte_level and unknown is not None and not _is_one_of(unknown, vocab):
        raise refusal(where, f"the unknown token {unknown!r:.30}, which is not in its vocabulary")


def _check_word_piece(model: dict[str, Any], where: str) -> None:
    vocab, longest = _check_ids(model, where), model.get("max_input_chars_per_word", 100)
    if not _is_one_of(model.get("unk_token", "[UNK]"), vocab):
        raise refusal(where, f"the unknown token {model.get('unk_token')!r:.30}, which is not in its vocabulary")
    if type(longest) is not int or not 0 < longest <= _MAX_WORD:
        raise refusal(where, f"words of {longest!s:.30} characters, more than {_MAX_WORD:,}")
    if not isinstance(model.get("continuing_subword_prefix", "##"), str):
        raise refusal(where, "no prefix of continuing pieces")


def _check_scores(model: dict[str, Any], byte_level: bool, where: str) -> None:
    """Check the vocabulary of a Unigram model: distinct tokens with finite scores."""
    vocab, unknown = model.get("vocab"), model.get("unk_id")
    rows = vocab if isinstance(vocab, list) else []
    sound = all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], float | int)
                and math.isfinite(row[1]) for row in rows)
    if not rows or not sound or len({row[0] for row in rows}) != len(rows):
        raise refusal(where, "no list of distinct tokens with their scores")
    if byte_level and (unknown or model.get("byte_fallback")):
        raise refusal(where, "a Unigram model of bytes with an unknown token")
    if unknown is not None and (type(unknown) is not int or not 0 <= unknown < len(rows)):
        raise refusal(where, f"the unknown token {unknown!s:.30}, outside its vocabulary")
    if unknown is None and not byte_level and not model.get("byte_fallback"):
        raise refusal(where, "a Unigram model without unknown token")


def _check_normalizer(entry: dict[str, Any], where: str) -> float:
    """Check one normalizer; give the number of times that it may make a text longer."""
    kind = entry.get("type")
    if kind in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "BertNormalizer"):
        return 1.0
    if kind == "Precompiled":
        _check_charsmap(entry.get("precompiled_charsmap"), where)
        return 1.0
    if kind == "Prepend" and isinstance(entry.get("prepend"), str) and len(entry["prepend"]) <= 8:
        return 1.0
    if kind == "Replace":
        return _check_replace(entry, where)
    raise refusal(where, f"a normalizer that Myna does not run ({str(entry)[:60]})")


def _check_replace(entry: dict[str, Any], where: str) -> float:
    pattern, content = entry.get("pattern"), entry.get("content")
    if isinstance(pattern, dict) and isinstance(content, str):
        text = pattern.get("String")
        if isinstance(text, str) and text and len(pattern) == 1:
            return max(1.0, len(content) / len(text))
        if len(pattern) == 1 and _is_one_of(pattern.get("Regex"), SPACES) and len(content) <= 2:
            return 1.0
    raise refusal(where, f"a replacement that Myna does not run ({str(entry)[:80]})")


def _check_charsmap(encoded: Any, where: str) -> None:
    """Check a SentencePiece charsmap: a length, an index of that many bytes, then texts that end with a zero byte."""
    if not isinstance(encoded, str) or len(encoded) > _MAX_CHARSMAP * 4 // 3:
        raise refusal(where, f"a charsmap that is no text of at most {_MAX_CHARSMAP:,} bytes")
    try:
        data = base64.b64decode(encoded, validate=True)
        (size,) = struct.unpack_from("<I", data)
    except (binascii.Error, ValueError, struct.error):
        raise refusal(where, "a charsmap that is not base64") from None
    if size % 4 or size < 1024 or 4 + size > len(data):
        raise refusal(where, f"a charsmap whose index has {size:,} of {len(data):,} bytes")
    texts = data[4 + size:]
    if max(map(len, texts.split(b"\0"))) > _MAX_REPLACEMENT:
        raise refusal(where, f"a charsmap that makes more than {_MAX_REPLACEMENT} bytes of a character")
    if not _stays_inside(np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64), np.frombuffer(texts, np.uint8)):
        raise refusal(where, "a charsmap whose index leads out of it")


def _stays_inside(units: npt.NDArray[np.int64], texts: npt.NDArray[np.uint8]) -> bool:
    """Tell whether no step through a charsmap's index (a double array of Darts-clone) leaves it, and each value begins a character."""
    nodes = np.flatnonzero(units >> 31 == 0)  # the others hold values
    found = units[nodes]
    bases = nodes ^ ((found >> 10) << ((found & 512) >> 6))
    if not np.all(bases | 255 < len(units)):
        return False
    places = units[bases[found >> 8 & 1 == 1]] & 0x7FFFFFFF
    return bool(np.all(places < len(texts)) and np.all(texts[places] & 0xC0 != 0x80))


def _check_cut(entry: dict[str, Any], where: str) -> None:
    kind = entry.get("type")
    known = kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits")
    pattern = entry.get("pattern")
    if kind == "Metaspace":
        known = isinstance(entry.get("replacement"), str) and len(entry["replacement"]) == 1
    elif kind == "Split" and isinstance(pattern, dict):
        known = len(pattern) == 1 and isinstance(pattern.get("String"), str) and pattern["String"] != ""
    if not known:
        raise UserError(f"{where} has a pre-tokenizer that Myna does not know ({str(entry)[:80]})",
                        "BertPreTokenizer, Metaspace, Whitespace, or byte-level " + ", ".join(NAMES), "use another model")


def _check_decoder(entry: dict[str, Any], where: str) -> None:
    kind = entry.get("type")
    known = kind in ("ByteLevel", "WordPiece", "Metaspace", "ByteFallback", "Fuse")
    if kind == "Replace" and isinstance(entry.get("pattern"), dict) and "Regex" not in entry["pattern"]:
        known = _check_replace(entry, where) <= _MAX_GROWTH
    elif kind == "Strip":
        known = all(type(entry.get(side)) is int and 0 <= entry[side] <= _MAX_PARTS for side in ("start", "stop"))
    if not known:
        raise refusal(where, f"a decoder that Myna does not run ({str(entry)[:60]})")


def _template_ids(entry: dict[str, Any], where: str) -> list[Any]:
    """List the ids that a template adds; every name in it must be among its special tokens."""
    known = entry.get("special_tokens")
    templates: list[Any] = [entry.get("single"), entry.get("pair")]
    bounded = all(isinstance(template, list) and len(template) <= _MAX_TEMPLATE for template in templates)
    if not isinstance(known, dict) or len(known) > _MAX_TEMPLATE or not bounded:
        raise refusal(where, f"a template that is not two lists of at most {_MAX_TEMPLATE} parts")
    for part in [part for template in templates for part in template]:
        named = part.get("SpecialToken") if isinstance(part, dict) else None
        sequence = part.get("Sequence") if isinstance(part, dict) else None
        if not isinstance(sequence, dict) and not (isinstance(named, dict) and _is_one_of(named.get("id"), known)):
            raise refusal(where, f"a template that names {str(part)[:60]}, which is not among its special tokens")
    ids: list[Any] = []
    for value in known.values():
        listed = value.get("ids") if isinstance(value, dict) else None
        if not isinstance(listed, list) or len(listed) > _MAX_TEMPLATE:
            raise refusal(where, "a template's special token without ids")
        ids += listed
    return ids
