"""From the tokenizer files of others to a tokenizer.json: what a model directory holds, or the metadata of a GGUF file.

Published models come with `tokenizer.json`, or only with what their authors trained: `vocab.json` and `merges.txt`, SentencePiece's
`.model` (Marian has one for each language), tiktoken's ranks, BERT's `vocab.txt`. `Tokenizer.open` calls this in memory: opening
somebody's directory writes nothing into it.

Sources: the tokenizers of `transformers` for what each family adds around a text; the keys `tokenizer.ggml.*` of GGUF as ggml's
docs/gguf.md lists them, and what llama.cpp's `llama-vocab.cpp` makes of them.

    text, file = convert_directory(Path("t5-small"))                 # from its spiece.model
    text, settings = from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", ...})
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.files import read_json, read_regular
from myna.tokenizer.assemble import describe_bytes, surround_text, surround_with
from myna.tokenizer.patterns import ALIASES, entry_of
from myna.tokenizer.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Pieces,
    describe_pair,
    describe_pieces,
    read_pieces,
)
from myna.tokenizer.tiktoken import describe_ranks, looks_like_ranks, read_ranks
from myna.tokenizer.wordpiece import describe_word_pieces, read_words

_MAX_FILE = 64 << 20  # bytes
_MAX_ADDED = 1 << 16  # tokens beside the vocabulary
_MODELS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_RANKS = ("qwen", "cl100k_base", "multilingual", "gpt2", "r50k_base", "llama3")  # as in tiktoken.py
# families of transformers (model_type of config.json, or the class named in tokenizer_config.json) by what they do to a text
_PATTERNS = {"gpt2": "gpt-2", "roberta": "gpt-2", "bart": "gpt-2", "whisper": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
_FIRST_TOKEN = ("llama", "mistral", "mixtral", "codellama", "gemma", "phi3")  # begin a text with bos_token
_EXTRA_IDS = 100  # T5's sentinels, where the settings do not say

_WHERE = "the GGUF file"
_KEY = "tokenizer.ggml."


def convert_directory(folder: Path, part: str = "") -> tuple[str, str]:
    """Make the text of a tokenizer.json from the other files of a model directory; give it and the name of the file it is from.

    In order: vocab.json with merges.txt; source.spm, target.spm and vocab.json; a SentencePiece model; ranks; vocab.txt. `part` is
    "target" for the texts that a Marian model writes. Raises UserError when there is none of them, or a family that Myna does not know.
    """
    settings = read_settings(folder)
    family = _find_family(folder, settings)
    ranks = next((f"{name}.tiktoken" for name in _RANKS if (folder / f"{name}.tiktoken").is_file()), None)
    model = next((name for name in _MODELS if (folder / name).is_file()), None)
    if (folder / "source.spm").is_file() and (folder / "target.spm").is_file() and (folder / "vocab.json").is_file():
        return _from_marian(folder, part), "target.spm" if part else "source.spm"
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _from_merges(folder, settings, family), "merges.txt"
    if model and not looks_like_ranks(_read(folder / model)):
        return _from_model(folder, model, settings, family), model
    if model or ranks:
        name = model or str(ranks)
        return describe_ranks(read_ranks(_read(folder / name), str(folder / name)), "llama3" if model else Path(name).stem), name
    if (folder / "vocab.txt").is_file():
        words = read_words(_read(folder / "vocab.txt"), str(folder / "vocab.txt"))
        return describe_word_pieces(words, settings, str(folder / "vocab.txt")), "vocab.txt"
    stray = next(iter(sorted(folder.glob("*.tiktoken"))), None)
    if stray is not None:
        describe_ranks({}, stray.stem)  # its name is not known, and this says so
    raise UserError(f"no file {folder / 'tokenizer.json'}", "a directory with a tokenizer.json", "check the path")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json; of special_tokens_map.json, which older directories have, what the former leaves out."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        read = read_json(folder / name) if (folder / name).is_file() else {}
        found |= {key: value for key, value in read.items() if value is not None or key not in found} if isinstance(read, dict) else {}
    return found


def _read(path: Path) -> bytes:
    return read_regular(path, _MAX_FILE)


def _find_family(folder: Path, settings: dict[str, Any]) -> str:
    """Name the family by the tokenizer's class, else by the model's type; empty when nothing names it."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = settings.get("tokenizer_class")
    if isinstance(named, str) and not named.startswith("PreTrained"):
        return named.removesuffix("Fast").removesuffix("Tokenizer").lower().replace("-", "_")
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind.lower().replace("-", "").replace("xlm_roberta", "xlmroberta") if isinstance(kind, str) else ""


