"""WordPiece: BERT's `vocab.txt`, one token a line, described as a tokenizer.json.

A word is cut into the longest pieces of the vocabulary from its beginning; pieces inside a word begin with "##". What is done to
the text before (lower case, accents, spaces around Chinese characters) is in `tokenizer_config.json`.

Source: Devlin et al. 2018, "BERT", section 3, and the entries that `transformers` reads for `BertTokenizer`.

    text = describe_word_pieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b"], {"do_lower_case": True})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from myna.errors import UserError
from myna.tokenizer.assemble import describe, surround_with

_ROLES = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def read_words(data: bytes, where: str) -> list[str]:
    """Read the tokens of a vocab.txt; line i has id i. Raises UserError when it is not UTF-8 text."""
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error.reason} at byte {error.start})", "one token a line", "get the file again") from None
    if lines and not lines[-1]:
        lines.pop()
    return [line.rstrip("\r") for line in lines]


def describe_word_pieces(words: Sequence[str], settings: Mapping[str, Any], where: str = "vocab.txt", special: Sequence[str] = ()) -> str:
    """Give the text of a tokenizer.json; `settings` are those of tokenizer_config.json. Raises UserError without an unknown token."""
    ids = {word: id for id, word in enumerate(words)}  # of two equal lines the last counts, as elsewhere
    roles = {role: _content(settings.get(role)) or name for role, name in _ROLES.items()}
    missing = [roles[role] for role in ("unk_token", "cls_token", "sep_token") if roles[role] not in ids]
    if missing:
        raise UserError(f"{where} has no token {', '.join(missing)}", "a WordPiece vocabulary with its special tokens",
                        "get the file again")
    accents = settings.get("strip_accents")
    normalizer = {"type": "BertNormalizer", "clean_text": True, "strip_accents": accents if isinstance(accents, bool) else None,
                  "handle_chinese_chars": settings.get("tokenize_chinese_chars", True) is True,
                  "lowercase": settings.get("do_lower_case", True) is True}
    model = {"type": "WordPiece", "unk_token": roles["unk_token"], "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
             "vocab": ids}
    first, end = roles["cls_token"], roles["sep_token"]
    template = surround_with([first, "A", end], [first, "A", end, ("B", 1), (end, 1)], {name: ids[name] for name in (first, end)})
    added = {ids[name]: name for name in (*roles.values(), *special) if name in ids}
    return describe(model, added=[(id, name, True) for id, name in added.items()], normalizer=normalizer,
                    pre_tokenizer={"type": "BertPreTokenizer"}, post_processor=template,
                    decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})


def _content(token: Any) -> str | None:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None
