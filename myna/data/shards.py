"""Ids on disk: a corpus becomes one flat file of token ids per split, each block of which knows its place in the source.

    tokens/train.bin              ids, little-endian uint16 (uint32 beyond 65,536 tokens); one separator after each document
    tokens/train.documents.npy    start, end (tokens, without the separator), bytes, document, file, offset (source byte)
    tokens/train.blocks.npy       token, document, file, offset: one row per 256 tokens of a document, and at its start

Everything is written as it is read, so memory does not grow with the corpus, and read through memory maps.

    tokenizer, folder = prepare_tokens(Corpus.open(Path("corpus")), Path("tokens"), TokenizerOptions())
    shard = Shard.open(folder, "train")
    shard.ids[:100], shard.locate(99)
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from myna import console, files
from myna.corpus.store import Corpus
from myna.errors import UserError
from myna.tokenizer.options import TokenizerOptions
from myna.tokenizer.scripts import SCRIPTS, byte_scripts
from myna.tokenizer.tokenizer import Tokenizer

PARTS = ("train", "valid", "test")
_ROWS = 1 << 14  # rows of a table handled at once
BLOCK = 256  # tokens per row of blocks.npy: about 1 KB of text, 24 bytes of table
_PIECE = 65536  # bytes of text in one call to encode; the library takes about 100 bytes per byte
_BATCH = 16 * _PIECE  # bytes encoded at once, so that every core has pieces to do

DOCUMENT = np.dtype([("start", "<i8"), ("end", "<i8"), ("bytes", "<i8"), ("document", "<i8"), ("file", "<i4"), ("offset", "<i8")])
BLOCK_ROW = np.dtype([("token", "<i8"), ("document", "<i8"), ("file", "<i4"), ("offset", "<i8")])


class Place(NamedTuple):
    """Where text came from: a row of the corpus's documents, a file and a byte in it (after decompression)."""

    document: int
    file: int
    offset: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """The ids of one split, memory-mapped."""

    ids: npt.NDArray[Any]  # (T,) uint16 or uint32
    documents: npt.NDArray[Any]  # DOCUMENT rows
    blocks: npt.NDArray[Any]  # BLOCK_ROW rows

    @classmethod
    def open(cls, folder: Path, name: str) -> Shard:
        """Open the split `name` (train, valid, test) of a tokens directory. Raises UserError when it is missing or damaged."""
        report = files.read_json(folder / "report.json")
        try:
            kind, count = report["type"], report["parts"][name]["ids"]
            path = folder / f"{name}.bin"
            if kind not in ("uint16", "uint32") or path.stat().st_size != count * np.dtype(kind).itemsize:
                raise ValueError("its size is wrong")
            # a memory map of an empty file is an error
            ids = np.memmap(path, dtype=np.dtype(kind).newbyteorder("<"), mode="r") if count else np.zeros(0, dtype=kind)
            documents, blocks = (np.load(folder / f"{name}.{table}.npy", mmap_mode="r" if count else None, allow_pickle=False)
                                 for table in ("documents", "blocks"))
            if documents.dtype != DOCUMENT or blocks.dtype != BLOCK_ROW:
                raise ValueError("its tables have other columns")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the split {name!r} of {folder} cannot be read ({error})", "a directory made by myna tokenize",
                            "make it again") from None
        return cls(ids, documents, blocks)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the text that these ids stand for; separators stand for none."""
        return int(self.documents["bytes"].sum())

    def locate(self, token: int) -> Place:
        """Say where the block of 256 tokens that holds position `token` begins in the source. Raises IndexError."""
        if not 0 <= token < len(self.ids):
            raise IndexError(f"token {token} of {len(self.ids)}")
        row = self.blocks[bisect.bisect_right(self.blocks["token"], token) - 1]
        return Place(int(row["document"]), int(row["file"]), int(row["offset"]))


def prepare_tokens(corpus: Corpus, out: Path, options: TokenizerOptions, tokenizer: Tokenizer | None = None) -> tuple[Tokenizer, Path]:
    """Train a tokenizer (unless one is given), encode every split and write the tokens directory, whole or not at all.

    A finished directory made from the same corpus and options is opened, not made again. Raises UserError when it was
    made from others.
    """
    from myna.tokenizer.train import train_tokenizer

    inputs = {"corpus": files.sha256(corpus.folder / files.MANIFEST)}
    chosen = dataclasses.asdict(options)
    if tokenizer is not None:
        chosen = {"tokenizer": tokenizer.fingerprint}
    elif options.words is not None and Path(options.words).is_file():
        inputs["words"] = files.sha256(Path(options.words))  # what is in the list counts, beside its name
    if files.same_manifest(out, "tokenize", inputs, chosen):
        console.say(f"{out} is finished and was made from the same corpus and options: used as it is")
        return Tokenizer.open(out), out
    with files.new_directory(out) as folder:
        made = tokenizer or train_tokenizer(corpus, options)
        made.save(folder)
        write_shards(corpus, made, folder)
        files.write_manifest(folder, "tokenize", inputs, chosen)
    return made, out


def write_shards(corpus: Corpus, tokenizer: Tokenizer, out: Path) -> dict[str, Any]:
    """Encode every split of a corpus into the directory `out`, and write and return its report."""
    kind = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    scripts = np.zeros((len(SCRIPTS), 2), dtype=np.int64)  # bytes and tokens of each script
    parts = {name: _write_part(corpus, tokenizer, out, name, np.dtype(kind).newbyteorder("<"), scripts) for name in PARTS}
    table = {SCRIPTS[i]: _rate(*scripts[i].tolist()) for i in np.argsort(-scripts[:, 0], kind="stable") if scripts[i, 1]}
    report = {"vocab_size": tokenizer.vocab_size, "special_tokens": len(tokenizer.special_ids),
              "pre_tokenizer": tokenizer.pre_tokenizer_name, "type": kind, "parts": parts,
              **_rate(*scripts.sum(0).tolist()), "scripts": table}
    files.write_json(out / "report.json", report)
    return report


def _rate(size: int, tokens: int) -> dict[str, Any]:
    return {"bytes": size, "tokens": tokens, "bytes_per_token": size / tokens if tokens else None}


def _write_part(corpus: Corpus, tokenizer: Tokenizer, out: Path, name: str, kind: np.dtype[Any],
                scripts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Encode one split; adds to `scripts` and returns the split's counts."""
    lengths = np.array([len(piece) for piece in tokenizer.token_bytes], dtype=np.int64)
    separator = tokenizer.separator_id
    written = documents = size = 0
    first_token = first_byte = 0  # of the document that is being written
    first_source = (0, 0)
    total = corpus.part_bytes(name)
    with ((out / f"{name}.bin").open("wb") as ids_file, _Rows(out / f"{name}.documents.npy", DOCUMENT) as document_rows,
          _Rows(out / f"{name}.blocks.npy", BLOCK_ROW) as block_rows, console.track(f"tokenizing {name}", total, "B") as advance):
        for batch in _batches(_pieces(corpus, name)):
            ids, bounds, ends = _encode(tokenizer, batch, lengths)
            _count_scripts("".join(piece.text for piece in batch), ends, scripts)
            closed = []  # where in `ids` a separator goes
            for piece, (low, high) in zip(batch, itertools.pairwise(bounds), strict=True):
                if piece.first:
                    first_token, first_byte = written, piece.start
                base = int(ends[low - 1]) if low else 0
                # the first token of a document and each 256th after it
                for k in range(low + -(written - first_token) % BLOCK, high, BLOCK):
                    byte = piece.start + (int(ends[k - 1]) - base if k else 0)
                    where = corpus.source(byte)
                    block_rows.append((written + k - low, piece.document, *where))
                    if k == low and piece.first:
                        first_source = where
                written += high - low
                if piece.last:
                    length = piece.start + piece.bytes - first_byte
                    document_rows.append((first_token, written, length, piece.document, *first_source))
                    closed.append(high)
                    written, documents, size = written + 1, documents + 1, size + length
            ids_file.write(np.insert(ids, closed, separator).astype(kind).tobytes())
            advance(int(ends[-1]))
    return {"documents": documents, "ids": written, **_rate(size, written - documents)}