def _unknown_family(folder: Path, family: str, known: Sequence[str]) -> UserError:
    return UserError(f"{folder} has no tokenizer.json and a tokenizer of the family {family!r:.40}", "one of " + ", ".join(known),
                     "save its tokenizer.json with transformers, or use another model")


def _added_beside(folder: Path, settings: dict[str, Any], ids: dict[str, int]) -> list[tuple[int, str, bool]]:
    """List the tokens that the settings add: (id, text, special); ids of the vocabulary or the ones that follow it."""
    listed = settings.get("added_tokens_decoder")
    entries = {id: token for id, token in listed.items() if isinstance(token, dict)} if isinstance(listed, dict) else {}
    named = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    if isinstance(named, dict):
        entries = {str(id): {"content": text, "special": False} for text, id in named.items()} | entries
    roles = [_content(value) for key, value in settings.items() if key.endswith("_token")]
    more = settings.get("additional_special_tokens")
    special = {text for text in (*roles, *(map(_content, more) if isinstance(more, list) else ())) if text}
    found = {ids[text]: (ids[text], text, True) for text in special if text in ids}
    for key, token in entries.items():
        text = _content(token)
        if text is None or not key.isdecimal() or len(key) > 9 or len(entries) > _MAX_ADDED or ids.get(text, int(key)) != int(key):
            raise UserError(f"{folder} adds the token {str(token)[:60]} with the id {key:.20}", "a text, and an id of its own",
                            "get tokenizer_config.json again")
        found[int(key)] = (int(key), text, token.get("special") is True or text in special)
    return sorted(found.values())


def _content(token: Any) -> str | None:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) and value else None


def _from_merges(folder: Path, settings: dict[str, Any], family: str) -> str:
    """Byte-level BPE of GPT-2's two files."""
    if family not in _PATTERNS:
        raise _unknown_family(folder, family, list(_PATTERNS))
    ids = _vocabulary(folder / "vocab.json")
    try:
        lines = _read(folder / "merges.txt").decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{folder / 'merges.txt'} is not UTF-8 ({error.reason} at byte {error.start})", "a merge on each line") from None
    merges = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    bad = next((merge for merge in merges if len(merge) != 2), None)
    if bad is not None:
        raise UserError(f"{folder / 'merges.txt'} has the line {' '.join(bad)[:40]!r}", "two tokens", "get the file again")
    added = _added_beside(folder, settings, ids)
    ids |= {text: id for id, text, _ in added}
    post = None
    if family in ("roberta", "bart"):
        first, last = _content(settings.get("cls_token")) or "<s>", _content(settings.get("sep_token")) or "</s>"
        post = _roberta(first, last, ids, folder)
        added = sorted({*added, *((ids[name], name, True) for name in (first, last, "<pad>", "<unk>", "<mask>") if name in ids)})
    elif "<|endoftext|>" in ids:
        added = sorted({*added, (ids["<|endoftext|>"], "<|endoftext|>", True)})
    entry = entry_of(_PATTERNS[family])
    if settings.get("add_prefix_space") is True and entry["type"] == "ByteLevel":
        entry = {**entry, "add_prefix_space": True}
    composed = {"type": "NFC"} if family in ("qwen2", "qwen3") else None
    return describe_bytes(ids, merges, entry, added=added, normalizer=composed, post_processor=post)


def _roberta(first: str, last: str, ids: dict[str, int], folder: Path) -> dict[str, Any]:
    missing = [name for name in (first, last) if name not in ids]
    if missing:
        raise UserError(f"{folder} has no token {', '.join(missing)}", "the special tokens of its family", "get vocab.json again")
    return surround_with([first, "A", last], [first, "A", last, last, "B", last], {name: ids[name] for name in (first, last)})


def _vocabulary(path: Path) -> dict[str, int]:
    _read(path)  # its size is checked before it is read as JSON
    vocabulary = read_json(path)
    if not isinstance(vocabulary, dict) or not vocabulary or not all(type(id) is int for id in vocabulary.values()):
        raise UserError(f"{path} is no vocabulary", "a token and its id in each entry", "get the file again")
    return vocabulary


def _from_marian(folder: Path, part: str) -> str:
    name, vocabulary = ("target.spm", "target_vocab.json") if part else ("source.spm", "vocab.json")
    path = folder / (vocabulary if (folder / vocabulary).is_file() else "vocab.json")
    ids = _vocabulary(path)
    codes = [text for text in ids if text.startswith(">>") and text.endswith("<<")]
    return describe_pair(read_pieces(_read(folder / name), str(folder / name)), ids, str(path), codes)


