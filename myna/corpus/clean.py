"""Clean files into a corpus: every source byte is kept or dropped with a reason, and every kept byte can be traced back.

Everything streams: a document's text goes to the disk as it is read, and is cut off again if it turns out to be a
duplicate, empty or too short. Test files are read first, then validation files, so that of two equal documents the one
that would be trained on is the one that goes.

    corpus = prepare_corpus([Path("my-texts")], Path("corpus"), CleanOptions(), SplitOptions())
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from myna.console import say, track
from myna.corpus.decode import known_codec
from myna.corpus.dedup import Seen
from myna.corpus.normalize import normalize
from myna.corpus.options import CleanOptions, SplitOptions
from myna.corpus.piece import VERBATIM, Drop, Piece, width
from myna.corpus.read import Entry, Found, Reader, walk
from myna.corpus.split import split
from myna.corpus.store import DOCUMENT, SPAN, TEXT, Corpus
from myna.errors import UserError
from myna.files import BrokenFileError, RawFile, new_directory, same_manifest, write_json, write_manifest

_ROLES = ("main", "valid", "test")
_SPAN_BYTES = 4096  # cleaned bytes after which a new span begins
_SPAN_LEAST = 256  # cleaned bytes before an edit may begin a new span, so that the map stays under a tenth of the text
_SPAN_GAP = 64  # dropped source bytes that begin a new span anyway
_PIECE_CHARACTERS = 1 << 20  # longer pieces (a whole JSONL row) are normalised in parts


class _Corpus:
    """The corpus being written: text, documents and spans, with the last document open until it is decided."""

    def __init__(self, folder: Path, options: CleanOptions) -> None:
        self.options = options
        self.text: BinaryIO = (folder / TEXT).open("wb")
        self.documents: BinaryIO = (folder / "documents.raw").open("wb")
        self.spans: BinaryIO = (folder / "spans.raw").open("wb")
        self.folder = folder
        self.seen = Seen()
        self.at = 0  # bytes in text.utf8
        self.begin(0)

    def begin(self, file: int) -> None:
        """Start a document of source file number `file`."""
        self.file, self.start = file, self.at
        self.kept = self.characters = 0
        self.blank = True
        self.hash = hashlib.blake2b(digest_size=16)
        self.rows: list[tuple[int, int, int, int]] = []
        self.flushed = self.spans.tell()
        self.first = -1  # source offset of the document
        self.span = [self.at, -1, 0]  # clean start, source offset, source size of the span being filled

    def add(self, piece: Piece) -> None:
        """Append cleaned text to the open document."""
        data = piece.text.encode("utf-8")
        if not data:
            return
        self.blank = self.blank and piece.text.isspace()
        self.characters += len(piece.text)
        self.hash.update(data)
        self.text.write(data)
        self._map(piece, len(data))

    def _map(self, piece: Piece, total: int) -> None:
        """Extend the spans by one piece."""
        ends = [s.start for s in piece.segments[1:]] + [len(piece.text)]
        for segment, end in zip(piece.segments, ends, strict=True):
            if end == segment.start:
                continue
            offset = segment.offset
            text = piece.text if end - segment.start == len(piece.text) else piece.text[segment.start:end]
            step = 1024 if segment.width == VERBATIM else len(text)  # at most 4 KB of UTF-8
            if segment.width == VERBATIM and piece.codec == "utf-8" and text.isascii():
                step = _SPAN_BYTES
            for at in range(0, len(text), step):
                part = text[at:at + step]
                size = width(part, piece.codec) if segment.width == VERBATIM else segment.width * len(part)
                clean = width(part, "utf-8")
                self._extend(offset, size, clean)
                offset += size
        if len(self.rows) > 10000:
            self._flush()

    def _extend(self, offset: int, size: int, clean: int) -> None:
        start, begun, taken = self.span
        here = self.at - start
        gap = abs(offset - begun - taken)
        if begun < 0:
            self.first = offset
            self.span = [self.at, offset, 0]
        elif here + clean > _SPAN_BYTES or (here >= _SPAN_LEAST and gap) or gap >= _SPAN_GAP:
            self.rows.append((start, self.file, begun, taken))
            self.span = [self.at, offset, 0]
        self.span[2] += size
        self.kept += size
        self.at += clean

    def _flush(self) -> None:
        self.spans.write(np.array(self.rows, dtype=SPAN).tobytes())
        self.rows = []

    def end(self, role: int) -> str:
        """Close the document; returns why it was dropped, or '' when it was kept."""
        reason = ("empty" if self.blank else "too short" if self.characters < self.options.min_chars
                  else "duplicate" if self.options.deduplicate and not self.seen.add(self.hash.digest()) else "")
        if reason:
            self.drop()
            return reason
        self.rows.append((self.span[0], self.file, self.span[1], self.span[2]))
        self._flush()
        self.documents.write(np.array([(self.start, self.at, self.file, self.first, role, self.hash.digest())], dtype=DOCUMENT).tobytes())
        return ""

    def drop(self) -> None:
        """Take the open document back."""
        self.text.truncate(self.start)
        self.text.seek(self.start)
        self.spans.truncate(self.flushed)
        self.spans.seek(self.flushed)
        self.at = self.start

    def close(self) -> None:
        """Finish the files: the raw rows become .npy arrays."""
        self.text.close()
        for name, handle, kind in (("documents", self.documents, DOCUMENT), ("spans", self.spans, SPAN)):
            handle.close()
            raw = self.folder / f"{name}.raw"
            rows = np.memmap(raw, dtype=kind, mode="r") if raw.stat().st_size else np.zeros(0, dtype=kind)
            np.save(self.folder / f"{name}.npy", rows)
            del rows
            raw.unlink()


def clean(inputs: Sequence[Path], out: Path, options: CleanOptions,
          valid: Sequence[Path] = (), test: Sequence[Path] = (), require_text: bool = True) -> dict[str, Any]:
    """Clean the inputs into the existing folder `out` and return the report. Raises UserError when no text was kept and some must be."""
    if options.encoding:
        options = CleanOptions(**{**asdict(options), "encoding": known_codec(options.encoding)})
    files = _find(inputs, valid, test)
    corpus = _Corpus(out, options)
    entries: list[Entry] = []
    total = sum(_size(found) for found in files)
    with track("cleaning", total or None, "B") as advance:
        for found in files:
            entries.append(_clean_file(found, len(entries), corpus, options))
            advance(_size(found))
    corpus.close()
    report = _report(entries)
    if require_text and not any(entry.documents for entry in entries):
        reasons = Counter(entry.reason for entry in entries if entry.reason)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3)) or "no files"
        raise UserError(f"no text was kept from {len(entries)} files ({why})", "at least one file with text", "check the input")
    write_json(out / "report.json", report)
    return report


def _find(inputs: Sequence[Path], valid: Sequence[Path], test: Sequence[Path]) -> list[Found]:
    """List all files, held-out ones first; one that is given twice, or linked to, is read the first time only."""
    files: list[Found] = []
    seen: set[Path] = set()
    for role, paths in ((2, test), (1, valid), (0, inputs)):
        for found in walk(paths, role):
            again = False
            if not found.reason:
                place = found.path.resolve()
                again = place in seen
                seen.add(place)
            files.append(Found(found.path, role, "already read under another name or for valid or test") if again else found)
    return files


def _size(found: Found) -> int:
    try:
        return 0 if found.reason else found.path.stat().st_size
    except OSError:
        return 0


def _clean_file(found: Found, number: int, corpus: _Corpus, options: CleanOptions) -> Entry:
    """Read one file into the corpus and return its report entry."""
    entry = Entry(found.name, _ROLES[found.role])
    if found.reason:
        entry.status, entry.reason = "rejected", found.reason
        return entry
    try:
        reader = Reader(found, entry, options)
    except OSError as error:
        entry.status, entry.reason = "rejected", f"unreadable ({error.strerror})"
        return entry
    try:
        corpus.begin(number)
        broken = _take(reader, corpus, found.role)
        try:
            entry.sha256 = reader.file.sha256()
        except OSError as error:
            broken = broken or BrokenFileError(f"cannot be read to its end ({error.strerror or error})")
    finally:
        reader.file.close()
    _balance(entry, reader, broken)
    return entry


def _take(reader: Reader, corpus: _Corpus, role: int) -> BrokenFileError | None:
    """Pass a reader's items through normalisation into the corpus; returns what stopped it early."""
    entry = reader.entry

    def finish(reason: str = "") -> None:
        if reason:
            corpus.drop()
        kept = corpus.kept
        reason = reason or corpus.end(role)
        if reason:
            entry.dropped[reason] += kept
            entry.dropped_documents[reason] += 1
        else:
            entry.kept += kept
            entry.documents += 1
        corpus.begin(corpus.file)

    broken = None
    try:
        for item in reader.items():
            if isinstance(item, Drop):
                entry.dropped[item.reason] += item.size
            elif isinstance(item, Piece):
                for part in _parts(item):
                    corpus.add(normalize(part, entry.dropped, entry.rewritten))
            else:
                finish()
    except BrokenFileError as error:
        broken = reader.broken or error
    except OSError as error:
        broken = BrokenFileError(f"cannot be read to its end ({error.strerror or error})")
    if corpus.kept or corpus.at > corpus.start:
        finish("decompression bomb" if broken and broken.bomb else "")
    return broken


