"""Divide a corpus into train, valid and test by the content of its documents, so that the same text always lands in the same part.

Documents are ranked by their hash; the lowest, up to a share of the bytes, become test, the next valid. With fewer than 20
documents, or one with more than a fifth of the bytes, long ones are first cut into contiguous sections at paragraph ends.
Equal texts have equal hashes and stay together, so nothing that is tested on was trained on.

    split(Path("corpus"), SplitOptions())["said"]
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from myna.corpus.options import SplitOptions
from myna.corpus.store import PARTS, RANGE, TEXT
from myna.errors import UserError
from myna.files import write_json

_FEW_DOCUMENTS = 20  # fewer, and one document is more than the 5 % that a part may hold
_LARGE_SHARE = 0.2
_SECTIONS = 40  # a small corpus is cut into about this many sections, two of which make 5 %
_LEAST_SECTION = 512  # bytes; shorter sections measure nothing
_ENDS = (b"\n\n", b"\n", "。".encode(), "！".encode(), "？".encode(), b". ", b"! ", b"? ", b" ")
_TRAIN, _VALID, _TEST, _LEFT_OUT = 0, 1, 2, 3


def split(folder: Path, options: SplitOptions) -> dict[str, Any]:
    """Write train.npy, valid.npy, test.npy and split.json into a cleaned corpus; returns what split.json holds.

    Raises UserError, with numbers, when there is too little text for three parts.
    """
    documents = np.load(folder / "documents.npy", mmap_mode="r")
    said: list[str] = []
    units, keys = _units(folder, documents, options, said)
    given = {int(role) for role in np.unique(documents["role"])}
    main = np.flatnonzero(documents["role"][units["document"]] == 0)
    part = documents["role"][units["document"]].astype(np.int8)
    _leave_out(part, keys, main, said)
    main = main[part[main] == _TRAIN]
    wanted = [role for role in (_TEST, _VALID) if role not in given]
    said += [f"{PARTS[role]} is the files given for it" for role in (_VALID, _TEST) if role in given]
    rank_units(part, units, keys, main, [(role, (options.valid_fraction, options.test_fraction)[role - 1]) for role in wanted])
    lengths = units["end"] - units["start"]
    counts: dict[str, Any] = {}
    for role, name in enumerate(PARTS):
        chosen = units[part == role]
        if not len(chosen):
            raise UserError(f"the text is too small for the split: {int(lengths.sum()):,} bytes in {len(units)} "
                            f"{'piece' if len(units) == 1 else 'pieces'} leave nothing for {name}",
                            f"at least 3 different pieces of {_LEAST_SECTION} bytes", "give more text, or --valid and --test files")
        ranges = _join(chosen)
        np.save(folder / f"{name}.npy", ranges)
        counts[name] = {"bytes": int(lengths[part == role].sum()), "ranges": len(ranges), "documents": len(np.unique(ranges["document"]))}
    value = {**counts, "left_out_bytes": int(lengths[part == _LEFT_OUT].sum()), "said": said}
    write_json(folder / "split.json", value)
    return value


def _units(folder: Path, documents: NDArray[Any], options: SplitOptions, said: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """List what is ranked, documents or sections, with their hashes."""
    lengths = np.asarray(documents["end"] - documents["start"])
    main = np.asarray(documents["role"]) == 0
    total = int(lengths[main].sum())
    whole = np.zeros(len(documents), dtype=RANGE)
    whole["start"], whole["end"], whole["document"] = documents["start"], documents["end"], np.arange(len(documents))
    keys = np.asarray(documents["hash"])
    if not total or (int(main.sum()) >= _FEW_DOCUMENTS and lengths[main].max() <= _LARGE_SHARE * total):
        return whole, keys
    size = max(_LEAST_SECTION, min(options.section_bytes, total // _SECTIONS))
    rows: list[tuple[int, int, int]] = []
    hashes: list[bytes] = []
    cut = 0
    with (folder / TEXT).open("rb") as text:
        for number in range(len(documents)):
            start, end = int(documents["start"][number]), int(documents["end"][number])
            if not main[number]:
                rows.append((start, end, number))
                hashes.append(bytes(keys[number]))
                continue
            cut += end - start > size + size // 2
            for section in cut_sections(text, start, end, size):
                rows.append((start, start + len(section), number))
                hashes.append(hashlib.blake2b(section, digest_size=16).digest())
                start += len(section)
    if cut:
        which = "1 document was" if cut == 1 else f"{cut} documents were"
        said.append(f"{which} cut into sections of about {size:,} bytes at paragraph ends")
    return np.array(rows, dtype=RANGE), np.array(hashes, dtype="V16")


def cut_sections(text: BinaryIO, start: int, end: int, size: int) -> Iterator[bytes]:
    """Cut bytes [start, end) every `size` or a little less: at a paragraph, else a line, a sentence, a word, a character."""
    text.seek(start)
    held = b""
    left = end - start
    while left:
        held += text.read(min(2 * size, left) - len(held))
        cut = len(held) if left <= size + size // 2 else _end(held, size)
        yield held[:cut]
        held = held[cut:]
        left -= cut


def _end(data: bytes, size: int) -> int:
    for mark in _ENDS:
        found = data.rfind(mark, size // 2, size)
        if found >= 0:
            return found + len(mark)
    cut = size
    while data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _leave_out(part: NDArray[np.int8], keys: NDArray[Any], main: NDArray[np.int64], said: list[str]) -> None:
    """Take sections out of training that are the same as a document given for valid or test."""
    held = {bytes(key) for key in keys[part != _TRAIN]}
    if not held:
        return
    same = [row for row in main if bytes(keys[row]) in held]
    part[same] = _LEFT_OUT
    if same:
        said.append(f"{len(same)} sections equal to a given valid or test file were left out of training")


def rank_units(part: NDArray[np.int8], units: NDArray[Any], keys: NDArray[Any], main: NDArray[np.int64],
               wanted: list[tuple[int, float]], least: int = 1) -> None:
    """Give the lowest-ranked of the units `main` to each wanted part in turn: up to its share of the bytes, at least `least` texts.

    part: what is filled, a number per unit. units: rows with `start` and `end`. keys: their hashes, 16 bytes each.
    """
    words = np.ascontiguousarray(keys[main]).view(">u8").reshape(-1, 2)
    order = main[np.lexsort((words[:, 1], words[:, 0]))]
    lengths = np.asarray(units["end"] - units["start"])
    total = int(lengths[main].sum())
    row = 0
    for role, share in wanted:
        taken = groups = 0
        while row < len(order):
            group = row + 1  # equal texts stand next to each other and go together
            while group < len(order) and keys[order[group]] == keys[order[row]]:
                group += 1
            size = int(lengths[order[row:group]].sum())
            if groups >= least and taken + size > share * total:
                break
            part[order[row:group]] = role
            taken, groups = taken + size, groups + 1
            row = group


def _join(units: NDArray[Any]) -> NDArray[Any]:
    """Join neighbouring sections of one document, so that a document is broken only where something was taken out."""
    units = units[np.argsort(units["start"], kind="stable")]
    first = np.ones(len(units), dtype=bool)
    first[1:] = (units["start"][1:] != units["end"][:-1]) | (units["document"][1:] != units["document"][:-1])
    starts = np.flatnonzero(first)
    joined = units[starts].copy()
    joined["end"] = units["end"][np.append(starts[1:], len(units)) - 1]
    return joined
