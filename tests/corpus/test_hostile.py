"""A tree of 100 hostile inputs and inputs far larger than memory: exit 0, a reason for each, memory bounded."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.corpus.test_clean import check

LIMIT_MB = 1024
PROSE = "".join(f"Line {i}: the quick brown fox, 第{i}行，今天天气很好。\n" for i in range(3000))


# A process's recorded peak begins with that of the process that started it, so a small one stands between.
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[2:], stdout=open(sys.argv[1], "w"))
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run_clean(source: Path, out: Path) -> tuple[dict[str, Any], float, float]:
    """Run the command in a process of its own; returns its JSON, its peak memory in MB and its seconds."""
    began, answer = time.monotonic(), out.parent / "answer.json"
    command = [sys.executable, "-m", "myna", "clean", str(source), "--out", str(out), "--json"]
    done = subprocess.run([sys.executable, "-c", MEASURE, str(answer), *command], check=True, stdout=subprocess.PIPE)
    return json.loads(answer.read_text(encoding="utf-8")), int(done.stdout) / 1024, time.monotonic() - began


def bomb(path: Path, size: int) -> None:
    """Write a gzip file that holds `size` bytes of the letter a."""
    with gzip.open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(b"a" * (1 << 20))


def write_hostile(root: Path, line: int) -> int:
    """Write the tree; returns how many paths should be in the report."""
    chance = random.Random(1)
    data = PROSE.encode()
    root.mkdir()
    packers = {"gz": lambda b: gzip.compress(b, mtime=0), "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}
    files: dict[str, bytes] = {
        "good.txt": b"0\n" + data,
        "bad-utf8.txt": b"1\n" + data[:5000] + b"\xff\xc3\x28" + data[5000:],
        "utf16.txt": ("2\n" + PROSE).encode("utf-16"),
        "utf16be.txt": ("3\n" + PROSE).encode("utf-16-be"),
        "odd-utf16.txt": ("4\n" + PROSE).encode("utf-16-le") + b"\x41",
        "utf32.txt": PROSE.encode("utf-32"),
        "gb18030.txt": ("5\n" + PROSE).encode("gb18030"),
        "nul.txt": b"6\n\0" + data + b"\0\0",
        "all-nul.txt": b"\0" * 100000,
        "binary": chance.randbytes(100000),
        "binary.txt": chance.randbytes(100000),
        "picture.png": b"\x89PNG" + chance.randbytes(999),
        "program": b"\x7fELF" + bytes(5000),
        "empty.txt": b"",
        "empty.jsonl": b"",
        "empty.csv": b"",
        "empty.html": b"",
        "empty.parquet": b"",
        "blank.txt": b" \n\t\n",
        "bom-only.txt": b"\xef\xbb\xbf",
        "one-byte.txt": b"\xe4",
        "half-bom.txt": b"\xff",
        "lone-cr.txt": b"a\rb\rc\r",
        "no-end.txt": b"no newline",
        "controls.txt": bytes(range(128)) + b" text" * 200,
        "partial.jsonl": b'{"text": "row one"}\n{"text": "row two"}\n{"text": "ro',
        "garbage.jsonl": chance.randbytes(50000),
        "deep.jsonl": b'{"text": ' + b"[" * 100000 + b'\n{"text": "fine"}\n',
        "list.jsonl": b'["text"]\n[1, 2]\n',
        "numbers.jsonl": b'{"text": "n", "x": ' + b"9" * 100000 + b"}\n",
        "surrogates.jsonl": b'{"text": "a\\ud800\\udfff\\udc00 lone"}\n',
        "array.json": b'[{"text": "a"}]',
        "unclosed.csv": b'id,text\n1,"never closed\n' + data,
        "ragged.csv": b"id,text\n1\n2,two,3\n\n,,\n4,four\n",
        "nul.csv": b"id,text\n1,a\0b\n",
        "bad.parquet": b"PAR1" + chance.randbytes(1000) + b"PAR1",
        "not.parquet": b"just text",
        "rss.xml": b"<?xml version='1.0'?><rss></rss>",
        "laughs.xml": b"<?xml version='1.0'?>\n<!DOCTYPE a [<!ENTITY b 'cc'><!ENTITY d '&b;&b;'>]><mediawiki>&d;</mediawiki>",
        "cut-wiki.xml": b"<mediawiki><page><ns>0</ns><revision><text>A page.</text></revision></page><page><title>x",
        "bad.html": b"<html><body><p>Fine text.</p><a href='never closed><p>" + b"<" * 10000,
        "comment.html": b"<!-- never closed" + data,
        "big.html": b"<html>" + b"<p>x</p>" * 1_200_000,
        "tags.html": b"<div>" * 100000 + b"deep",
        "tar.tar": b"x" * 257 + b"ustar" + bytes(300),
        "zip.zip": b"PK\x03\x04" + bytes(100),
        "twice.gz": gzip.compress(gzip.compress(data)),
        "junk.gz": gzip.compress(b"7\n" + data) + b"junk",
        "not.gz": b"8 text that is not compressed",
        "line.txt": b"9" + "一行没有换行的很长的文字，".encode() * (line // 39),
        "control-bomb.txt": b"10" + b"\x01 " * 1000 + b"text " * 10000,
        "marks.txt": b"11 e" + "\u0301".encode() * 500000,
        "mojibake.txt": ("12\n" + PROSE).encode().decode("latin-1").encode(),
        "crlf.txt": b"13\r\n" + data.replace(b"\n", b"\r\n"),
        ".hidden.txt": data,
        "new\nline\x1b[31m.txt": b"odd name one",
        "[bold]markup[bold].txt": b"odd name two",
        "trailing space .txt": b"odd name three",
        "-rf.txt": b"odd name four",
        "\u4e2d\u6587.TXT": b"odd name five",
        "x" * 240 + ".txt": b"odd name six",
        "noextension": b"text without extension",
        "a.tar.txt.html.md": b"many dots",
    }
    for kind, pack in packers.items():
        packed = pack(data)
        for i in range(8):
            files[f"cut{i}.txt.{kind}"] = packed[: len(packed) * (i + 1) // 9]
        files[f"flip.{kind}"] = packed[: len(packed) // 2] + bytes([packed[len(packed) // 2] ^ 255]) + packed[len(packed) // 2 + 1 :]
    for name, content in files.items():
        (root / name).write_bytes(content)
    Path(os.fsdecode(os.fsencode(root) + b"/bad-name-\xff.txt")).write_bytes(b"a name that is not UTF-8")
    bomb(root / "bomb.gz", 80 << 20)
    bomb(root / "bomb.jsonl.gz", 80 << 20)
    (root / "bomb.bz2").write_bytes(bz2.compress(b"a" * (40 << 20)))
    (root / "bomb.zst").write_bytes(zstandard.compress(b"a" * (40 << 20)))
    pq.write_table(pa.table({"text": pa.array(["x" * (1 << 20)] * 60)}), root / "repeats.parquet")
    deep = root.joinpath(*["d"] * 60)
    deep.mkdir(parents=True)
    (deep / "deep.txt").write_text("deep down")
    os.mkfifo(root / "pipe.txt")
    (root / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "gone.txt").symlink_to(root / "nothing")
    (root / "zagain.txt").symlink_to(root / "good.txt")
    (root / "unreadable.txt").write_text("secret")
    (root / "unreadable.txt").chmod(0)
    where = Path.cwd()
    os.chdir(root)  # a socket's path may have about 100 characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.txt")
    os.chdir(where)
    return len(files) + 6 + 8 - 0


def check_hostile(tmp_path: Path, line: int) -> None:
    """Clean the tree and check each file's fate, the account and the memory."""
    expected = write_hostile(tmp_path / "in", line)
    value, peak, seconds = run_clean(tmp_path / "in", tmp_path / "out")
    print(f"{len(value['files'])} inputs in {seconds:.1f} s, {peak:.0f} MB")
    assert peak < LIMIT_MB
    check(tmp_path / "out")
    assert len(value["files"]) == expected >= 100
    fate = {Path(file["path"]).name: file for file in value["files"]}
    for name in (
        "good.txt",
        "utf16.txt",
        "utf16be.txt",
        "gb18030.txt",
        "nul.txt",
        "crlf.txt",
        "lone-cr.txt",
        "line.txt",
        "mojibake.txt",
        "marks.txt",
        "not.gz",
        "deep.txt",
        "noextension",
        "numbers.jsonl",
        "[bold]markup[bold].txt",
        "中文.TXT",
        "surrogates.jsonl",
    ):
        assert fate[name]["status"] == "ok", fate[name]
    for name in (
        "bad-utf8.txt",
        "odd-utf16.txt",
        "partial.jsonl",
        "deep.jsonl",
        "ragged.csv",
        "cut-wiki.xml",
        "junk.gz",
        "cut5.txt.gz",
        "cut6.txt.gz",
    ):
        assert fate[name]["status"] == "partial" and fate[name]["documents"], fate[name]
    for name, reason in {
        "binary": "binary",
        "binary.txt": "binary",
        "all-nul.txt": "binary",
        "picture.png": "image",
        "program": "program",
        "empty.txt": "empty",
        "blank.txt": "empty",
        "bad.parquet": "damaged",
        "laughs.xml": "document type",
        "rss.xml": "not a MediaWiki",
        "big.html": "more than 8 MiB",
        "bomb.gz": "bomb",
        "bomb.jsonl.gz": "bomb",
        "bomb.bz2": "bomb",
        "bomb.zst": "bomb",
        "twice.gz": "twice",
        "pipe.txt": "pipe",
        "socket.txt": "socket",
        "loop": "loop",
        "self": "itself",
        "gone.txt": "nothing",
        "zagain.txt": "already read",
        ".hidden.txt": "hidden",
        "array.json": "JSON",
        "tar.tar": "tar",
        "zip.zip": "zip",
        "list.jsonl": "no text",
    }.items():
        assert fate[name]["status"] == "rejected" and reason in fate[name]["reason"], fate[name]
    if os.geteuid():
        assert "unreadable" in fate["unreadable.txt"]["reason"]
    text = (tmp_path / "out" / "text.utf8").read_text(encoding="utf-8")
    assert not set(text) & {"\0", "\r", "\ufeff", "\ufffd"}


