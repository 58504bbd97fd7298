"""Where sentences end, in Chinese and in spaced scripts."""

from __future__ import annotations

from myna.corpus.sentences import cut_sentences


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in cut_sentences(text)]


def test_sentences_end_at_stops_and_not_at_abbreviations() -> None:
    assert cut("He came. Did she? Yes! It is 3.5 m.") == ["He came.", "Did she?", "Yes!", "It is 3.5 m."]
    assert cut("Dr. Lin of the U.S. Navy met J. Smith. It rained.") == ["Dr. Lin of the U.S. Navy met J. Smith.", "It rained."]
    assert cut('"Go." He went. e.g. this') == ['"Go."', "He went. e.g. this"]
    assert cut("他来了。“她走了！”我呢？好；完") == ["他来了。", "“她走了！”", "我呢？", "好；", "完"]
    assert cut("# Title\n\nText here\n- one\n- two") == ["# Title", "Text here", "- one", "- two"]
    assert cut(" \n ") == [] and cut("no stop") == ["no stop"]


def test_sentences_cover_all_but_white_space() -> None:
    text = " 一。二！ Three. four? Five... 六；7.5 \n\n * eight"
    assert "".join("".join(part.split()) for part in cut(text)) == "".join(text.split())
