"""The parts of a tokenizer.json, made from values: what every converter of other formats ends with.

The words are those of the `tokenizers` library's files, so that `transformers` opens the result.

    describe({"type": "BPE", "vocab": vocab, "merges": merges}, pre_tokenizer=entry_of("gpt-2"), decoder=BYTES)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}  # a decoder


def describe(model: dict[str, Any], *, added: Iterable[tuple[int, str, bool]] = (), normalizer: Any = None, pre_tokenizer: Any = None,
             post_processor: Any = None, decoder: Any = None) -> str:
    """Give the text of a tokenizer.json; `added` are (id, text, special) of tokens that are no pieces of words."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    entries = [{"id": id, "content": text, **flags, "special": special} for id, text, special in sorted(added)]
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": entries, "normalizer": normalizer,
                       "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model},
                      ensure_ascii=False)


def describe_bytes(vocab: dict[str, int], merges: Sequence[Any], pre_tokenizer: dict[str, Any], *, ignore_merges: bool = False,
                   added: Iterable[tuple[int, str, bool]] = (), normalizer: Any = None, post_processor: Any = None) -> str:
    """Give the text of a byte-level BPE tokenizer.json; `vocab` and `merges` are in the byte alphabet."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges, "vocab": vocab, "merges": list(merges)}
    return describe(model, added=added, normalizer=normalizer, pre_tokenizer=pre_tokenizer, post_processor=post_processor, decoder=BYTES)


def surround_with(single: Sequence[tuple[str, int] | str], pair: Sequence[tuple[str, int] | str], ids: dict[str, int]) -> dict[str, Any]:
    """Give a post-processor: names of special tokens and the texts "A" and "B", each alone or with its type id."""
    def part(entry: tuple[str, int] | str) -> dict[str, Any]:
        name, kind = (entry, 0) if isinstance(entry, str) else entry
        return {"Sequence" if name in ("A", "B") else "SpecialToken": {"id": name, "type_id": kind}}

    return {"type": "TemplateProcessing", "single": [part(entry) for entry in single], "pair": [part(entry) for entry in pair],
            "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in ids.items()}}


def surround_text(first: str | None, last: str | None, ids: dict[str, int]) -> dict[str, Any] | None:
    """Give the post-processor that puts one token before and one after each text, or None when it would add nothing."""
    def whole(name: str, kind: int) -> list[tuple[str, int]]:
        return [*([(first, kind)] if first else []), (name, kind), *([(last, kind)] if last else [])]

    used = {name: ids[name] for name in (first, last) if name}
    return surround_with(whole("A", 0), [*whole("A", 0), *whole("B", 1)], used) if used else None
