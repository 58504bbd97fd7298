"""The whole stage: in = kept + dropped, cleaned text leads back to its bytes, same inputs give the same bytes."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.cli.main import main
from myna.corpus.clean import clean, prepare_corpus
from myna.corpus.options import CleanOptions, SplitOptions
from myna.corpus.store import Corpus
from myna.files import compression, write_manifest

PROSE = "".join(f"Sentence number {i} is here, and it is 第{i}句。\n\n" for i in range(400))


def check(out: Path) -> Corpus:
    """Check the account of every file and of the whole, and that spans add up to what was kept."""
    if not (out / "manifest.json").is_file():
        write_manifest(out, "clean", {}, {})
    corpus = Corpus.open(out)
    for number, file in enumerate(corpus.files):
        assert file["bytes"] == file["kept"] + sum(file["dropped"].values()), file
        assert file["kept"] == int(corpus.spans["size"][corpus.spans["file"] == number].sum()), file
        assert file["status"] in ("ok", "partial", "rejected") and (file["status"] == "ok" or file["reason"])
    totals = corpus.report["totals"]
    assert totals["bytes"] == totals["kept"] + sum(totals["dropped"].values())
    starts, ends = corpus.documents["start"], corpus.documents["end"]
    assert starts[0] == 0 and (starts[1:] == ends[:-1]).all() and ends[-1] == (out / "text.utf8").stat().st_size
    assert (np.diff(corpus.spans["start"]) > 0).all() and np.isin(starts, corpus.spans["start"]).all()
    return corpus


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(
    st.binary(max_size=12), st.text(max_size=12).map(str.encode),
    st.sampled_from([b"\r\n", "中文".encode("gb18030"), "e\u0301".encode(), b"\xef\xbb\xbf", "C’était".encode() * 2])), max_size=40))
def test_any_bytes_are_accounted_for(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    """Whatever the bytes and the format, every byte of every file is kept or dropped."""
    folder = tmp_path_factory.mktemp("any")
    data = b"".join(parts)
    for suffix in ("txt", "html", "jsonl", "csv", "unknown"):
        (folder / f"x.{suffix}").write_bytes(data)
    (folder / "x.txt.gz").write_bytes(gzip.compress(data, mtime=0)[:-4])
    (folder / "good.txt").write_text("always here")
    (folder / "out").mkdir()
    clean([p for p in folder.iterdir() if p.is_file()], folder / "out", CleanOptions(deduplicate=False))
    corpus = check(folder / "out")
    for file in corpus.files:
        if file["path"].endswith((".html", ".unknown", "x.txt")) and not compression(data):  # what is packed counts unpacked
            assert file["bytes"] == len(data)


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "big5", "utf-16", "cp1252", "utf-8-sig"])
def test_cleaned_text_leads_back_to_its_bytes(tmp_path: Path, codec: str) -> None:
    """At every span start, and anywhere in untouched UTF-8, the source offset holds the character."""
    line = "Sentence {} — naïve café.\r\n" if codec == "cp1252" else "第{}句：深入學習自然語言，今天天氣很好。\0\r\nplain\n"
    data = "".join(line.format(i) for i in range(3000)).encode(codec)
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "out").mkdir()
    clean([tmp_path / "a.txt"], tmp_path / "out", CleanOptions())
    corpus = check(tmp_path / "out")
    text = (tmp_path / "out" / "text.utf8").read_bytes()
    plain = {"utf-16": "utf-16-le", "utf-8-sig": "utf-8"}.get(codec, codec)
    assert len(corpus.spans) > len(text) / 5000
    for span in corpus.spans[np.random.default_rng(0).integers(0, len(corpus.spans), 200)]:
        start = int(span["start"])
        character = text[start:start + 4].decode("utf-8", "ignore")[0]
        offset = int(span["offset"])
        assert corpus.source(start) == (0, offset)
        source = data[offset:offset + 4].decode(plain, "ignore")
        assert source[0] == character or (character == "\n" and source.startswith(("\r\n", "\n")))


def test_any_byte_of_untouched_utf8_maps_exactly(tmp_path: Path) -> None:
    """Every byte, not only span starts."""
    (tmp_path / "a.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "b.txt").write_text("前" + PROSE, encoding="utf-8")
    (tmp_path / "out").mkdir()
    clean([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out", CleanOptions())
    corpus = check(tmp_path / "out")
    size = len(PROSE.encode())
    for byte in range(0, 2 * size + 3, 37):
        assert corpus.source(byte) == ((0, byte) if byte < size else (1, byte - size))


def write_tree(folder: Path) -> None:
    """A small mixed folder: two encodings, an escape-heavy JSONL, duplicates."""
    folder.mkdir()
    zh = "".join(f"第{i}段：今天天气很好，我们一起去公园散步吧。人工智能正在改变世界。\n" for i in range(300))
    (folder / "gb.txt").write_bytes(zh.encode("gb18030"))
    (folder / "utf8.md").write_text(PROSE, encoding="utf-8")
    (folder / "copy.txt").write_text(PROSE, encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {i} 中文\n" * 5}) + "\n" for i in range(200)) + "{bad\n")
    (folder / "same.jsonl").write_text("".join(json.dumps({"text": f"row {i} 中文\n" * 5}, ensure_ascii=False) + "\n" for i in range(200)))


def test_deterministic_duplicates_and_rerun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equal text is kept once whatever its file or escapes; a second run gives the same bytes, and a third is a no-op."""
    write_tree(tmp_path / "in")
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        prepare_corpus([tmp_path / "in"], out, CleanOptions(), SplitOptions())
    names = sorted(p.name for p in outs[0].iterdir())
    assert names == sorted(p.name for p in outs[1].iterdir())
    for name in names:
        a, b = (json.loads((out / name).read_text()) if name == "manifest.json" else (out / name).read_bytes() for out in outs)
        assert a == b, name
    corpus = check(outs[0])
    by_name = {Path(f["path"]).name: f for f in corpus.files}
    assert by_name["gb.txt"]["encoding"] == "gb18030" and by_name["gb.txt"]["status"] == "ok"
    assert by_name["utf8.md"]["reason"] == "duplicate" and by_name["copy.txt"]["status"] == "ok"
    assert by_name["same.jsonl"]["dropped_documents"] == {"duplicate": 200} and by_name["rows.jsonl"]["first_bad_line"] == 201
    assert not any((outs[0] / "text.utf8").read_bytes().count(bad) for bad in ("\ufffd".encode(), b"\r", b"\0"))
    before = (outs[0] / "manifest.json").stat().st_mtime_ns
    assert main(["clean", str(tmp_path / "in"), "--out", str(outs[0]), "--json"]) == 0
    captured = capsys.readouterr()
    assert "already made" in captured.err and json.loads(captured.out)["totals"]["documents"] == 202
    assert (outs[0] / "manifest.json").stat().st_mtime_ns == before
    (tmp_path / "in" / "new.txt").write_text("new")
    assert main(["clean", str(tmp_path / "in"), "--out", str(outs[0])]) == 2
    assert "new.txt" in capsys.readouterr().err


