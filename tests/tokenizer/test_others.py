"""Tokenizers of others open, give their own library's ids and inputs, and hostile files are refused or right."""

from __future__ import annotations

import base64
import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from myna.errors import UserError
from myna.tokenizer.components import hide_special_tokens
from myna.tokenizer.inputs import shorten
from myna.tokenizer.pieces import byte_alphabet, cut_at_spaces
from myna.tokenizer.sentencepiece import order_merges
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from tests.tokenizer.strings import plain_strings

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "un", "##know", "##ing",
         "春", "[", "]", ".", ",", "'", "!"]


def word_piece() -> tokenizers.Tokenizer:
    ids = {word: id for id, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                                                        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.add_special_tokens(WORDS[:5])
    return made


def byte_level(processor: bool = True, space: bool = False) -> tokenizers.Tokenizer:
    ids = {name: id for id, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *byte_alphabet().values(), "th", "the", "Ġthe", "<mask>"])}
    made = tokenizers.Tokenizer(models.BPE(ids, [("t", "h"), ("th", "e"), ("Ġ", "the")], unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=space), decoders.ByteLevel()
    if processor:
        made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    made.add_tokens(["<think>"])
    return made


def unigram(scheme: str = "always") -> tokenizers.Tokenizer:
    rows = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -5.0) for letter in LETTERS + "</>春."), ("▁the", -3.0)]
    made = tokenizers.Tokenizer(models.Unigram(rows, unk_id=2))
    # a charsmap without entries: an index of 256 units and no texts
    empty = struct.pack("<I", 1024) + bytes(1024)
    collapse = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Precompiled(empty), collapse])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return made


def llama() -> tokenizers.Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *LETTERS, "th", "the", "▁the"]
    merges = order_merges(pieces, [-float(id) for id in range(len(pieces))], [1] * len(pieces))
    made = tokenizers.Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True,
                                           byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


MAKERS = {"bert": word_piece, "roberta": byte_level, "t5": unigram, "llama": llama}


