"""Find files and read each as a stream of documents, whatever it is: the format by name, else by content.

    for found in walk([Path("my-texts")]):
        print(found.path, found.reason)
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.console import say
from myna.corpus.decode import Decoder, is_binary, sniff_wide
from myna.corpus.html import MAX_HTML, read_html
from myna.corpus.options import CleanOptions
from myna.corpus.piece import END, Drop, End, Piece
from myna.corpus.tables import Notes, read_csv, read_jsonl, read_parquet
from myna.corpus.wiki import read_wiki
from myna.errors import UserError
from myna.files import BrokenFileError, RawFile, compression, read_chunks

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
            ".html": "html", ".htm": "html", ".xhtml": "html", ".txt": "text", ".md": "text"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_HEAD = 65536  # bytes that decide what a file is
_WINDOWS, _WINDOW = 15, 16384  # places in a plain file that the encoding's sample is taken from


@dataclass(frozen=True)
class Found:
    """A path to read, or one that cannot be read and why. `role`: 0 main, 1 valid, 2 test."""

    path: Path
    role: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """The path as text that can always be written (bytes that are no UTF-8 are shown escaped)."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


@dataclass
class Entry:
    """A file's line in the report, filled while it is read. bytes = kept + the sum of dropped, always."""

    path: str
    role: str
    format: str = ""
    compression: str = ""
    encoding: str = ""
    encoding_lines: Counter[str] = field(default_factory=Counter)  # of a mixed file, lines beyond ASCII
    column: str = ""
    bytes: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rewritten: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    dropped_documents: Counter[str] = field(default_factory=Counter)
    bad_rows: int = 0
    first_bad_line: int = 0
    sha256: str = ""
    status: str = "ok"
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the entry for report.json, without the fields that say nothing."""
        value = {k: dict(sorted(v.items())) if isinstance(v, Counter) else v for k, v in vars(self).items()}
        value["dropped"] = {reason: size for reason, size in value["dropped"].items() if size}
        optional = ("compression", "encoding", "encoding_lines", "column", "bad_rows", "first_bad_line", "dropped_documents")
        return {k: v for k, v in value.items() if v or k not in optional}


def walk(inputs: Sequence[Path], role: int = 0) -> Iterator[Found]:
    """Yield every file under the inputs, in order of name; what cannot be read comes with a reason. Raises UserError on a missing input."""
    for path in inputs:
        if not os.path.lexists(path):
            raise UserError(f"no such file or folder: {path}", "text to read", "check the path")
        yield from _walk(path, role, (), named=True)


def _walk(path: Path, role: int, above: tuple[tuple[int, int], ...], named: bool = False) -> Iterator[Found]:
    if path.name.startswith(".") and not named:
        yield Found(path, role, "hidden")
        return
    try:
        status = path.stat()
    except OSError as error:
        yield Found(path, role, "a symbolic link to nothing or to itself" if path.is_symlink() else f"unreadable ({error.strerror})")
        return
    if stat.S_ISREG(status.st_mode):
        yield Found(path, role)
    elif not stat.S_ISDIR(status.st_mode):
        kind = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(status.st_mode), "a device")
        yield Found(path, role, f"{kind}, not a file")
    elif (identity := (status.st_dev, status.st_ino)) in above:
        yield Found(path, role, "a symbolic link loop")
    else:
        try:
            names = sorted(os.listdir(path), key=os.fsencode)  # noqa: PTH208 (Path.iterdir gives no order to sort bytes by)
        except OSError as error:
            yield Found(path, role, f"unreadable ({error.strerror})")
            return
        for name in names:
            yield from _walk(path / name, role, (*above, identity))


class Reader:
    """Reads one file as items (Piece, Drop, END) and fills its report entry.

    `items` raises BrokenFileError where the file cannot be read on; what came before stands.
    """

    def __init__(self, found: Found, entry: Entry, options: CleanOptions) -> None:
        self.found, self.entry, self.options = found, entry, options
        self.file = RawFile(found.path)
        self.read = 0
        self.broken: BrokenFileError | None = None

    def chunks(self) -> Iterator[bytes]:
        """Yield the decompressed bytes, counted; where they break off the stream ends, so that what was read is still used."""
        try:
            for chunk in read_chunks(self.file):
                self.read += len(chunk)
                yield chunk
        except BrokenFileError as error:
            self.broken = error

    def items(self) -> Iterator[Piece | Drop | End]:
        """Yield the file's documents."""
        yield from self._items()
        if self.broken:
            raise self.broken

    def _items(self) -> Iterator[Piece | Drop | End]:
        entry = self.entry
        entry.compression = compression(self.file.peek(0, 6))
        if not entry.compression and self.file.peek(0, 4) == b"PAR1":
            yield from self._parquet()
            return
        chunks = self.chunks()
        head = b""
        for chunk in chunks:
            head += chunk
            if len(head) >= _HEAD:
                break
        if not head:
            raise self.broken or BrokenFileError("empty")
        entry.format = _format(self.found.path, head[:_HEAD])
        forced = self.options.encoding.lower().startswith("utf-16")
        if entry.format != "mediawiki" and not forced and (reason := is_binary(head[:_HEAD])):
            raise BrokenFileError(reason)
        everything = _chain(head, chunks)
        match entry.format:
            case "mediawiki":
                entry.encoding = "utf-8"
                yield from read_wiki(everything, entry.dropped)
            case "html":
                yield from self._html(everything)
            case "text":
                yield from self._decoded(everything)
                if not (self.broken and self.broken.bomb):
                    yield END
            case "parquet":
                raise BrokenFileError("a compressed parquet file" if entry.compression else "damaged parquet (no parquet header)")
            case "jsonl" | "csv" | "tsv":
                yield from self._rows(everything)
            case other:
                raise BrokenFileError(other)

    def _parquet(self) -> Iterator[Piece | Drop | End]:
        self.entry.format, self.entry.encoding = "parquet", "utf-8"
        notes = Notes()
        try:
            yield from read_parquet(self.found.path, self.options.text_key, notes)
        finally:
            self._note(notes)

    def _rows(self, chunks: Iterable[bytes]) -> Iterator[Piece | Drop | End]:
        notes, key = Notes(), self.options.text_key
        pieces = self._pieces(chunks)
        try:
            if self.entry.format == "jsonl":
                yield from read_jsonl(pieces, key, notes)
            else:
                yield from read_csv(pieces, key, notes, tab=self.entry.format == "tsv")
        finally:
            self._note(notes)

    def _note(self, notes: Notes) -> None:
        self.entry.column = notes.column.encode("utf-8", "backslashreplace").decode("utf-8")[:80]  # a name may hold anything
        self.entry.bad_rows, self.entry.first_bad_line = notes.bad_rows, notes.first_bad_line
        if notes.bytes is not None:
            self.read = notes.bytes

    def _html(self, chunks: Iterable[bytes]) -> Iterator[Piece | Drop | End]:
        pieces: list[Piece] = []
        offset = 0
        for item in self._decoded(chunks):
            if isinstance(item, Piece):
                pieces.append(item)
                if self.read > MAX_HTML:
                    raise BrokenFileError(f"a page of more than {MAX_HTML >> 20} MiB")
            else:
                offset = item.size if isinstance(item, Drop) else offset
                yield item
        page = Piece.verbatim("".join(piece.text for piece in pieces), offset, pieces[0].codec if pieces else "utf-8")
        if pieces and any(piece.codec != pieces[-1].codec for piece in pieces):  # ASCII was read before the encoding was known
            page.codec = pieces[-1].codec
        yield from read_html(page, self.entry.dropped)
        yield END

    def _decoded(self, chunks: Iterable[bytes]) -> Iterator[Piece | Drop]:
        decoder = Decoder(self._sample, self.options.encoding, mixed=self.entry.format != "html")  # a page is written in one
        first = True
        for piece in decoder.decode(chunks):
            if first and decoder.bom:
                yield Drop(decoder.bom, "byte-order mark")
            first = False
            yield piece
            self.entry.encoding = decoder.encoding or "ascii"
        if first and decoder.bom:
            yield Drop(decoder.bom, "byte-order mark")
        if decoder.lines:
            self.entry.encoding_lines = decoder.lines
            counts = ", ".join(f"{count:,} {codec}" for codec, count in sorted(decoder.lines.items()))
            say(f"{self.entry.path}: lines in two encodings ({counts}), each read in its own")

    def _pieces(self, chunks: Iterable[bytes]) -> Iterator[Piece]:
        """Yield decoded pieces; a byte-order mark goes straight to the account."""
        for item in self._decoded(chunks):
            if isinstance(item, Piece):
                yield item
            elif self.entry.format == "jsonl":
                self.entry.dropped[item.reason] += item.size

    def _sample(self) -> bytes:
        """Read from places spread over a plain file, each widened to whole lines where it has them."""
        if self.entry.compression or self.file.size < _HEAD:
            return b""
        parts = []
        for i in range(_WINDOWS):
            window = self.file.peek(self.file.size * i // _WINDOWS, _WINDOW)
            parts.append(window[window.find(b"\n") + 1:window.rfind(b"\n") + 1])
        return b"".join(parts)


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _format(path: Path, head: bytes) -> str:
    """Name the format, or say why the content is none that is read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED else suffixes[-1] if suffixes else ""
    start = head[:2048].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<mediawiki"):
        return "mediawiki"
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    lowered = start[:512].lower()
    if lowered.startswith((b"<!doctype html", b"<html")):
        return "html"
    if lowered.startswith(b"<?xml"):
        return "mediawiki" if b"<mediawiki" in lowered else "html" if b"<html" in lowered else "XML that is not a MediaWiki dump"
    if start.startswith(b"{") and suffix in (".json", "") and b"\n{" in head and not sniff_wide(head):
        return "jsonl"
    if suffix == ".json":
        return "JSON that is not one object per line (write it as JSONL)"
    return "text"
