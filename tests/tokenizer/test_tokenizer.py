"""The tokenizer loses nothing, treats text as text, agrees with transformers, and refuses files it cannot trust."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.tokenizer import tokenizer as module
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.patterns import QWEN2, name_of
from myna.tokenizer.pieces import byte_alphabet, cut
from myna.tokenizer.scripts import INSIDE, LETTER, LINE, SIGN, SPACE, UNSPACED_LETTER, edges
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from myna.tokenizer.train import train_tokenizer

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aAbst' \n\r\t\u3000你好，。12<|>_")), max_size=60)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_nothing_is_lost(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.token_bytes[id] for id in ids) == text.encode()
    assert not tokenizer.special_ids.intersection(ids)


@settings(max_examples=50, deadline=None)
@given(text=TEXTS, data=st.data())
def test_bytes_can_be_decoded_in_parts(tokenizer: Tokenizer, text: str, data: st.DataObject) -> None:
    ids = tokenizer.encode(text)
    at = data.draw(st.integers(0, len(ids)))
    assert tokenizer.decode_bytes(ids[:at]) + tokenizer.decode_bytes(ids[at:]) == text.encode()


def test_golden_texts_survive_a_saved_directory(tokenizer: Tokenizer, folder: Path) -> None:
    again = Tokenizer.open(folder)
    golden = tokenizer.golden()
    again.check_golden(json.loads(json.dumps(golden)), "here")
    assert golden["texts"] == list(GOLDEN_TEXTS)
    assert [again.decode(ids) for ids in golden["ids"]] == golden["texts"]
    assert again.pre_tokenizer_name == "qwen2"
    assert again.fingerprint == tokenizer.fingerprint


def test_another_tokenizer_fails_the_golden_check(bpe: Tokenizer, characters: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"my-model does not give its golden ids: 'Once upon"):
        bpe.check_golden(characters.golden(), "my-model")
    for damaged in (None, {}, {"texts": ["a"], "ids": []}, {"texts": [1], "ids": [[1]]}, {"texts": [], "ids": []}):
        with pytest.raises(UserError, match="damaged"):
            bpe.check_golden(damaged, "my-model")


def test_special_tokens_sit_at_the_end_and_never_come_from_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size % 64 == 0
    assert min(tokenizer.special_ids) == tokenizer.vocab_size - len(tokenizer.special_ids)
    assert tokenizer.separator_id != tokenizer.pad_id
    assert tokenizer.tokens([tokenizer.separator_id]) == ["<|endoftext|>"]
    assert tokenizer.decode([*tokenizer.encode("a<|endoftext|>b"), tokenizer.separator_id]) == "a<|endoftext|>b"
    assert tokenizer.decode_bytes(sorted(tokenizer.special_ids)) == b""


def test_more_special_tokens_follow_the_fixed_four(corpus: Corpus, tmp_path: Path) -> None:
    more = ("<|mask|>", "<|cls|>", *(f"<|extra_id_{i}|>" for i in range(32)))
    made = train_tokenizer(corpus, TokenizerOptions(kind="characters", special_tokens=more))
    assert made.special_id("<|mask|>") == made.pad_id + 1
    assert [made.special_id(name) for name in more] == list(range(made.special_id("<|mask|>"), made.special_id("<|mask|>") + len(more)))
    assert made.vocab_size % 64 == 0
    made.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.mask_token_id, theirs.cls_token_id) == (made.special_id("<|mask|>"), made.special_id("<|cls|>"))
    assert theirs("a <|mask|> b")["input_ids"] == made.encode("a <|mask|> b")
    assert made.decode(made.encode("a <|mask|> b")) == "a <|mask|> b"
    assert Tokenizer.open(tmp_path).special_id("<|extra_id_31|>") == made.special_id("<|extra_id_31|>")


@pytest.mark.parametrize("names", [("mask",), ("<|mask|>", "<|mask|>"), ("<|pad|>",), ("<||>",), ("<|reserved_0|>",), ("<|a b|>",)])
def test_bad_special_tokens_are_refused(corpus: Corpus, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="special token"):
        train_tokenizer(corpus, TokenizerOptions(special_tokens=names))


def test_a_special_token_that_is_not_there_is_an_error(bpe: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"no special token '<\|mask\|>'"):
        bpe.special_id("<|mask|>")
    with pytest.raises(UserError, match="no special token 'the'"):
        bpe.special_id("the")


def test_tokens_show_parts_of_characters(bpe: Tokenizer) -> None:
    shown = bpe.tokens(bpe.encode("𠮷"))
    assert shown[0].startswith("\\xf0")


def test_every_token_has_a_name_and_a_merge(bpe: Tokenizer) -> None:
    names = bpe.token_names()
    assert len(names) == len(set(names)) == bpe.vocab_size
    assert {left + right for left, right in bpe.merges} <= set(names)
    back = {character: byte for byte, character in byte_alphabet().items()}
    assert all(bytes(back[c] for c in left + right) == bpe.token_bytes[names.index(left + right)] for left, right in bpe.merges[:100])


def test_agrees_with_transformers(tokenizer: Tokenizer, folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == tokenizer.vocab_size
    assert (theirs.eos_token_id, theirs.pad_token_id, theirs.bos_token_id) == (tokenizer.separator_id, tokenizer.pad_id, None)
    for text, ids in zip(GOLDEN_TEXTS, tokenizer.golden()["ids"], strict=True):
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text

    @settings(max_examples=200, deadline=None)
    @given(text=TEXTS)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text

    check()


def test_the_context_is_written_when_it_is_known(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path, max_length=256)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 256
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_settings_of_others_are_kept(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|im_end|>"}, "pad_token": "<|pad|>", "chat": 1}')
    again = Tokenizer.open(tmp_path)
    assert again.separator_id == bpe.separator_id  # a turn ends with <|im_end|>, a document still with <|endoftext|>
    again.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat"] == 1


@pytest.mark.parametrize("text", ["abcdefghij" * 2_000_000, " " * 12_000_000, "春眠不觉晓处处闻啼鸟" * 300_000],
                         ids=["word", "spaces", "chinese"])
def test_a_huge_word_is_encoded_in_bounded_pieces(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(bpe, "encode_batch", lambda pieces: [sizes.append(len(piece)) or [7] for piece in pieces])
    assert bpe.encode(text) == [7] * len(sizes)
    assert sum(sizes) == len(text)
    assert max(sizes) <= 1 << 18


def test_a_long_word_is_encoded(bpe: Tokenizer) -> None:
    text = "abcdefghij" * 100_000
    assert bpe.decode(bpe.encode(text)) == text


def test_cuts_change_no_id(bpe: Tokenizer) -> None:
    rng = random.Random(1)
    compared = 0
    for _ in range(300):
        text = "".join(rng.choices(["word", " ", "\n", "\n\n", "\r\n", "\t", "。", "!", "3", "春", "\u3000"], k=rng.randrange(100)))
        pieces = list(cut(text, 64))
        assert "".join(pieces) == text
        assert all(len(piece) <= 64 for piece in pieces)
        if len(pieces) > 1 and all(piece.endswith("\n") for piece in pieces[:-1]):
            assert [id for ids in bpe.encode_batch(pieces) for id in ids] == bpe.encode(text)
            compared += 1
    assert compared > 50


def test_lone_surrogates_and_unknown_ids_are_errors(bpe: Tokenizer) -> None:
    with pytest.raises(UserError, match="lone surrogate"):
        bpe.encode("a\ud800b")
    for id in (-1, bpe.vocab_size):
        with pytest.raises(UserError, match=f"token id {id}"):
            bpe.decode([id])


def test_patterns_have_their_known_names() -> None:
    split = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    assert name_of({"type": "Sequence", "pretokenizers": [split, level]}) == "qwen2"
    assert name_of({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}) == "gpt-2"
    assert name_of({"type": "ByteLevel"}) is None  # adds a space before the text
    assert name_of({"type": "Sequence", "pretokenizers": [{**split, "pattern": {"Regex": "(a+)+$"}}, level]}) is None
    for nonsense in (None, [], 3, {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": []}]}):
        assert name_of(nonsense) is None


def _changed(folder: Path, change: str) -> dict[str, object]:
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    changes = {
        "regex": lambda: described["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a|a)*$"}),
        "normalizer": lambda: described.update(normalizer={"type": "Lowercase"}),
        "unigram": lambda: described["model"].update(type="Unigram"),
        "dropout": lambda: described["model"].update(dropout=0.5),
        "merge of nothing": lambda: described["model"]["merges"].append(["never", "there"]),
        "missing byte": lambda: described["model"].update(vocab={"a": 0}, merges=[]),
        "huge id": lambda: described["model"]["vocab"].update(Ġhugeid=4_000_000_000),
        "foreign letters": lambda: described["model"]["vocab"].update({"▁the": len(described["model"]["vocab"])}),
        "scores": lambda: described["model"].update(type="Unigram", vocab=[["a", 1.0], ["a", 2.0]]),
        "no model": lambda: described.pop("model"),
        "bad version": lambda: described.update(added_tokens="x"),
    }
    changes[change]()
    return described


@pytest.mark.parametrize("change", ["regex", "normalizer", "unigram", "dropout", "merge of nothing", "missing byte", "huge id",
                                    "foreign letters", "scores", "no model", "bad version"])
def test_files_that_cannot_be_trusted_are_refused(bpe: Tokenizer, tmp_path: Path, change: str) -> None:
    bpe.save(tmp_path)
    described = _changed(tmp_path, change)
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.open(tmp_path)


def test_padding_and_truncation_in_a_file_are_ignored(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    described["padding"] = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None,
                            "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    described["truncation"] = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    assert Tokenizer.open(tmp_path).encode("to be or not") == bpe.encode("to be or not")


def test_missing_huge_and_broken_files(bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no file"):
        Tokenizer.open(tmp_path)
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"model": {"vocab": {}, "merges": []}}'):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer\.json"):
            Tokenizer.open(tmp_path)
    bpe.save(tmp_path)
    monkeypatch.setattr(module, "_MAX_FILE", 1000)
    with pytest.raises(UserError, match="more than 1,000"):
        Tokenizer.open(tmp_path)


def test_a_tokenizer_without_separator_says_so(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path)
    described = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] != "<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").unlink()
    opened = Tokenizer.open(tmp_path)
    with pytest.raises(UserError, match="no token between documents"):
        _ = opened.separator_id


def test_any_damage_is_a_user_error(characters: Tokenizer) -> None:
    """Hostile values anywhere in the file: it is refused in one line, or it works and still loses nothing."""
    rng = random.Random(5)
    hostile = [None, True, -1, 10**12, 2**32, "", "x", "\ud800", [], [[]], {}, {"type": "ByteLevel"}, ["a", "b", "c"], float("inf")]
    for _ in range(150):
        described = json.loads(characters._text)
        place = described
        key = rng.choice(list(place))
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        place[key] = rng.choice(hostile)
        try:
            opened = Tokenizer(json.dumps(described), {"eos_token": rng.choice(hostile), "pad_token": rng.choice(hostile)})
        except UserError:
            continue
        assert opened.decode(opened.encode("Hello 你好\n<|pad|>")) == "Hello 你好\n<|pad|>"
        assert len(opened.token_names()) == opened.vocab_size
        assert opened.pad_id is None or opened.pad_id < opened.vocab_size


def test_a_panic_of_the_library_is_a_user_error(bpe: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="failed on this text"):
        bpe.encode_batch([" " * 11_000_000 + "a"])  # longer than the pattern's limit; `encode` cuts it
    assert "panicked" in capfd.readouterr().err


def test_tokens_know_where_words_begin(tokenizer: Tokenizer) -> None:
    assert tokenizer.segment("The unquestionable breathe\nWords, so") == ["The", " unquestionable", " breathe", "\n", "Words", ",", " so"]
    assert tokenizer.word_starts()[sorted(tokenizer.special_ids)].all()
    for text in GOLDEN_TEXTS:
        words = tokenizer.segment(text)
        assert "".join(words) == text  # no word ends inside a character
        assert not any(" " in word.lstrip() for word in words)


def test_each_chinese_character_begins_a_word(characters: Tokenizer) -> None:
    assert characters.segment("春眠Xyz不") == ["春", "眠", "Xyz", "不"]


@pytest.mark.parametrize(("piece", "found"), [
    (b" the", (SPACE, LETTER)), (b"e.", (LETTER, SIGN)), (b"\r\n", (LINE, LINE)), ("中国".encode(), (UNSPACED_LETTER, UNSPACED_LETTER)),
    (b"\xe4\xb8", (UNSPACED_LETTER, INSIDE)), (b"\xad", (INSIDE, INSIDE)), (b"\xadx", (INSIDE, LETTER)), (b"\xc3", (LETTER, INSIDE)),
    (b"", (SIGN, SIGN)), ("e\u0301".encode(), (LETTER, LETTER)), (b"_7", (SIGN, LETTER)), ("。".encode(), (SIGN, SIGN)),
    (b"\xff", (SIGN, INSIDE)), ("🦜".encode(), (SIGN, SIGN)), ("\u3000".encode(), (SPACE, SPACE)), (b"\xf0", (SIGN, INSIDE))])
def test_edges_of_tokens(piece: bytes, found: tuple[int, int]) -> None:
    assert edges(piece) == found
