"""A file of lines in two encodings is read right, every byte accounted for; a pure file stays what it is."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.corpus.clean import clean
from myna.corpus.decode import Decoder, find_second
from myna.corpus.options import CleanOptions
from tests.corpus.test_clean import check
from tests.corpus.test_decode import RUSSIAN, SIMPLIFIED, TRADITIONAL, read

LINES = [f"{i} {SIMPLIFIED[i % 40:i % 40 + 7 + i % 17]}\n" for i in range(400)]
TWO = {"gb18030": "gb18030", "big5": "big5hkscs"}


def clean_one(folder: Path, name: str, data: bytes) -> tuple[str, dict[str, object]]:
    """Clean one file; returns the text and the report's entry, accounts checked."""
    (folder / name).write_bytes(data)
    (folder / "out").mkdir()
    clean([folder / name], folder / "out", CleanOptions())
    corpus = check(folder / "out")
    return (folder / "out" / "text.utf8").read_text(), corpus.files[0]


@pytest.mark.parametrize("step", [7, 1000, 1 << 20])
@pytest.mark.parametrize("codec", ["gb18030", "big5"])
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("shape", ["alternate", "halves", "blocks", "rare"])
def test_mixed_lines(shape: str, order: int, codec: str, step: int) -> None:
    """Each line is read in its own encoding, however the two are arranged and the stream is cut."""
    traditional = str.maketrans(dict(zip(SIMPLIFIED, TRADITIONAL, strict=True)))
    lines = [line.translate(traditional) for line in LINES] if codec == "big5" else LINES
    kind = {"alternate": lambda i: i % 2, "halves": lambda i: i >= 200, "blocks": lambda i: i // 30 % 2,
            "rare": lambda i: i % 20 == 0}[shape]
    data = b"".join(line.encode(("utf-8", codec)[bool(kind(i)) ^ order]) for i, line in enumerate(lines))
    decoder = Decoder(lambda: data)
    pieces = list(decoder.decode(data[i:i + step] for i in range(0, len(data), step)))
    assert decoder.encoding == f"utf-8 + {TWO[codec]}"
    assert "".join(piece.text for piece in pieces) == "".join(lines)
    at = 0
    for piece in pieces:
        assert piece.segments[0].offset == at
        assert data[at:at + piece.size()].decode(piece.codec) == piece.text
        at += piece.size()
    assert at == len(data) and sum(decoder.lines.values()) == 400


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("name", ["x.txt", "x.txt.gz"])
@pytest.mark.parametrize("alternate", [True, False])
def test_a_megabyte_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], alternate: bool, name: str, order: int) -> None:
    """In a large file the two are found by the sample, in a packed one (no sample) when the second begins; it is reported and said."""
    chance = random.Random(0)
    lines = ["".join(chance.choices(SIMPLIFIED, k=chance.randrange(5, 60))) + "\n" for _ in range(14000)]
    codecs = ("utf-8", "gb18030")
    data = b"".join(line.encode(codecs[(i % 2 if alternate else i >= 7000) ^ order]) for i, line in enumerate(lines))
    assert len(data) > 1_000_000
    text, entry = clean_one(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data)
    assert text == "".join(lines) and entry["encoding"] == "utf-8 + gb18030"
    assert (entry["status"], entry["kept"], entry["dropped"]) == ("ok", len(data), {})
    counts = entry["encoding_lines"]
    assert isinstance(counts, dict) and set(counts) == {"utf-8", "gb18030"}
    assert "lines in two encodings" in capsys.readouterr().err


@pytest.mark.parametrize("order", [0, 1])
def test_a_second_encoding_that_begins_late(order: int) -> None:
    """Without a sample the first chunks are of one kind; from the chunk that holds the other, lines are read each in its own."""
    codecs = ("utf-8", "gb18030")
    data = "".join(LINES).encode(codecs[order]) + "".join(LINES).encode(codecs[1 - order])
    text, size, encoding = read(data, 2000)
    assert (text, size, encoding) == ("".join(LINES) * 2, len(data), "utf-8 + gb18030")


def test_tiny_files() -> None:
    """Two lines are enough, with or without a last newline, and in JSONL."""
    for first, second in (("utf-8", "gb18030"), ("gb18030", "utf-8")):
        for end in ("", "\n", "\r\n"):
            data = ("今天天气很好\n".encode(first)) + ("我们去公园" + end).encode(second)
            assert read(data, 100) == ("今天天气很好\n我们去公园" + end, len(data), "utf-8 + gb18030")


def test_rows_in_two_encodings(tmp_path: Path) -> None:
    """JSONL put together from both kinds is read row by row."""
    rows = [f'{{"id": "甲", "text": "{line.strip()}\\n"}}\n'.encode(("utf-8", "gb18030")[i % 2]) for i, line in enumerate(LINES)]
    text, entry = clean_one(tmp_path, "x.jsonl", b"".join(rows))
    assert text == "".join(LINES) and entry["documents"] == 400 and entry["status"] == "ok"


