"""Whole words: each known word is one token, nothing is lost, Chinese is cut by a list or by what the text itself shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.tokenizer import GOLDEN_TEXTS, Tokenizer
from myna.tokenizer.train import train_tokenizer
from myna.tokenizer.words import build_words, count_words, learn_words, read_word_list
from tests.tokenizer.conftest import CHINESE
from tests.tokenizer.corpora import write_corpus

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("aAbst' \n\t\u3000春眠你好，。12<|>_")), max_size=60)


def test_500_texts_survive_and_two_other_programs_give_the_same_ids(words: Tokenizer, tmp_path: Path) -> None:
    words.save(tmp_path)
    theirs, rust = AutoTokenizer.from_pretrained(tmp_path), RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))

    def check(text: str) -> None:
        ids = words.encode(text)
        assert words.decode(ids) == text
        assert "".join(words.segment(text)) == text
        assert theirs(text)["input_ids"] == ids
        if "<|" not in text:  # where the library is not told otherwise, a special token's name in a text is that token
            assert rust.encode(text).ids == ids

    settings(max_examples=500, deadline=None)(given(text=TEXTS)(check))()
    for text in GOLDEN_TEXTS:
        check(text)


def test_a_known_word_is_one_token(words: Tokenizer) -> None:
    known = [piece.decode() for piece in words.token_bytes if len(piece) > 1 and piece[:1] == b" " and piece[1:].isalpha()]
    assert len(known) > 300
    for word in known:
        assert len(words.encode(word)) == 1
    assert len(words.encode("the")) == 1 != len(words.encode("thequux"))
    assert words.whole_words


def test_a_rare_word_beats_two_frequent_parts() -> None:
    counts = count_words([" now" * 10_000, "here\n" * 10_000, " nowhere" * 2], {})
    assert counts[" now"] == counts["here"] == 10_000
    model = build_words(counts, {}, room=100)
    assert model.encode("Ġnowhere").tokens == ["Ġnowhere"]
    assert model.encode("Ġnowherehere").tokens == ["Ġnowhere", "here"]


def test_words_seen_often_are_kept_and_rare_ones_fall_to_pieces(tmp_path: Path) -> None:
    text = "apple banana apple banana cherry\n" * 5 + "durian fig\n"
    made = train_tokenizer(write_corpus(tmp_path / "c", [text]), TokenizerOptions(kind="words"))
    assert [len(made.encode(word)) for word in (" banana", "apple", " cherry", " durian")][:3] == [1, 1, 1]
    assert len(made.encode(" durian")) > 1
    small = train_tokenizer(write_corpus(tmp_path / "d", [text]), TokenizerOptions(kind="words", vocab_size=320))
    assert small.vocab_size == 320
    assert len(small.encode(" durian")) > 1  # once, and 2 are wanted where the size is given


def test_room_goes_to_the_most_frequent(capsys: pytest.CaptureFixture[str]) -> None:
    model = build_words(count_words(["b b b b b aa aa aa cc"], {}), {}, room=1)
    assert "Ġb" in model.get_vocab()
    assert "Ġaa" not in model.get_vocab()
    assert "room for 1 of" in capsys.readouterr().err


def test_a_list_decides_how_chinese_is_cut(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeff春眠 10 n\n不觉 5\n晓\n啼鸟\nword 7\n处处 x\n明月光\n", encoding="utf-8")
    made = train_tokenizer(corpus, TokenizerOptions(kind="words", words=str(path)))
    assert made.segment("春眠不觉晓，处处闻啼鸟") == ["春眠", "不觉", "晓", "，", "处处", "闻", "啼鸟"]
    assert made.segment("床前明月光") == ["床", "前", "明月光"]
    known = read_word_list(path)
    assert set(known) == {"春眠", "不觉", "晓", "啼鸟", "处处", "明月光"}
    assert np.isclose(known["春眠"], np.log(10 / 19))


def test_more_frequent_words_win_where_cuts_compete() -> None:
    for counts, cut in (({"研究": 100, "生命": 100, "研究生": 1, "命": 1}, ["研究", "生命"]),
                        ({"研究": 1, "生命": 1, "研究生": 100, "命": 100}, ["研究生", "命"])):
        known = {word: np.log(count / sum(counts.values())) for word, count in counts.items()}
        found = count_words(["研究生命"], known)
        assert sorted(word for word in found if found[word] and word in counts) == sorted(cut)


def test_words_are_learned_from_text_without_spaces() -> None:
    rng = np.random.default_rng(0)
    truth = ["蝴蝶", "葡萄", "玻璃", "图书馆", "自行车", *map(chr, range(0x4E00, 0x4E00 + 50))]
    text = "".join(rng.choice(truth, size=10_000))
    learned = learn_words([text])
    assert {"蝴蝶", "葡萄", "玻璃", "图书馆", "自行车"} <= set(learned)
    assert [word for word in learned if len(word) > 1 and word not in truth] == []
    assert np.isclose(sum(np.exp(score) for score in learned.values()), 1)
    assert learn_words(["no such script"]) == {}


@pytest.mark.parametrize(("content", "message"), [
    (b"\xff\xfe", "not UTF-8"), (b"only latin 3\n", "no word of Chinese"), (b"", "no word of Chinese"),
    ("好 1\n人 -5\n".encode(), r"words.txt:2"), ("好 nan\n".encode(), "count 'nan'")])
def test_bad_lists_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_word_list(path)


def test_a_list_that_is_not_there_or_not_wanted(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        train_tokenizer(corpus, TokenizerOptions(kind="words", words=str(tmp_path / "none")))
    with pytest.raises(UserError, match="kind words"):
        train_tokenizer(corpus, TokenizerOptions(words=str(tmp_path / "none")))


def test_there_are_no_merges(words: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"whole words.*--tokenizer.kind bpe"):
        _ = words.merges


def test_the_score_of_a_byte_is_below_any_word(words: Tokenizer) -> None:
    scores = dict(json.loads(words._text)["model"]["vocab"])
    assert min(scores.values()) == scores["ÿ"] < 2 * min(score for token, score in scores.items() if len(token) > 1)


def test_options_differ_only_where_they_should(corpus: Corpus) -> None:
    options = TokenizerOptions(kind="words", vocab_size=512)
    assert train_tokenizer(corpus, options).vocab_size == 512
    assert train_tokenizer(corpus, dataclasses.replace(options, special_tokens=("<|mask|>",))).special_id("<|mask|>") < 512


def test_a_clause_is_not_lost_between_batches() -> None:
    counts = count_words([topics["assert"], CHINESE, "春" * 5], learn_words([CHINESE]))
    assert sum(len(word) * n for word, n in counts.items() if "春" in word) >= 5 + CHINESE.count("春")
