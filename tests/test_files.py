"""Files and directories: atomic writes, whole or absent directories, manifests, the lock, and compressed input."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from myna.errors import UserError
from myna.files import (
    MANIFEST,
    BrokenFileError,
    RawFile,
    compression,
    find_damage,
    lock,
    new_directory,
    read_chunks,
    read_json,
    same_manifest,
    sha256,
    write_atomic,
    write_json,
    write_manifest,
)

TEXT = "Once upon a time 你好\n".encode() * 5000
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sha256_is_the_known_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-4's example
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_atomic_write_that_fails_leaves_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new" and names(tmp_path) == ["a.json"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("myna.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "newer")
    assert path.read_bytes() == b"new"


def test_json_is_exact_utf8_and_has_no_nan(tmp_path: Path) -> None:
    value = {"b": 0.1 + 0.2, "a": "你好\n", "c": [1e-320, 2**60]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value and list(read_json(tmp_path / "x.json")) == ["b", "a", "c"]
    assert "你好" in (tmp_path / "x.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "y.json", float("nan"))
    assert not (tmp_path / "y.json").exists()


def test_json_holds_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff.txt")
    write_json(tmp_path / "x.json", {"argv": [name]})
    assert read_json(tmp_path / "x.json") == {"argv": [name]}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_a_user_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="no file"):
        read_json(tmp_path / "absent.json")


def test_a_new_directory_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "made"
    with pytest.raises(RuntimeError), new_directory(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with new_directory(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
    assert (path / "sub" / "a").read_text() == "1" and names(path.parent) == ["made"]


def test_a_new_directory_replaces_the_old_one_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "made"
    for content in ("1", "2"):
        with new_directory(path) as folder:
            (folder / content).write_text(content)
            assert not path.exists() or names(path) == ["1"]
    with pytest.raises(KeyboardInterrupt), new_directory(path):
        raise KeyboardInterrupt
    assert names(path) == ["2"] and names(tmp_path) == ["made"]


def test_what_killed_runs_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".made.tmp").mkdir()
    (tmp_path / ".made.tmp" / "half").write_text("x")
    (tmp_path / ".made.old").mkdir()  # killed between the two renames: the old one goes back
    (tmp_path / ".made.old" / "old").write_text("x")
    with pytest.raises(RuntimeError), new_directory(tmp_path / "made") as folder:
        assert names(folder) == []
        raise RuntimeError
    assert names(tmp_path / "made") == ["old"]
    with new_directory(tmp_path / "made") as folder:
        (folder / "new").write_text("y")
    assert names(tmp_path / "made") == ["new"] and names(tmp_path) == ["made"]


def make_stage(folder: Path) -> Path:
    with new_directory(folder) as new:
        (new / "data").write_bytes(b"x" * 100)
        write_manifest(new, "clean", {"a.txt": "1" * 64}, {"min_chars": 1, "sizes": (1, 2)})
    return folder


def test_a_manifest_tells_the_same_from_the_changed(tmp_path: Path) -> None:
    folder = make_stage(tmp_path / "made")
    assert same_manifest(folder, "clean", {"a.txt": "1" * 64}, {"min_chars": 1, "sizes": (1, 2)})
    assert not same_manifest(tmp_path / "absent", "clean", {}, {})
    with pytest.raises(UserError, match=r"other options: min_chars was 1, now 2"):
        same_manifest(folder, "clean", {"a.txt": "1" * 64}, {"min_chars": 2, "sizes": (1, 2)})
    with pytest.raises(UserError, match=r"other inputs: a\.txt was '1.*b\.txt was None"):
        same_manifest(folder, "clean", {"b.txt": "2" * 64}, {"min_chars": 1, "sizes": (1, 2)})
    with pytest.raises(UserError, match="other stage: was 'clean', now 'tokenize'"):
        same_manifest(folder, "tokenize", {"a.txt": "1" * 64}, {"min_chars": 1, "sizes": (1, 2)})


def test_damage_is_found(tmp_path: Path) -> None:
    folder = make_stage(tmp_path / "made")
    assert find_damage(folder) == ""
    (folder / "data").write_bytes(b"x" * 99 + b"y")
    assert "data: its SHA-256" in find_damage(folder)
    (folder / "data").unlink()
    assert "data: No such file" in find_damage(folder)
    for text in ("", "[]", "{}", '{"outputs": 3}'):
        (folder / MANIFEST).write_text(text)
        assert MANIFEST in find_damage(folder)


def test_a_lock_is_held_by_one_process_and_dies_with_it(tmp_path: Path) -> None:
    code = ("from pathlib import Path\nfrom myna.files import lock\n"
            f"with lock(Path({str(tmp_path)!r})):\n print('held', flush=True)\n input()")
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              cwd=Path(__file__).parent.parent)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another run is writing"), lock(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with lock(tmp_path):
        pass


def read_all(path: Path) -> bytes:
    return b"".join(read_chunks(RawFile(path)))


@pytest.mark.parametrize("kind", PACK)
def test_compressed_files_are_known_by_their_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "no-suffix"
    path.write_bytes(PACK[kind](TEXT) + PACK[kind](b"second member"))
    assert compression(path.read_bytes()[:6]) == kind
    assert read_all(path) == TEXT + b"second member"
    file = RawFile(path)
    list(read_chunks(file))
    assert file.sha256() == sha256(path)


@pytest.mark.parametrize("kind", PACK)
def test_what_comes_before_the_damage_is_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut"
    packed = PACK[kind](TEXT)
    for data, said in ((packed[:-5], "cut short|corrupt"), (packed + b"garbage here", "after the end")):
        path.write_bytes(data)
        found = b""
        with pytest.raises(BrokenFileError, match=said):
            for chunk in read_chunks(RawFile(path)):
                found += chunk
        assert TEXT.startswith(found) and (found == TEXT or data == packed[:-5])


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20), 9))
    size = 0
    with pytest.raises(BrokenFileError, match="bomb") as error:
        for chunk in read_chunks(RawFile(path)):
            size += len(chunk)
    assert error.value.bomb and size < 64 << 20


def test_a_file_without_compression_is_itself(tmp_path: Path) -> None:
    for data in (b"", b"plain", b"\x1f"):
        (tmp_path / "a").write_bytes(data)
        assert read_all(tmp_path / "a") == data and compression(data) == ""


def test_the_manifest_lists_every_output(tmp_path: Path) -> None:
    manifest = json.loads((make_stage(tmp_path / "made") / MANIFEST).read_text())
    assert manifest["outputs"] == {"data": sha256(tmp_path / "made" / "data")} and manifest["stage"] == "clean"
