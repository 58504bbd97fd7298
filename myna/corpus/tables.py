"""Read documents from rows: JSONL, CSV, TSV and Parquet. One row is one document.

JSONL is counted in the bytes of the file: the text field is kept, the rest is "json syntax and other fields". CSV and
Parquet are counted in the UTF-8 bytes of their text column, and offsets are positions in that column read end to end.

    for item in read_jsonl(iter([Piece.verbatim('{"text": "a"}\\n', 0, "utf-8")]), "", notes):
        print(item)      # a Drop, a Piece, END
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from myna.corpus.piece import END, VERBATIM, Drop, End, Piece, Segment, width
from myna.files import BrokenFileError

Item = Piece | Drop | End
TEXT_KEYS = ("text", "content", "body", "article", "document", "passage", "story", "markdown", "abstract", "sentence", "completion")
MAX_ROW = 16 << 20  # characters of one row; a longer one would take several times that in memory
_LOOK_ROWS = 100  # rows looked at to find the text column
_WHITE = frozenset((" ", "\t", "\r", "\n"))
_SPACE = re.compile(r"[ \t\r\n]*")
_ESCAPES = re.compile(r"(?P<short>(?:\\[^u])+)|(?P<pair>(?:\\u[dD][89aAbB]..\\u[dD][c-fC-F]..)+)|(?P<lone>\\u[dD][89a-fA-F]..)"
                      r"|(?P<unit>(?:\\u(?![dD][89a-fA-F])....)+)", re.DOTALL)
_ESCAPE_WIDTH = {"short": 2, "pair": 12, "lone": 6, "unit": 6}
_DECODER = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)  # numbers are skipped, so never converted


class Notes:
    """What a reader found out on the way, for the report."""

    def __init__(self) -> None:
        self.column = ""
        self.bad_rows = 0
        self.first_bad_line = 0
        self.bytes: int | None = None  # bytes read in, where they are not those of the file

    def bad(self, line: int) -> None:
        """Count a row that could not be read."""
        self.bad_rows += 1
        self.first_bad_line = self.first_bad_line or line


def lines(pieces: Iterable[Piece]) -> Iterator[Piece | Drop]:
    """Cut decoded pieces into lines that keep their newline; a line over MAX_ROW characters becomes a Drop."""
    parts: list[str] = []
    length = offset = lost = 0
    for piece in pieces:
        at = piece.segments[0].offset
        for text in io.StringIO(piece.text, newline="\n"):
            if not parts:
                offset = at
            size = width(text, piece.codec)
            at += size
            length += len(text)
            if length > MAX_ROW:
                lost += size + sum(width(part, piece.codec) for part in parts)
                parts = []
            else:
                parts.append(text)
            if text.endswith("\n"):
                yield Drop(lost, "row too long") if lost else Piece.verbatim("".join(parts), offset, piece.codec)
                parts, length, lost = [], 0, 0
    if lost:
        yield Drop(lost, "row too long")
    elif parts:
        yield Piece.verbatim("".join(parts), offset, piece.codec)


def read_jsonl(pieces: Iterable[Piece], key: str, notes: Notes) -> Iterator[Item]:
    """Yield the text field of each row. The field is `key`, else the first usual name, else the widest string."""
    for number, line in enumerate(lines(pieces), 1):
        if isinstance(line, Drop):
            notes.bad(number)
            yield line
            continue
        total = line.size()
        if line.text.isspace():
            yield Drop(total, "blank line")
            continue
        try:
            fields = _string_fields(line.text)
        except (ValueError, RecursionError, StopIteration, IndexError):
            notes.bad(number)
            yield Drop(total, "malformed row")
            continue
        key = key or _choose(fields)
        notes.column = notes.column or key
        if key not in fields:
            notes.bad(number)
            yield Drop(total, "row without text")
            continue
        text = _unescape(line, *fields[key])
        yield Drop(total - text.size(), "json syntax and other fields")
        yield text
        yield END


def _choose(fields: dict[str, tuple[int, int, str]]) -> str:
    usual = next((name for name in TEXT_KEYS if name in fields), "")
    return usual or max(fields, key=lambda name: len(fields[name][2]), default="")


def _string_fields(row: str) -> dict[str, tuple[int, int, str]]:
    """Find the string fields of a JSON object: name to (start, end) of the raw text between its quotes, and its value."""
    fields: dict[str, tuple[int, int, str]] = {}
    at = _skip(row, 0)
    if row[at] != "{":
        raise ValueError("not an object")
    at = _skip(row, at + 1)
    while row[at] != "}":
        name, at = _DECODER.raw_decode(row, at)
        at = _skip(row, at)
        if not isinstance(name, str) or row[at] != ":":
            raise ValueError("no field name")
        start = _skip(row, at + 1)
        value, at = _DECODER.raw_decode(row, start)
        if row[start] == '"':
            fields.setdefault(name, (start + 1, at - 1, value))
        at = _skip(row, at)
        if row[at] == ",":
            at = _skip(row, at + 1)
        elif row[at] != "}":
            raise ValueError("no comma")
    if _skip(row, at + 1) != len(row):
        raise ValueError("more after the object")
    return fields


def _skip(row: str, at: int) -> int:
    if row[at:at + 1] not in _WHITE:
        return at
    match = _SPACE.match(row, at)
    assert match is not None
    return match.end()


def _unescape(line: Piece, start: int, end: int, value: str) -> Piece:
    """Map the value of a JSON string back to its raw text: each kind of escape has its own width."""
    offset = line.segments[0].offset + width(line.text[:start], line.codec)
    raw = line.text[start:end]
    if "\\" not in raw:
        return Piece(value, line.codec, [Segment(0, offset, VERBATIM)])
    segments: list[Segment] = []
    lone: list[int] = []
    done = made = 0
    while (at := raw.find("\\", done)) >= 0:  # ten times faster than a search for the alternatives
        match = _ESCAPES.match(raw, at)
        assert match is not None
        if match.start() > done:
            segments.append(Segment(made, offset, VERBATIM))
            offset += width(raw[done:match.start()], line.codec)
            made += match.start() - done
        kind = match.lastgroup or ""
        segments.append(Segment(made, offset, _ESCAPE_WIDTH[kind]))
        count = (match.end() - match.start()) // _ESCAPE_WIDTH[kind]
        if kind == "lone":  # half of a surrogate pair means nothing; must not pass for a bad byte
            lone.append(made)
        made += count
        offset += count * _ESCAPE_WIDTH[kind]
        done = match.end()
    if done < len(raw):
        segments.append(Segment(made, offset, VERBATIM))
    if lone:
        cuts = [-1, *lone, len(value)]
        value = "\ufffd".join(value[a + 1:b] for a, b in itertools.pairwise(cuts))
    return Piece(value, line.codec, segments)


def read_csv(pieces: Iterable[Piece], key: str, notes: Notes, tab: bool = False) -> Iterator[Item]:
    """Yield the text column of each row; the first row is a header when it looks like one."""
    notes.bytes = 0
    source = _CsvLines(pieces)
    reader = csv.reader(source, **dialect(source.peek(), tab))
    csv.field_size_limit(MAX_ROW)
    head: list[tuple[list[str], int, int]] = []
    rows = _csv_rows(reader, source)
    for row in rows:
        head.append(row)
        if len(head) == _LOOK_ROWS:
            break
    good = [cells for cells, _, _ in head if cells]
    column, header = _choose_column(good, key)
    notes.column = f"column {column + 1}" if not header else good[0][column]
    skip_header = header
    for cells, line, size in (row for group in (head, rows) for row in group):
        if cells and skip_header:
            skip_header = False
        elif column < len(cells):
            text = cells[column]
            count = width(text, "utf-8")
            yield Piece.verbatim(text, notes.bytes, "utf-8")
            notes.bytes += count
            yield END
        elif size:
            notes.bad(line)
            notes.bytes += size
            yield Drop(size, "malformed row")
    for size in source.lost:
        notes.bytes += size
        yield Drop(size, "row too long")


class _CsvLines:
    """Hands lines to the csv module and knows how many bytes it took since last asked."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.lines = lines(pieces)
        self.waiting: list[str] = []
        self.lost: list[int] = []
        self.taken = 0
        self.number = 0

    def peek(self) -> str:
        """Look at the first line without taking it."""
        for line in self.lines:
            if isinstance(line, Piece):
                self.waiting.append(line.text)
                self.number = 1
                return line.text
            self.lost.append(line.size)
        return ""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not self.waiting:
            line = next(self.lines)
            self.number += 1
            if isinstance(line, Piece):
                self.waiting.append(line.text)
            else:
                self.lost.append(line.size)
        text = self.waiting.pop()
        self.taken += width(text, "utf-8")
        return text