@pytest.fixture(params=MAKERS)
def theirs(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return MAKERS[request.param]()


def test_ids_inputs_and_texts_are_the_librarys(theirs: tokenizers.Tokenizer) -> None:
    ours = Tokenizer(theirs.to_str())
    texts = plain_strings(400, 2)
    for text, other in zip(texts, reversed(texts), strict=True):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode_bytes(ids).decode("utf-8", "replace") in (ours.decode(ids), " " + ours.decode(ids))
        assert ours.encode_inputs([text])[0] == theirs.encode(text).ids
        pair = ours.encode_inputs([text], [other])
        assert (pair[0], pair.type_ids[0], pair.truncated) == (theirs.encode(text, other).ids, theirs.encode(text, other).type_ids, 0)


def test_special_token_text_gives_no_special_id(theirs: tokenizers.Tokenizer) -> None:
    ours = Tokenizer(theirs.to_str())
    names = [ours.tokens([id])[0] for id in sorted(ours.special_ids)]
    assert names
    for name in names:
        for text in (name, f"a {name} b", f"a{name}", f"{name}{name} "):
            inside = ours.encode(text)
            unknown = {ours._ids.get(other) for other in ("<unk>", "[UNK]")}  # what a letter without a token gives is right
            assert not (ours.special_ids - unknown).intersection(inside), text
            assert inside, text
        assert ours.decode([ours.special_id(name), *ours.encode("the"), ours.special_id(name)]).strip() == "the"


def test_lossless_says_so() -> None:
    assert Tokenizer(byte_level().to_str()).lossless
    assert not any(Tokenizer(maker().to_str()).lossless for maker in (word_piece, unigram, llama, lambda: byte_level(space=True)))
    spaced = Tokenizer(byte_level(space=True).to_str())
    assert spaced.encode("the") == Tokenizer(byte_level().to_str()).encode(" the")
    with pytest.raises(UserError, match="byte-level BPE"):
        _ = spaced.merges
    described = json.loads(byte_level().to_str())
    del described["model"]["vocab"]["Ą"]  # the byte 4, which SmolLM2 does not have either
    missing = Tokenizer(json.dumps(described))
    assert (missing.missing_bytes, missing.lossless) == (frozenset({4}), False)
    assert missing.decode(missing.encode("a\x04b")) == "ab"


@pytest.mark.parametrize("length", [5, 6, 7, 8, 11, 16])
def test_long_inputs_are_cut_as_the_library_does(theirs: tokenizers.Tokenizer, length: int) -> None:
    ours = Tokenizer(theirs.to_str())
    texts = ["the", "a b c d e f g h", "unknowing the the", "x", ""]
    theirs.enable_truncation(length)
    got = ours.encode_inputs(texts, max_length=length)
    assert got == [theirs.encode(text).ids for text in texts]
    assert got.truncated == sum(len(ids) > length for ids in ours.encode_inputs(texts))
    others = list(reversed(texts))
    pairs = ours.encode_inputs(texts, others, length)
    assert pairs == [theirs.encode(text, other).ids for text, other in zip(texts, others, strict=True)]
    assert pairs.truncated == sum(len(ids) > length for ids in ours.encode_inputs(texts, others))


def test_lengths_that_leave_no_room_and_lists_that_do_not_fit() -> None:
    ours = Tokenizer(word_piece().to_str())
    with pytest.raises(UserError, match="2 are special"):
        ours.encode_inputs(["a"], max_length=2)
    with pytest.raises(UserError, match="1 texts and 2"):
        ours.encode_inputs(["a"], ["b", "c"])
    assert [shorten(*lengths, 6) for lengths in ((2, 3), (5, 2), (2, 5), (9, 9), (1, 9))] == [(2, 3), (4, 2), (2, 4), (3, 3), (1, 5)]
    assert ours.encode_inputs([]) == []


def test_separators_and_padding() -> None:
    bert, roberta, t5 = (Tokenizer(maker().to_str()) for maker in (word_piece, byte_level, unigram))
    assert (bert.separator_id, roberta.separator_id, t5.separator_id) == (3, 2, 1)
    assert (bert.pad_id, roberta.pad_id, t5.pad_id) == (0, 1, 0)
    described = json.loads(word_piece().to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] != "[SEP]"]
    alone = Tokenizer(json.dumps(described))  # opens; only the question for a separator is refused
    with pytest.raises(UserError, match="no token between documents"):
        _ = alone.separator_id


def test_saved_settings_name_the_tokens_that_are_there(tmp_path: Path) -> None:
    Tokenizer(unigram().to_str()).save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["pad_token"], settings["unk_token"], settings["bos_token"]) == ("</s>", "<pad>", "<unk>", None)
    assert Tokenizer.open(tmp_path).encode("the") == Tokenizer(unigram().to_str()).encode("the")
    assert Tokenizer.open(tmp_path, "target").encode("the") == Tokenizer.open(tmp_path).encode("the")  # one for both


def test_added_tokens_that_are_text_are_recognised() -> None:
    ours = Tokenizer(byte_level().to_str())
    assert ours.tokens(ours.encode("a<think>b<mask>"))[:3] == ["a", "<think>", "b"]
    assert ours.decode(ours.encode("a<think>b<mask>")) == "a<think>b<mask>"


def test_special_tokens_are_hidden_only_where_a_text_reaches_them() -> None:
    described = json.loads(byte_level().to_str())
    before = copy.deepcopy(described)
    ours = Tokenizer(json.dumps(described))
    assert hide_special_tokens(described, ours.layout) == {}
    assert described == before
    described["model"]["ignore_merges"] = True  # now a whole word that is a token is taken
    assert set(hide_special_tokens(described, ours.layout).values()) == {"<s>", "<pad>", "</s>", "<unk>", "<mask>"}


def test_cuts_at_spaces() -> None:
    text = "one two  three\n four five"
    assert list(cut_at_spaces(text, 9, True)) == ["one", "two  thre", "e\n four", "five"]
    for size in range(2, 30):
        assert "".join(cut_at_spaces(text, size, False)) == text
        assert all(len(piece) <= size for piece in cut_at_spaces(text, size, True))


