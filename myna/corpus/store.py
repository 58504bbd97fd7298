"""The cleaned corpus on disk, read in pieces: text, documents, where every byte came from, and the three parts.

A corpus directory holds `text.utf8` (the cleaned text of all kept documents, end to end), `documents.npy`, `spans.npy`
(the map back to source bytes), `report.json`, and after the split `train.npy`, `valid.npy`, `test.npy`, `split.json`.

    corpus = Corpus.open(Path("my-model/corpus"))
    for row in corpus.part("train"):
        for piece in corpus.pieces(row["start"], row["end"]):
            print(len(piece))
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myna.errors import UserError
from myna.files import MANIFEST, read_json

TEXT = "text.utf8"
PARTS = ("train", "valid", "test")
DOCUMENT = np.dtype([("start", "<i8"), ("end", "<i8"), ("file", "<i4"), ("offset", "<i8"), ("role", "i1"), ("hash", "V16")])
SPAN = np.dtype([("start", "<i8"), ("file", "<i4"), ("offset", "<i8"), ("size", "<i4")])
RANGE = np.dtype([("start", "<i8"), ("end", "<i8"), ("document", "<i8")])

_AFTER_LINE = re.compile(rb"\n(?=[^\s])")  # a newline followed by a non-space: no pre-tokenizer pattern joins across it


class Corpus:
    """A finished corpus directory. Positions are byte offsets in `text.utf8`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents: NDArray[Any] = np.load(folder / "documents.npy", mmap_mode="r")
        self.spans: NDArray[Any] = np.load(folder / "spans.npy", mmap_mode="r")
        self.report: dict[str, Any] = read_json(folder / "report.json")
        self.files: list[dict[str, Any]] = self.report["files"]
        # Read, not mapped: mapped pages of a large text would count as this process's memory.
        self._text = (folder / TEXT).open("rb", buffering=0)
        self.size = os.fstat(self._text.fileno()).st_size  # bytes of text
        self._span_starts: NDArray[np.int64] = np.ascontiguousarray(self.spans["start"])

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Open a directory made by `myna clean`. Raises UserError when it is not one."""
        if not (folder / MANIFEST).is_file() or not (folder / "documents.npy").is_file():
            raise UserError(f"{folder} is not a cleaned corpus", "a directory made by `myna clean`", "run `myna clean INPUT --out DIR`")
        return cls(folder)

    def part(self, name: str) -> NDArray[Any]:
        """Return the ranges (start, end, document) of 'train', 'valid' or 'test', in text order."""
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            raise UserError(f"{self.folder} has no {name} part", "a corpus with enough text to split", "give more text")
        ranges: NDArray[Any] = np.load(path, mmap_mode="r")
        return ranges

    def part_bytes(self, name: str) -> int:
        """Count the bytes of a part."""
        ranges = self.part(name)
        return int((ranges["end"] - ranges["start"]).sum())

    def text(self, start: int, end: int) -> str:
        """Decode bytes [start, end); both must be character boundaries."""
        return self._read(int(start), int(end)).decode("utf-8")

    def _read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end and (data := os.pread(self._text.fileno(), end - start, start)):  # one call gives at most 2 GiB
            parts.append(data)
            start += len(data)
        return b"".join(parts)

    def pieces(self, start: int, end: int, size: int = 65536) -> Iterator[str]:
        """Yield the text of [start, end) in pieces of at most `size` bytes.

        A piece ends after a newline that a non-space follows where there is one in it, else at a character.
        """
        start, end = int(start), int(end)
        size = max(size, 4)  # a character has at most four bytes
        while start < end:
            data = self._read(start, min(start + size + 1, end))
            if len(data) > size:
                data = data[:_cut(data)]
            yield data.decode("utf-8")
            start += len(data)

    def source(self, byte: int) -> tuple[int, int]:
        """Map a byte of the cleaned text to (file index, source byte offset after decompression).

        Exact at the start of a span and throughout a span that was taken over unchanged; elsewhere in proportion
        within its span (at most about 4 KB). For CSV and Parquet the offset counts the bytes of the text column.
        """
        row = max(0, int(np.searchsorted(self._span_starts, byte, side="right")) - 1)
        span = self.spans[row]
        start = int(span["start"])
        end = int(self._span_starts[row + 1]) if row + 1 < len(self._span_starts) else self.size
        ahead = (int(byte) - start) * int(span["size"]) // max(1, end - start)
        return int(span["file"]), int(span["offset"]) + ahead


def _cut(data: bytes) -> int:
    """Choose where a piece ends in `data`, whose last byte belongs to the next piece."""
    line = 0
    position = data.rfind(b"\n", 0, len(data) - 1)
    while position >= 0:
        if _AFTER_LINE.match(data, position):
            line = position + 1
            break
        position = data.rfind(b"\n", 0, position)
    if line:
        return line
    cut = len(data) - 1
    while cut > 1 and data[cut] & 0xC0 == 0x80:  # inside a character
        cut -= 1
    return cut
