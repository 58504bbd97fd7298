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
import sys
from collections.abc import Iterator
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
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or raise a UserError that names the file and the place."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}", "a file written by Myna", "check the path") from None
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