def hostile_changes(described: dict[str, Any]) -> dict[str, Any]:
    deep: dict[str, Any] = {"type": "Sequence", "normalizers": []}
    for _ in range(200):
        deep = {"type": "Sequence", "normalizers": [deep]}
    charsmap = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<I", 2**31) + b"x").decode()}
    astray = {"type": "Precompiled",
              "precompiled_charsmap": base64.b64encode(struct.pack("<I", 1024) + b"\xff\xff\xff\x7f" * 256 + b"a\0").decode()}
    long = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<I", 1024) + bytes(1024) + b"x" * 9999).decode()}
    grow = replace({"String": "a"}, "a" * 8)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}], "pair": [], "special_tokens": {}}
    far = {**template, "special_tokens": {"[X]": {"id": "[X]", "ids": [10**9], "tokens": ["[X]"]}}}
    model = described["model"]
    return {
        "normalizer": [deep, charsmap, astray, long, {"type": "Sequence", "normalizers": [grow, grow]}, replace({"Regex": "(a|a)*$"}, ""),
                       replace({"String": ""}, "x"), {"type": "Prepend", "prepend": "x" * 10**6}, {"type": "ByteLevel"},
                       {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}, [], "NFC"],
        "pre_tokenizer": [{**split, "pattern": {"Regex": "(a+)+$"}}, {**split, "pattern": {"String": ""}},
                          {**metaspace, "replacement": "▁▁"}, {"type": "UnicodeScripts"}, {"type": "ByteLevel"}, 7],
        "decoder": [{"type": "Strip", "content": "a", "start": 10**12, "stop": 0}, {"type": "CTC"}, replace({"Regex": "a*"}, "a"),
                    replace({"String": "a"}, "a" * 10**6)],
        "post_processor": [template, far, {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["x", 0]}, {"type": "Other"},
                           {"type": "RobertaProcessing", "sep": "x", "cls": None}],
        "model": [{**model, "max_input_chars_per_word": 10**9}, {**model, "vocab": {"[UNK]": 10**9}}, {**model, "unk_token": "not there"},
                  {**model, "vocab": {"[UNK]": 0, "a": 0}}, {**model, "vocab": {"[UNK]": -1}}, {**model, "type": "WordLevel"},
                  {"type": "Unigram", "vocab": [["a", float("nan")]], "unk_id": 0},
                  {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
                  {"type": "Unigram", "vocab": [["a", 1.0]], "unk_id": 10**9}, {"type": "Unigram", "vocab": [["a", 1.0]], "unk_id": None}],
    }


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@pytest.mark.parametrize("key", ["normalizer", "pre_tokenizer", "decoder", "post_processor", "model"])
def test_hostile_components_are_refused(key: str) -> None:
    described = json.loads(word_piece().to_str())
    for value in hostile_changes(described)[key]:
        with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
            Tokenizer(json.dumps({**described, key: value}))
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MAKERS)
def test_any_damage_is_a_user_error_or_works(name: str) -> None:
    """Hostile values anywhere: one line, or ids that no special-token text in a text has."""
    rng = random.Random(11)
    hostile = [None, True, -1, 10**9, 10**12, "", "x", "\ud800", " ", [], [[]], {}, {"type": "NFC"}, ["a", "b"], ["a", 0.5],
               float("nan"), 1e300]
    whole = json.loads(MAKERS[name]().to_str())
    opened = 0
    for _ in range(250):
        described = copy.deepcopy(whole)
        place: Any = described
        key: Any = rng.choice(list(place))
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        place[key] = rng.choice(hostile)
        try:
            ours = Tokenizer(json.dumps(described), {"eos_token": rng.choice(hostile)})
            ids = ours.encode("the </s> [SEP] 春 a")
            ours.decode(ids), ours.encode_inputs(["the"], ["a b"], 8), ours.token_names()
            assert max(ids, default=0) < ours.vocab_size
            opened += 1
        except UserError as error:
            assert "\n" not in str(error)
    assert opened >= 5


def test_golden_texts_pass_every_kind(theirs: tokenizers.Tokenizer) -> None:
    ours = Tokenizer(theirs.to_str())
    ours.check_golden(ours.golden(), "here")
    assert len(ours.golden()["ids"]) == len(GOLDEN_TEXTS)
    assert ours.word_starts().shape == (ours.vocab_size,)
    assert "".join(ours.segment("the unknowing the")).strip() == "the unknowing the"