def test_options_are_read(tmp_path: Path) -> None:
    """min_chars, text_key, encoding and deduplicate each change what is kept."""
    (tmp_path / "a.jsonl").write_text('{"text": "ab", "other": "long enough text"}\n' * 2)
    (tmp_path / "b.txt").write_bytes("é" .encode("koi8-r", "ignore") + "привет всем".encode("koi8-r"))

    def texts(**options: object) -> list[str]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        clean([tmp_path / "a.jsonl", tmp_path / "b.txt"], out, CleanOptions(**options))  # type: ignore[arg-type]
        corpus = check(out)
        return [corpus.text(d["start"], d["end"]) for d in corpus.documents]

    assert texts(encoding="koi8-r") == ["ab", "привет всем"]
    assert texts(encoding="koi8-r", min_chars=3) == ["привет всем"]
    assert texts(encoding="koi8-r", deduplicate=False) == ["ab", "ab", "привет всем"]
    assert texts(encoding="koi8-r", text_key="other")[0] == "long enough text"


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing path, no text at all, an unknown option: one line, exit code 2, nothing left behind."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text(" \n")
    for argv, message in (([str(tmp_path / "none")], "no such file"), ([str(tmp_path / "empty")], "no text was kept"),
                          ([str(tmp_path / "empty"), "--min-char", "3"], "did you mean --min-chars"),
                          ([str(tmp_path / "empty"), "--encoding", "utf-99"], "unknown encoding")):
        assert main(["clean", *argv, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a person sees fits 80 columns and names the problem files; a text too small to split is still cleaned."""
    (tmp_path / "a.txt").write_bytes(b"hello\xff world \xe4\xb8\xad\xe6\x96\x87\n")
    assert main(["clean", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "too small for the split" in captured.err
    assert "invalid utf-8" in captured.out and "partial" in captured.out
    assert (tmp_path / "out" / "text.utf8").read_text() == "hello world 中文\n"


def test_kill_leaves_no_half_directory(tmp_path: Path) -> None:
    """SIGKILL at random moments: the directory is absent or whole, and the next run finishes it."""
    source = tmp_path / "in"
    source.mkdir()
    for i in range(40):
        (source / f"{i}.txt").write_text(f"{i}\n" + PROSE * 15, encoding="utf-8")
    out, chance = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "myna", "clean", str(source), "--out", str(out)]
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.2 + chance.random() * 0.6)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not out.exists() or (out / "manifest.json").is_file()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert len(check(out).documents) == 40
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