def _encode(tokenizer: Tokenizer, batch: list[_Piece], lengths: npt.NDArray[np.int64]
            ) -> tuple[npt.NDArray[np.int64], list[int], npt.NDArray[np.int64]]:
    """Encode many pieces at once: their ids in a row, where each piece begins in them, and the byte where each token ends."""
    encoded = tokenizer.encode_batch(piece.text for piece in batch)
    bounds = [0, *itertools.accumulate(map(len, encoded))]
    ids = np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.int64, count=bounds[-1])
    ends = np.cumsum(lengths[ids])
    for at, end in zip(itertools.accumulate(piece.bytes for piece in batch), bounds[1:], strict=True):
        if end == 0 or ends[end - 1] != at:
            raise UserError("the tokenizer changes the text of this corpus (its normalizer rewrites characters)", "a lossless tokenizer",
                            "train one on this corpus")
    return ids, bounds, ends


class _Piece(NamedTuple):
    """A piece of one document's text."""

    text: str
    bytes: int
    start: int  # byte in text.utf8
    document: int  # row of the corpus's documents
    first: bool  # begins its document
    last: bool  # ends it


def _pieces(corpus: Corpus, name: str) -> Iterator[_Piece]:
    """Read a split in pieces of at most 64 KB."""
    part = corpus.part(name)
    for at in range(0, len(part), _ROWS):  # not all rows at once: ten million Python tuples would take 2 GB
        for start, end, document in zip(*(part[column][at : at + _ROWS].tolist() for column in ("start", "end", "document")), strict=True):
            begin = start
            for text in corpus.pieces(start, end, _PIECE):
                size = len(text.encode())
                yield _Piece(text, size, begin, document, begin == start, begin + size == end)
                begin += size


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Group pieces so that a batch is about 1 MB."""
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += piece.bytes
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _count_scripts(text: str, ends: npt.NDArray[np.int64], scripts: npt.NDArray[np.int64]) -> None:
    """Add each token, and its bytes, to the script of its last byte's character: " the" is Latin, not space."""
    of_tokens = byte_scripts(text)[ends - 1]
    scripts[:, 0] += np.bincount(of_tokens, weights=np.diff(ends, prepend=0), minlength=len(SCRIPTS)).astype(np.int64)
    scripts[:, 1] += np.bincount(of_tokens, minlength=len(SCRIPTS))


class _Rows:
    """An .npy file of one structured column, written row by row; its header, of fixed length, is rewritten at the end."""

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self._kind, self._count, self._waiting = kind, 0, list[tuple[int, ...]]()
        self._file: BinaryIO = path.open("wb")
        self._header()

    def append(self, row: tuple[int, ...]) -> None:
        self._waiting.append(row)
        if len(self._waiting) >= _ROWS:
            self._flush()

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._file.seek(0)
        self._header()
        self._file.close()

    def _flush(self) -> None:
        np.array(self._waiting, dtype=self._kind).tofile(self._file)
        self._count += len(self._waiting)
        self._waiting.clear()

    def _header(self) -> None:
        # numpy pads the header for 21 digits of the first axis, so a longer table does not move the rows
        described = {"descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, described)