@pytest.mark.parametrize("order", [0, 1])
def test_very_long_lines(order: int) -> None:
    """A line longer than what is held is passed on in parts, all in the line's own encoding."""
    codecs = ("utf-8", "gb18030")
    lines = [SIMPLIFIED * 8000 + "\n", SIMPLIFIED + "\n"] * 2
    data = b"".join(line.encode(codecs[i % 2 ^ order]) for i, line in enumerate(lines))
    decoder = Decoder(lambda: data)
    pieces = list(decoder.decode(data[i:i + 50001] for i in range(0, len(data), 50001)))
    assert "".join(piece.text for piece in pieces) == "".join(lines)
    assert sum(piece.size() for piece in pieces) == len(data) and max(len(piece.text) for piece in pieces) < 150_000


def test_pure_files_stay_pure() -> None:
    """Chance lines, foreign words and broken bytes do not make a file mixed."""
    chance = random.Random(1)
    names = "".join(chr(0x4E00 + chance.randrange(0x5200)) * chance.randrange(1, 3) + chance.choice(SIMPLIFIED) + "\n" for _ in range(4000))
    assert read(names.encode("gb18030"), 30000)[::2] == (names, "gb18030")
    broken = bytearray("".join(LINES).encode())
    for at in chance.sample(range(len(broken)), 60):
        if broken[at] > 127:
            broken[at] = chance.randrange(128, 256)
    assert read(bytes(broken), 3000)[2] == "utf-8"
    western = b"caf\xc3\xa9 \xe2\x80\x99\n" * 50 + b"caf\xe9 na\xefve\n" * 50
    assert find_second(western) == find_second(western, "utf-8") == ""
    assert find_second(RUSSIAN.encode() + b"\n" + RUSSIAN.encode("cp1251")) == ""
    mixed = b"".join(line.encode(("utf-8", "gb18030")[i % 2]) for i, line in enumerate(LINES))
    assert {piece.codec for piece in Decoder(encoding="gb18030").decode([mixed])} == {"gb18030"}


def test_other_lines_of_a_mixed_file() -> None:
    """A broken UTF-8 line stays UTF-8, a GB18030 line that is valid UTF-8 is told by its characters, accents are no Chinese."""
    mixed = b"".join(line.encode(("utf-8", "gb18030")[i % 2]) for i, line in enumerate(LINES))
    odd = [(SIMPLIFIED.encode() + b"\xff", SIMPLIFIED + "\udcff"), ("么没么".encode("gb18030"), "么没么"),
           ("sûr, hôtel, für".encode(), "sûr, hôtel, für"), ("Привет, как дела?".encode(), "Привет, как дела?")]
    data = mixed + b"".join(line + b"\n" for line, _ in odd)
    assert read(data, 1 << 20) == ("".join(LINES) + "".join(text + "\n" for _, text in odd), len(data), "utf-8 + gb18030")


PART = st.one_of(st.binary(max_size=9), st.sampled_from(LINES).map(str.encode), st.sampled_from(LINES).map(lambda s: s.encode("gb18030")),
                 st.sampled_from(LINES).map(lambda s: s.encode("gb18030")[:-2]), st.text(max_size=9).map(str.encode), st.just(b"\n"))


@settings(deadline=None, max_examples=100)
@given(st.lists(PART, max_size=30), st.integers(1, 300), st.booleans())
def test_every_byte_is_accounted_for(parts: list[bytes], step: int, whole: bool) -> None:
    """Pieces tile the file whatever the bytes, and good text is the bytes at its place."""
    data = LINES[0].encode() + b"".join(parts)
    decoder = Decoder((lambda: data) if whole else None)
    at = -1
    for piece in decoder.decode(data[i:i + step] for i in range(0, len(data), step)):
        at = decoder.bom if at < 0 else at
        assert piece.segments[0].offset == at
        if not any("\udc00" <= c <= "\udcff" for c in piece.text):
            assert data[at:at + piece.size()].decode(piece.codec) == piece.text
        at += piece.size()
    assert at == len(data) == decoder.read


@settings(deadline=None, max_examples=15)
@given(st.lists(PART, max_size=30))
def test_a_mixed_file_balances(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    """Through the whole stage, in = kept + dropped and spans add up, in every format of lines and in HTML."""
    folder = tmp_path_factory.mktemp("mixed")
    data = LINES[0].encode() + LINES[1].encode("gb18030") + b"".join(parts)
    for suffix in ("txt", "jsonl", "csv", "html"):
        (folder / f"x.{suffix}").write_bytes(data)
    (folder / "good.txt").write_text("always here")
    (folder / "out").mkdir()
    clean(sorted(p for p in folder.iterdir() if p.is_file()), folder / "out", CleanOptions(deduplicate=False))
    check(folder / "out")