def _from_model(folder: Path, name: str, settings: dict[str, Any], family: str) -> str:
    """One SentencePiece model, with what its family adds."""
    where = str(folder / name)
    pieces = read_pieces(_read(folder / name), where)
    if family in ("t5", "mt5"):
        extra = settings.get("extra_ids", _EXTRA_IDS)
        if type(extra) is not int or not 0 <= extra <= _MAX_ADDED:
            raise UserError(f"{folder} has {extra!s:.20} extra ids", f"0 to {_MAX_ADDED:,}", "get tokenizer_config.json again")
        pieces = _append(pieces, [f"<extra_id_{i}>" for i in reversed(range(extra))])
        end = {"</s>": _id(pieces, "</s>", where)}
        return describe_pieces(pieces, where, post_processor=surround_with(["A", "</s>"], ["A", "</s>", "B", "</s>"], end))
    if family == "albert":
        scores = [score - 100 if _number_and_comma(text) else score for text, score in zip(pieces.texts, pieces.scores, strict=True)]
        ends = {name: _id(pieces, name, where) for name in ("[CLS]", "[SEP]")}
        template = surround_with(["[CLS]", "A", "[SEP]"], ["[CLS]", "A", "[SEP]", ("B", 1), ("[SEP]", 1)], ends)
        return describe_pieces(dataclasses.replace(pieces, scores=scores), where, before=_albert(settings), post_processor=template)
    if family == "xlmroberta":  # the ids of fairseq: four tokens of its own in the place of the first three pieces
        own = ("<s>", "<pad>", "</s>", "<unk>")
        pieces = dataclasses.replace(pieces, texts=[*own, *pieces.texts[3:]], scores=[0.0] * 4 + list(pieces.scores[3:]),
                                     types=[CONTROL, CONTROL, CONTROL, UNKNOWN, *pieces.types[3:]])
        pieces = _append(pieces, ["<mask>"])
        return describe_pieces(pieces, where, post_processor=_roberta("<s>", "</s>", {"<s>": 0, "</s>": 2}, folder))
    if family not in (*_FIRST_TOKEN, ""):
        raise _unknown_family(folder, family, ["t5", "albert", "xlmroberta", *_FIRST_TOKEN])
    ids = {text: id for id, text in enumerate(pieces.texts)}
    first = _content(settings.get("bos_token")) or "<s>" if family and settings.get("add_bos_token", True) else None
    last = _content(settings.get("eos_token")) or "</s>" if settings.get("add_eos_token", False) else None
    _id(pieces, first, where), _id(pieces, last, where)
    text = describe_pieces(pieces, where, post_processor=surround_text(first, last, ids))
    return _add(text, [token for token in _added_beside(folder, settings, ids) if token[1] not in ids])


def _add(text: str, added: Sequence[tuple[int, str, bool]]) -> str:
    """Add tokens that follow the vocabulary of a tokenizer.json."""
    if not added:
        return text
    described = json.loads(text)
    more = json.loads(describe_bytes({}, [], {}, added=added))["added_tokens"]
    described["added_tokens"] += more
    if described["model"]["type"] == "BPE":
        described["model"]["vocab"] |= {text: id for id, text, _ in added}
    return json.dumps(described, ensure_ascii=False)


def _append(pieces: Pieces, names: Sequence[str]) -> Pieces:
    return dataclasses.replace(pieces, texts=[*pieces.texts, *names], scores=[*pieces.scores, *[0.0] * len(names)],
                               types=[*pieces.types, *[CONTROL] * len(names)])


def _id(pieces: Pieces, name: str | None, where: str) -> int:
    if name is not None and name not in pieces.texts:
        raise UserError(f"{where} has no token {name}", "the special tokens of its family", "get the file again")
    return pieces.texts.index(name) if name is not None else -1


def _number_and_comma(text: str) -> bool:
    """ALBERT's own step after SentencePiece takes "9," apart; a piece of that form is made improbable instead, as transformers does."""
    return len(text) > 1 and text[-1] == "," and text[-2].isdigit()


def _albert(settings: dict[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": quote}, "content": '"'} for quote in ("``", "''")]
    steps += [{"type": "NFKD"}, {"type": "StripAccents"}] if settings.get("keep_accents") is not True else []
    return [*steps, {"type": "Lowercase"}] if settings.get("do_lower_case", True) is True else steps


def from_gguf(metadata: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make the text of a tokenizer.json and the entries of a tokenizer_config.json from the metadata of a GGUF file.

    Models gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (SentencePiece Unigram) and bert (WordPiece). Raises UserError for
    another model or another pre-tokenizer, by name, and for lists that do not fit together. Ids are llama.cpp's: Qwen's tokenizer.json
    also composes characters (NFC), which llama.cpp leaves out.
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
                          post_processor=surround_text(first, last, ids))


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
