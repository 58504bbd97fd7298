"""Directories that are whole or absent: atomic writes, hashes, manifests and the lock of a run.

Every stage writes a directory whose `manifest.json` comes last; a directory without a valid manifest does not exist.
The order (files, fsync, manifest, fsync, rename, fsync of the parent) is the one SQLite and LevelDB document for
surviving a power cut.

    with new_directory(Path("corpus")) as folder:
        (folder / "text.utf8").write_bytes(b"...")
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from myna.errors import UserError

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    """Hash a file's bytes; hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file: the reader sees the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    fsync(temporary)
    temporary.replace(path)
    fsync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: UTF-8, two spaces, keys in the order given, floats exact, no NaN."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # a file name that is no text keeps its bytes, as \\udcff


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Read a whole file, never a pipe or a device, which might not end; a link to a file is followed. most: bytes it may have.

    Raises UserError when there is none, it is no file, or it is larger.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: never wait on a FIFO
    except FileNotFoundError:
        raise UserError(f"no file {path}", "a file written by Myna", "check the path") from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is no regular file", "a file", "check the path")
        if most is not None and status.st_size > most:
            raise UserError(f"{path} has {status.st_size:,} bytes", f"at most {most:,}", "restore the file")
        return file.read(status.st_size)  # and no more: files of /proc have no size and may never end


