"""Encodings are found, streams survive any chunking, and no byte is lost."""

from __future__ import annotations

import pytest

from myna.corpus.decode import Decoder, detect, is_binary, known_codec, sniff_wide
from myna.errors import UserError

SIMPLIFIED = "深入学习自然语言处理的方法，首先要从最基本的概念开始。今天天气很好，我们一起去公园散步吧。人工智能正在改变世界。"
TRADITIONAL = "深入學習自然語言處理的方法，首先要從最基本的概念開始。今天天氣很好，我們一起去公園散步吧。人工智慧正在改變世界。"
RUSSIAN = "Привет, как дела? Это обычный русский текст для проверки. " * 10
CASES = [
    (SIMPLIFIED, "utf-8"), (SIMPLIFIED, "gb18030"), ("你好", "gb18030"), ("联通", "gbk"), ("第一章　陨落的天才", "gbk"),
    (TRADITIONAL, "gb18030"), (TRADITIONAL, "big5"), ("謝謝", "big5"), ("標題：臺灣", "big5"),
    ("C'était une très belle journée à la forêt.", "latin-1"),
    ("Größe “quoted” naïve café", "cp1252"), ("caf\u00e9", "latin-1"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"),
    (SIMPLIFIED, "utf-16"), (SIMPLIFIED, "utf-16-le"), (SIMPLIFIED, "utf-16-be"), ("hello world", "utf-16-le"), ("hello", "utf-16-be"),
    ("mostly ascii " * 9000 + SIMPLIFIED, "gb18030"), (SIMPLIFIED + "\n", "utf-8-sig"),
]


def read(data: bytes, step: int) -> tuple[str, int, str]:
    """Decode in chunks of `step`; returns the text, the bytes accounted for and the encoding."""
    decoder = Decoder()
    pieces = list(decoder.decode(data[i:i + step] for i in range(0, len(data), step)))
    at = decoder.bom
    for piece in pieces:
        assert piece.segments[0].offset == at
        at += piece.size()
    return "".join(piece.text for piece in pieces), at, decoder.encoding


@pytest.mark.parametrize(("text", "codec"), CASES)
def test_the_encoding_is_found(text: str, codec: str) -> None:
    """Whole files decode to their text."""
    data = text.encode(codec)
    assert read(data, max(len(data), 1))[:2] == (text, len(data))
    assert is_binary(data) == ""


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "big5", "utf-16-le"])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_characters_cut_at_chunk_edges_survive(codec: str, step: int) -> None:
    """With the encoding given, any chunking gives the same text."""
    data = (TRADITIONAL + "\nabc\n" + TRADITIONAL).encode(codec)
    decoder = Decoder(encoding=known_codec(codec))
    text = "".join(piece.text for piece in decoder.decode(data[i:i + step] for i in range(0, len(data), step)))
    assert text == data.decode(codec)


def test_three_characters_are_enough_for_chinese() -> None:
    """Every three-character window of a real sentence is read right."""
    for text, codec, found in ((SIMPLIFIED, "gb18030", "gb18030"), (TRADITIONAL, "big5", "big5hkscs")):
        assert {detect(text[i:i + 3].encode(codec)) for i in range(len(text) - 2)} == {found}


def test_codes_of_two_characters() -> None:
    """Big5 (HKSCS) has codes that stand for a letter and a mark; judging them does not fail."""
    assert detect(b"\x88\x62\x88\xa5" * 10)


def test_utf8_with_bad_bytes_stays_utf8() -> None:
    """A few bad bytes do not turn a file into another encoding; each is marked."""
    data = (SIMPLIFIED.encode() + b"\xff\xfe" + SIMPLIFIED.encode()) * 3
    text, size, encoding = read(data, 10000)
    assert (encoding, size) == ("utf-8", len(data))
    assert text.count("\udcff") == 3 and text.replace("\udcff\udcfe", "") == SIMPLIFIED * 6


def test_binary_is_told_from_text() -> None:
    """Known magic and control bytes are binary; a stray NUL is not."""
    assert is_binary(b"\x89PNG\r\n") == "an image"
    assert is_binary(bytes(range(256)) * 4) == "binary data"
    assert is_binary(b"text with one \0 byte " * 5) == ""
    assert sniff_wide(b"Bush hid the facts") == ""


def test_an_unknown_encoding_is_refused() -> None:
    """The names that work are listed."""
    with pytest.raises(UserError, match="gb18030"):
        known_codec("utf-99")
