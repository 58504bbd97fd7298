"""Pairs of a source and a target from rows: a sentence and its translation, a text and its summary, a question and its answer.

    rows        CSV, TSV, JSONL, JSON, Parquet: a column of sources and one of targets, found by their usual names or named

Each pair is taken once. Pairs with an empty side are left out; both are counted with the first place. A source with several targets
keeps them all, for each may be right, and that is counted too. The split is by the hash of the source, so equal sources never stand on
two sides; where validation or test are given, pairs whose sources stand there are taken out of the training part.

    reading = read_pairs([Path("pairs.jsonl")], RowsOptions(), ("source", "en"), ("target", "zh"))
    parts = split_pairs(reading, SplitOptions())
    parts["train"][0].source, parts["train"][0].target
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.corpus.options import SplitOptions
from myna.corpus.read import walk
from myna.data.conversations import Reading
from myna.data.division import LEAST, divide_by_hash
from myna.data.options import RowsOptions
from myna.data.rows import FORMATS, Row, format_of, read_rows
from myna.errors import UserError, nearest, shown
from myna.files import sha256

_TEXTS = (".txt", ".md")  # formats that have no columns


@dataclass(frozen=True)
class Pair:
    """A source and its target."""

    source: str
    target: str
    where: str = ""
    "file:line"
    group: str = ""
    "What it belongs to, as a module or a document: pairs of one group are not divided."

    @property
    def key(self) -> bytes:
        """Hash the group, or the source where there is none, 16 bytes: equal for pairs that must not be divided."""
        return hashlib.blake2b((self.group or self.source).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass
class PairReading:
    """What was read: pairs, each once, the columns they were found in, and what is to be said of the reading."""

    pairs: list[Pair] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    "Where the sides were found, as {source: en, target: zh}."
    notes: Reading = field(default_factory=Reading)

    def said(self) -> list[str]:
        """Say in lines where the sides were found, and what was left out."""
        return self.notes.said()


def read_pairs(paths: Sequence[Path], options: RowsOptions, sources: Sequence[str], targets: Sequence[str], group: str = "",
               strip: bool = True) -> PairReading:
    """Read files and folders of rows; each pair once, in order.

    sources, targets: usual names of the columns, likeliest first, compared in small letters; `options.text` and `options.answer` name
    others. group: the column that says what a row belongs to, where rows have it. strip: space around a side means nothing. Raises
    UserError on a row that cannot be read unless `options.skip_bad`, and when nothing is left.
    """
    found = PairReading()
    seen: set[tuple[str, str]] = set()
    first_targets: dict[str, str] = {}
    for place in walk(paths):
        if place.reason or not format_of(place.path) or place.path.suffix.lower() in _TEXTS:
            reason = place.reason or f"not one of {', '.join(name for name in FORMATS if name not in _TEXTS)}"
            if place.path in paths:
                raise UserError(f"{place.name}: {reason}", "rows with a column of sources and one of targets")
            found.notes.note(f"files not read: {reason}", place.name)
            continue
        before, size = len(found.pairs), 0
        for pair in _read_table(place.path, place.name, options, sources, targets, found, group, strip):
            if not pair.source or not pair.target:
                found.notes.note(f"pairs with an empty {'target' if pair.source else 'source'} dropped", pair.where)
            elif (pair.source, pair.target) in seen:
                found.notes.note("duplicates dropped", pair.where)
            else:
                if first_targets.setdefault(pair.source, pair.target) != pair.target:
                    found.notes.note("more targets of a source that stands with another, all kept", pair.where)
                seen.add((pair.source, pair.target))
                found.pairs.append(pair)
                size += len(pair.source.encode("utf-8", "replace")) + len(pair.target.encode("utf-8", "replace"))
        found.notes.files.append({"path": place.name, "sha256": sha256(place.path), "bytes": place.path.stat().st_size, "status": "ok",
                                  "format": format_of(place.path), "kept": size, "documents": len(found.pairs) - before})
    if not found.pairs:
        raise UserError("no pair with two sides is left" + "".join(f"; {line}" for line in found.said()[:3]),
                        "rows with a source and a target")
    return found


def _read_table(path: Path, name: str, options: RowsOptions, sources: Sequence[str], targets: Sequence[str],
                found: PairReading, group: str, strip: bool) -> Iterator[Pair]:
    """Yield the pairs of a file; a side of space alone is empty."""
    columns: tuple[str, str] | None = None
    for row in read_rows(path):
        where = f"{name}:{row.line}"
        if not row.problem and (columns is None or not {*columns} <= row.value.keys()):
            columns = find_sides(row.value, options, where, sources, targets)
            found.columns = {"source": columns[0], "target": columns[1]}
        if problem := row.problem or _wrong(row, columns):
            if not options.skip_bad:
                raise UserError(f"{where}: {problem}", "a row with a source and a target",
                                "mend the row, or pass over such rows with --skip-bad")
            found.notes.note("bad rows passed over", where)
            continue
        assert columns is not None
        found.notes.formats[f"source: {columns[0]}, target: {columns[1]}"] += 1
        source, target = (_clean(row.value[column], strip) for column in columns)
        yield Pair(source, target, where, str(row.value.get(group) or "") if group else "")


def _wrong(row: Row, columns: tuple[str, str] | None) -> str:
    for side, column in zip(("source", "target"), columns or (), strict=False):
        if row.value[column] is not None and not isinstance(row.value[column], str):
            return f"its {side} is {shown(row.value[column])}, no text"
    return ""


def _clean(value: str | None, strip: bool) -> str:
    text = (value or "").replace("\x00", "")
    return text.strip() if strip or text.isspace() else text


def find_sides(row: Mapping[str, Any], options: RowsOptions, where: str, sources: Sequence[str], targets: Sequence[str]) -> tuple[str, str]:
    """Find the columns of sources and of targets: those named, else the first with usual names, two different ones.

    Raises UserError when one cannot be found.
    """
    names = {str(name).strip().lower(): name for name in reversed(list(row))}

    def column(given: str, known: Sequence[str], flag: str, what: str, taken: str) -> str:
        if given and given not in row:
            raise UserError(f"{where} has no column {given!r}{nearest(given, [str(name) for name in row])}",
                            f"one of {', '.join(map(str, row))[:200]}", f"{flag} names it")
        usual = (names[name] for name in known if name in names and names[name] != taken)
        if not (chosen := given or next(usual, "")):
            raise UserError(f"{where} has no column of {what} among {shown(', '.join(map(str, row)))}",
                            f"one called {', '.join(known[:6])}", f"name it: {flag} COLUMN")
        return str(chosen)

    source = column(options.text, sources, "--rows.text", "sources", options.answer)
    return source, column(options.answer, targets, "--rows.answer", "targets", source)


def split_pairs(reading: PairReading, options: SplitOptions, valid: PairReading | None = None,
                test: PairReading | None = None) -> dict[str, list[Pair]]:
    """Divide pairs into train, valid and test by the hashes of their sources, or take the latter two as they are given.

    A tenth is held out for each unless the options say otherwise. What is taken out of a part because it stands in another is counted in
    `reading.notes`. Raises UserError when too few are left.
    """
    given = {name: other.pairs for name, other in (("valid", valid), ("test", test)) if other is not None}
    pairs = reading.pairs
    if "test" in given and "valid" in given:
        given["valid"] = _without(given["valid"], given["test"], "validation pairs taken out, whose sources are tested", reading)
    for name, others in given.items():
        pairs = _without(pairs, others, f"training pairs taken out, whose sources stand in the {name} part", reading)
    parts = divide_by_hash(pairs, [pair.key for pair in pairs], given, options)
    if min(len(held) for held in parts.values()) < LEAST:
        counts = ", ".join(f"{len(held):,} for {name}" for name, held in parts.items())
        raise UserError(f"{len(reading.pairs):,} pairs leave {counts}", f"at least {LEAST} pairs in each part", "give more pairs")
    return parts


def _without(pairs: Sequence[Pair], others: Sequence[Pair], what: str, reading: PairReading) -> list[Pair]:
    held = {pair.key for pair in others}
    left = []
    for pair in pairs:
        if pair.key in held:
            reading.notes.note(what, pair.where)
        else:
            left.append(pair)
    return left