def read_json(path: Path, most: int | None = None) -> Any:
    """Read JSON, or raise a UserError that names the file and the place. most: bytes that the file may have."""
    try:
        return json.loads(read_regular(path, most).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})", "JSON in UTF-8", "restore the file or make it again") from None


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill a temporary directory, then put it in the place of `path` in one rename; on an error nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # a run was killed between the two renames below
        old.rename(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            fsync(file)
        fsync(temporary)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                old.rename(path)
                raise
        else:
            temporary.rename(path)
        fsync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_manifest(folder: Path, stage: str, inputs: dict[str, str], options: dict[str, Any]) -> None:
    """Write `manifest.json`: what made this directory. Call it last.

    inputs: name to SHA-256 of what the stage read. options: its resolved options.
    """
    from myna import __version__

    outputs = {str(f.relative_to(folder)): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    value = {"stage": stage, "version": __version__, "argv": sys.argv, "inputs": inputs, "options": options, "outputs": outputs}
    write_json(folder / MANIFEST, value)


def find_damage(folder: Path) -> str:
    """Say what is wrong with a finished directory: a file of its manifest missing or with other bytes. Empty when it is whole."""
    try:
        outputs = read_json(folder / MANIFEST)["outputs"]
        for name, expected in outputs.items():
            if sha256(folder / name) != expected:
                return f"{name}: its SHA-256 is not the one in {MANIFEST}"
    except UserError as error:
        return error.got
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return f"{MANIFEST}: not a manifest"
    return ""


def same_manifest(folder: Path, stage: str, inputs: dict[str, str], options: dict[str, Any]) -> bool:
    """Tell whether `folder` was finished by this stage from the same inputs and options.

    Returns False when there is no manifest. Raises UserError, with the difference, when it was made from others.
    """
    if not (folder / MANIFEST).is_file():
        return False
    found = read_json(folder / MANIFEST)
    wanted = {"stage": stage, "inputs": inputs, "options": options}
    for key, value in json.loads(json.dumps(wanted)).items():
        if found.get(key) != value:
            raise UserError(f"{folder} was made with other {key}: {_difference(found.get(key), value)}",
                            "the same inputs and options as before", "choose another --out, or delete the directory")
    return True


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        shown = ", ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in keys[:3])
        return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    return f"was {old!r}, now {new!r}"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a directory for this process (flock, so a killed run leaves no lock). Raises UserError when another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another run is writing {folder}", "one run per directory", "wait for it or choose another --out") from None
        yield


class BrokenFileError(Exception):
    """A file cannot be read to its end: it is cut, corrupt, or expands like a decompression bomb (`bomb`)."""

    def __init__(self, reason: str, bomb: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.bomb = reason, bomb


class RawFile:
    """A regular file read once from start to end while its SHA-256 is taken; `peek` looks ahead without moving."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: never wait on a FIFO
        self.size = os.fstat(self._handle).st_size
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; b'' at the end."""
        data = os.read(self._handle, size)
        self._digest.update(data)
        return data

    def peek(self, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset` of the file as it lies on the disk."""
        return os.pread(self._handle, size, offset)

    def sha256(self) -> str:
        """Read whatever is left and return the hash of the whole file."""
        while self.read(1 << 20):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_PIECE = 1 << 20  # bytes handed on at a time
_MEMORY = 256 << 20  # what a decompressor may take: `xz -9` needs 65 MiB, `zstd --long=27` 128 MiB
_ZSTD_FEED = 512  # a zstd run-length block gives 128 KiB for 4 bytes (RFC 8878, 3.1.1.2), so at most 16 MiB per call
_BOMB_RATIO = 500  # text compresses 3 to 30 times, logs about 100; deflate's own limit is 1032, which one repeated byte reaches
_BOMB_AFTER = 32 << 20  # bytes out before the ratio is judged, so that small repetitive files pass


def compression(head: bytes) -> str:
    """Name the compression of a file from its first bytes: 'gz', 'bz2', 'xz', 'zst' or ''."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def read_chunks(file: RawFile) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed when its first bytes say so, in chunks of at most about 16 MiB.

    Raises BrokenFileError after the last good bytes when the stream is cut, corrupt, too costly, or a decompression bomb.
    """
    kind = compression(file.peek(0, 6))
    chunks = _decompress(file, kind) if kind else iter(lambda: file.read(_PIECE), b"")
    try:
        yield from chunks
    except OSError as error:
        raise BrokenFileError(f"cannot be read to its end ({error.strerror or error})") from None


def _decompress(file: RawFile, kind: str) -> Iterator[bytes]:
    import bz2
    import lzma
    import zlib

    import zstandard

    steps = {"gz": _gzip_step, "bz2": _bounded_step, "xz": _bounded_step, "zst": _zstd_step}
    step: Callable[[Any, bytes], tuple[bytes, bytes]] = steps[kind]
    make: Callable[[], Any] = {
        "gz": lambda: zlib.decompressobj(31), "bz2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(memlimit=_MEMORY),
        "zst": lambda: zstandard.ZstdDecompressor(max_window_size=_MEMORY // 2).decompressobj(),
    }[kind]
    engine, waiting, read, written = make(), b"", 0, 0
    first = True  # no byte of the current member has been seen
    while True:
        if not waiting:
            waiting = file.read(_ZSTD_FEED * 128)
            read += len(waiting)
            if not waiting:
                break
        if first and compression(waiting + file.peek(read, 6)) != kind:
            if waiting.strip(b"\0"):  # zero padding after the last member is usual on tapes
                raise BrokenFileError(f"bytes after the end of the .{kind} data")
            waiting = b""
            continue
        first = False
        try:
            out, waiting = step(engine, waiting)
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError, MemoryError) as error:
            raise BrokenFileError(f"corrupt .{kind} data ({error})") from None
        written += len(out)
        if written > _BOMB_AFTER and written > _BOMB_RATIO * read:
            raise BrokenFileError(f"expands more than {_BOMB_RATIO}-fold: a decompression bomb", bomb=True)
        if out:
            yield out
        if engine.eof:
            engine, first = make(), True
    if kind == "gz" and not first and (out := engine.flush()):  # what zlib still held when the input ended
        yield out
    if not first and not engine.eof:
        raise BrokenFileError(f"cut short: the .{kind} data has no end")


def _gzip_step(engine: Any, data: bytes) -> tuple[bytes, bytes]:
    out = engine.decompress(data, _PIECE)
    return out, engine.unconsumed_tail or engine.unused_data


def _bounded_step(engine: Any, data: bytes) -> tuple[bytes, bytes]:
    """bz2 and lzma keep what they have not used, so feed them nothing while they still hold input."""
    out = engine.decompress(data if engine.needs_input else b"", _PIECE)
    if engine.eof:
        return out, engine.unused_data
    return out, b"" if engine.needs_input else data


def _zstd_step(engine: Any, data: bytes) -> tuple[bytes, bytes]:
    out = engine.decompress(data[:_ZSTD_FEED])
    return out, engine.unused_data + data[_ZSTD_FEED:] if engine.eof else data[_ZSTD_FEED:]