def _parts(piece: Piece) -> list[Piece]:
    """Cut a very long verbatim piece so that normalising it takes bounded memory."""
    if len(piece.text) <= _PIECE_CHARACTERS or len(piece.segments) > 1:
        return [piece]
    parts, offset, start = [], piece.segments[0].offset, 0
    while start < len(piece.text):
        end = piece.text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1 or start + _PIECE_CHARACTERS
        parts.append(Piece.verbatim(piece.text[start:end], offset, piece.codec))
        offset += parts[-1].size()
        start = end
    return parts


def _balance(entry: Entry, reader: Reader, broken: BrokenFileError | None) -> None:
    """Settle a file's account and its status."""
    entry.bytes = reader.read
    rest = entry.bytes - entry.kept - sum(entry.dropped.values())
    if broken:
        entry.reason = broken.reason
        if not entry.documents and not entry.compression and entry.format != "parquet" and reader.read < reader.file.size:
            rest += reader.file.size - reader.read
            entry.bytes = reader.file.size
        entry.dropped["unreadable" if entry.documents else broken.reason] += rest
        entry.status = "partial" if entry.documents else "rejected"
    elif rest:
        raise AssertionError(f"{entry.path}: {entry.bytes} bytes read, {rest} of them neither kept nor dropped")
    elif not entry.documents:
        entry.status = "rejected"
        entry.reason = entry.dropped_documents.most_common(1)[0][0] if entry.dropped_documents else "no text"
    elif entry.bad_rows or any(reason.startswith("invalid ") for reason in entry.dropped):
        entry.status = "partial"
        entry.reason = (f"{entry.bad_rows} bad rows, the first at line {entry.first_bad_line}" if entry.bad_rows
                        else next(f"{reason} bytes dropped" for reason in entry.dropped if reason.startswith("invalid ")))


