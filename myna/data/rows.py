"""Rows of other people's files with all their columns: JSONL, JSON arrays, CSV, TSV, Parquet; a text file is one row.

`myna.corpus.tables` reads one column of such files for its text and accounts for every byte; tuning needs the columns of a row
together, so here a row is a dictionary. Files may be compressed; encodings are detected as for any text.

    for row in read_rows(Path("train.jsonl")):
        print(row.line, row.value, row.problem)
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from myna.corpus.decode import Decoder, is_binary
from myna.corpus.piece import Piece
from myna.corpus.tables import MAX_ROW, dialect, lines, refuse_bomb
from myna.errors import UserError
from myna.files import BrokenFileError, RawFile, read_chunks

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
           ".txt": "text", ".md": "text"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_LARGEST_JSON = 512 << 20  # characters of a JSON array or a text, which is read whole; more belongs into JSONL or several files


class Row(NamedTuple):
    """A row: its line (of a Parquet file or a JSON array, its number), and its columns or why there are none."""

    line: int
    value: dict[str, Any]
    problem: str = ""


def format_of(path: Path) -> str:
    """Name the format of a file by its name; '' when rows are not read from such files."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED else suffixes[-1] if suffixes else ""
    return FORMATS.get(suffix, "")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file in order. Raises UserError when the file cannot be read to its end."""
    try:
        if format_of(path) == "parquet":
            yield from _parquet(path)
            return
        file = RawFile(path)
        try:
            if reason := is_binary(file.peek(0, 4096)) if path.suffix.lower() not in _COMPRESSED else "":
                raise BrokenFileError(reason)
            pieces = Decoder().decode(read_chunks(file))
            match format_of(path):
                case "csv" | "tsv":
                    yield from _csv(pieces, format_of(path) == "tsv")
                case "text":
                    text = _whole(pieces)
                    yield Row(1, {"text": text})
                case "json":
                    yield from _json(pieces)
                case _:
                    yield from _jsonl(pieces)
        finally:
            file.close()
    except BrokenFileError as error:
        raise UserError(f"{path}: {error.reason}", "a file that can be read to its end", "restore the file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})", "a readable file") from None


def _jsonl(pieces: Iterator[Piece]) -> Iterator[Row]:
    for number, line in enumerate(lines(pieces), 1):
        if not isinstance(line, Piece):
            yield Row(number, {}, f"a row of more than {MAX_ROW:,} characters")
        elif not line.text.isspace():
            yield _object(number, line.text)


def _object(number: int, text: str) -> Row:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Row(number, {}, f"no JSON ({str(error)[:80]})")
    return Row(number, value) if isinstance(value, dict) else Row(number, {}, "a row that is no object")


def _json(pieces: Iterator[Piece]) -> Iterator[Row]:
    """Read an array of objects, or what is JSONL under this name."""
    text = _whole(pieces)
    if not text.lstrip().startswith("["):
        yield from _jsonl(iter([Piece.verbatim(text, 0, "utf-8")]))
        return
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenFileError(f"no JSON ({str(error)[:80]})") from None
    for number, value in enumerate(values, 1):
        yield Row(number, value) if isinstance(value, dict) else Row(number, {}, "a row that is no object")


def _whole(pieces: Iterator[Piece]) -> str:
    parts, size = [], 0
    for piece in pieces:
        size += len(piece.text)
        if size > _LARGEST_JSON:
            raise BrokenFileError(f"more than {_LARGEST_JSON:,} characters, to be read whole")
        parts.append(piece.text)
    return "".join(parts)


def _csv(pieces: Iterator[Piece], tab: bool) -> Iterator[Row]:
    """Read rows under a header; a row with more or fewer cells than the header is a problem."""
    texts = (line.text if isinstance(line, Piece) else "\n" for line in lines(pieces))
    first = next(texts, "")
    csv.field_size_limit(MAX_ROW)

    def joined() -> Iterator[str]:
        yield first
        yield from texts

    reader = csv.reader(joined(), **dialect(first, tab))
    header: list[str] = []
    while True:
        line = reader.line_num + 1  # a row may go over several lines
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, {}, f"no CSV ({error})")
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif cells and len(cells) != len(header):
            yield Row(line, {}, f"{len(cells)} cells under a header of {len(header)}")
        elif cells:
            yield Row(line, dict(zip(header, cells, strict=True)))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for group in range(file.num_row_groups):
                refuse_bomb(file, group)
                for batch in file.iter_batches(batch_size=64, row_groups=[group]):
                    for value in batch.to_pylist():
                        number += 1
                        yield Row(number, value)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise BrokenFileError(f"damaged parquet ({str(error).splitlines()[0][:100]})") from None