def _csv_rows(reader: Any, source: _CsvLines) -> Iterator[tuple[list[str], int, int]]:
    """Yield (cells, line number, bytes of the lines); no cells where the row could not be read or is blank."""
    while True:
        source.taken = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = []
        yield (cells, source.number, source.taken if cells or source.taken > 2 else 0)


def dialect(first: str, tab: bool) -> dict[str, Any]:
    """Choose the delimiter by the first line. TSV has no quoting (IANA text/tab-separated-values) unless a cell is quoted whole."""
    if tab:
        quoted = any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in first.rstrip("\r\n").split("\t"))
        return {"delimiter": "\t", "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE}
    bare = re.sub('"[^"]*"', "", first)
    return {"delimiter": max(",;\t|", key=bare.count), "quoting": csv.QUOTE_MINIMAL}


def _choose_column(rows: list[list[str]], key: str) -> tuple[int, bool]:
    """Choose the text column and say whether the first row is a header."""
    if not rows:
        return 0, False
    names = [cell.strip().lower() for cell in rows[0]]
    if key:
        if key.lower() in names:
            return names.index(key.lower()), True
        raise BrokenFileError(f"no column {key!r}")
    for usual in TEXT_KEYS:
        if usual in names:
            return names.index(usual), True
    body = rows[1:] or rows
    widths = [sum(len(row[i]) for row in body if i < len(row)) / len(body) for i in range(len(rows[0]))]
    column = max(range(len(widths)), key=lambda i: widths[i])
    short = all(0 < len(name) <= 40 and not name.replace(".", "").isdigit() for name in names) and len(set(names)) == len(names)
    return column, len(rows) > 1 and short and len(names[column]) < widths[column] / 2


def read_parquet(path: Path, key: str, notes: Notes) -> Iterator[Item]:
    """Yield the text column of each row, a few rows of a row group at a time.

    Raises BrokenFileError when the file is damaged or has no column of strings.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes.bytes = 0
    try:
        # A file handle, not memory mapping or pre-buffering: a row group is never held whole.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            name = _parquet_column(file, key)
            notes.column = name
            for group in range(file.num_row_groups):
                refuse_bomb(file, group, name)
                for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[name]):
                    for value in batch.column(0):
                        text = value.as_py()
                        if text is None:
                            continue
                        yield Piece.verbatim(text, notes.bytes, "utf-8")
                        notes.bytes += width(text, "utf-8")
                        yield END
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise BrokenFileError(f"damaged parquet ({str(error).splitlines()[0][:100]})") from None


def _parquet_column(file: Any, key: str) -> str:
    import pyarrow as pa

    sizes: dict[str, int] = {}
    for field in file.schema_arrow:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            sizes[field.name] = 0
    for group in range(file.num_row_groups):
        columns = file.metadata.row_group(group)
        for i in range(columns.num_columns):
            if columns.column(i).path_in_schema in sizes:
                sizes[columns.column(i).path_in_schema] += columns.column(i).total_uncompressed_size
    if key:
        if key in sizes:
            return key
        raise BrokenFileError(f"no column of strings named {key!r}")
    if not sizes:
        raise BrokenFileError("no column of strings")
    return next((name for name in TEXT_KEYS if name in sizes), max(sizes, key=lambda name: sizes[name]))


def refuse_bomb(file: Any, group: int, name: str | None = None) -> None:
    """Raise BrokenFileError when a column of a row group, the one named or any, expands far beyond what data does."""
    columns = file.metadata.row_group(group)
    for i in range(columns.num_columns):
        column = columns.column(i)
        if name in (None, column.path_in_schema) and column.total_uncompressed_size > max(32 << 20, 500 * column.total_compressed_size):
            raise BrokenFileError("expands more than 500-fold: a decompression bomb", bomb=True)