def _report(entries: list[Entry]) -> dict[str, Any]:
    totals: dict[str, Any] = {"files": len(entries), **{k: sum(getattr(e, k) for e in entries) for k in ("bytes", "kept", "documents")}}
    for name in ("dropped", "rewritten", "dropped_documents"):
        counts: Counter[str] = sum((getattr(e, name) for e in entries), Counter())
        totals[name] = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    totals["status"] = dict(sorted(Counter(e.status for e in entries).items()))
    return {"totals": totals, "files": [e.as_json() for e in entries]}


def prepare_corpus(inputs: Sequence[Path], out: Path, clean_options: CleanOptions, split_options: SplitOptions,
                   valid: Sequence[Path] = (), test: Sequence[Path] = (), require_split: bool = True) -> Corpus:
    """Clean and split into the new directory `out`, whole or absent; a finished one from the same inputs is opened as it is.

    With `require_split` False a text too small to split becomes a corpus without parts. Raises UserError when the
    directory was made from other inputs or options.
    """
    options = {"clean": asdict(clean_options), "split": asdict(split_options),
               "valid": [Found(p).name for p in valid], "test": [Found(p).name for p in test]}
    if (out / "manifest.json").is_file() and same_manifest(out, "clean", _identities(_find(inputs, valid, test)), options):
        say(f"{out} is already made from the same inputs")
        return Corpus.open(out)
    with new_directory(out) as folder:
        report = clean(inputs, folder, clean_options, valid, test)
        try:
            split(folder, split_options)
        except UserError as error:
            if require_split:
                raise
            say(f"not split: {error}")
        write_manifest(folder, "clean", {entry["path"]: entry["sha256"] or entry["reason"] for entry in report["files"]}, options)
    return Corpus.open(out)


def _identities(files: list[Found]) -> dict[str, str]:
    """Name every input's content the way the report does."""
    names: dict[str, str] = {}
    for found in files:
        names[found.name] = found.reason
        if not found.reason:
            try:
                file = RawFile(found.path)
                names[found.name] = file.sha256()
                file.close()
            except OSError as error:
                names[found.name] = f"unreadable ({error.strerror})"
    return names