def test_hostile_tree(tmp_path: Path) -> None:
    """Every input ends ok, partial or rejected with a reason; a 20 MB line and several bombs stay under 1 GiB."""
    check_hostile(tmp_path, 20_000_000)


@pytest.mark.slow
def test_hostile_tree_with_a_150_mb_line(tmp_path: Path) -> None:
    """The same with a line of 150 MB, and rows of 150 MB in JSONL and CSV."""
    check_hostile(tmp_path, 150_000_000)
    source = tmp_path / "rows"
    source.mkdir()
    (source / "a.jsonl").write_text('{"text": "' + "long " * 30_000_000 + '"}\n{"text": "fine"}\n')
    (source / "a.csv").write_text('id,text\n1,"' + "long " * 30_000_000 + '"\n2,good\n')
    value, peak, _ = run_clean(source, tmp_path / "rows-out")
    assert peak < LIMIT_MB and value["totals"]["documents"] == 2
    assert value["totals"]["dropped"]["row too long"] > 290_000_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["english", "chinese", "gb18030", "jsonl", "gz"])
def test_one_gigabyte(tmp_path: Path, kind: str) -> None:
    """1 GB of text (256 MB packed for gz): memory bounded, throughput printed."""
    words = [f"word{i}" for i in range(5000)] if kind in ("english", "jsonl", "gz") else [chr(0x4E00 + i) * 2 for i in range(3000)]
    chance, path, size = random.Random(0), tmp_path / f"in.{'jsonl' if kind == 'jsonl' else 'txt'}", 0
    with gzip.open(path, "wb", compresslevel=1) if kind == "gz" else path.open("wb") as file:
        while size < (256_000_000 if kind == "gz" else 1_000_000_000):
            lines = ["".join if kind in ("chinese", "gb18030") else " ".join][0]
            text = "".join(lines(chance.choices(words, k=300)) + "\n" for _ in range(500))
            data = text.encode("gb18030" if kind == "gb18030" else "utf-8")
            if kind == "jsonl":
                data = b"".join(json.dumps({"text": row}).encode() + b"\n" for row in text.splitlines())
            for _ in range(8):
                file.write(data.replace(b"word7", f"word{size}".encode()) if kind == "jsonl" else data)
                size += len(data)
    value, peak, seconds = run_clean(path, tmp_path / "out")
    print(f"{kind}: {size / 1e6 / seconds:.1f} MB/s, {peak:.0f} MB")
    assert value["totals"]["bytes"] >= size and value["totals"]["status"] == {"ok": 1}
    assert peak < LIMIT_MB
