"""Questions with what is relevant to them, by which the finding of an index is measured.

Rows of CSV, TSV, JSONL, JSON or Parquet with a column of questions, and one that says what must be found, or both of these:

    relevant    the file, or several: a list, or a cell divided by |; a name, or as much of the path as tells it from others
    quote       words of the passage: of that file's, or, where no file is named, of any

    question,relevant,quote
    who built the tower?,history.txt,
    谁建了这座塔？,towers/pisa.md|towers/paris.md,建于1889年

    reading = read_queries([Path("questions.csv")], RowsOptions())
    reading.queries[0].text, reading.queries[0].relevant
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.data.conversations import Reading
from myna.data.options import RowsOptions
from myna.data.rows import FORMATS, Row, format_of, read_rows
from myna.errors import UserError, nearest, shown
from myna.files import sha256

# usual names of the columns, likeliest first, compared in small letters
QUESTIONS = ("question", "query", "questions", "queries", "问题", "查询", "text", "ask")
RELEVANT = ("relevant", "passage", "passages", "document", "documents", "file", "files", "doc", "doc_id", "文件", "文档", "段落")
QUOTES = ("quote", "quotation", "excerpt", "引文", "原文")


@dataclass(frozen=True)
class Query:
    """A question, and what is relevant to it."""

    text: str
    relevant: tuple[str, ...] = ()
    "Files, by as much of their paths as tells them from others."
    quote: str = ""
    "Words of the passage that must be found; empty: any passage of the files is right."
    where: str = ""
    "file:line"


@dataclass
class QueryReading:
    """What was read: questions, each once, and what is to be said of the reading."""

    queries: list[Query] = field(default_factory=list)
    notes: Reading = field(default_factory=Reading)

    def said(self) -> list[str]:
        """Say in lines where questions and what is relevant were found, and what was left out."""
        return self.notes.said()


def read_queries(paths: Sequence[Path], options: RowsOptions) -> QueryReading:
    """Read files of rows; each question once, in order. options.text and options.label name other columns than the usual ones.

    Raises UserError on a row that cannot be read unless `skip_bad`, and when no question is left.
    """
    found = QueryReading()
    seen: set[Query] = set()
    for path in paths:
        if format_of(path) in ("", "text"):
            raise UserError(f"{path}: no rows of questions", ", ".join(name for name, form in FORMATS.items() if form != "text"),
                            "write rows with the columns question and relevant")
        before = len(found.queries)
        for query in _read_table(path, options, found):
            plain = dataclasses.replace(query, where="")
            if not query.text:
                found.notes.note("rows without a question dropped", query.where)
            elif not query.relevant and not query.quote:
                found.notes.note("questions dropped to which nothing is relevant", query.where)
            elif plain in seen:
                found.notes.note("duplicates dropped", query.where)
            else:
                seen.add(plain)
                found.queries.append(query)
        found.notes.files.append({"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size, "status": "ok",
                                  "format": format_of(path), "documents": len(found.queries) - before})
    if not found.queries:
        raise UserError("no question with something relevant is left" + "".join(f"; {line}" for line in found.said()[:3]),
                        "rows with the columns question and relevant")
    return found


def _read_table(path: Path, options: RowsOptions, found: QueryReading) -> Iterator[Query]:
    for row in read_rows(path):
        where = f"{path}:{row.line}"
        problem, columns = row.problem, ("", "", "")
        if not problem:
            columns = _find_columns(row.value, options, where)
            problem = _wrong(row, columns)
        if problem:
            if not options.skip_bad:
                raise UserError(f"{where}: {problem}", "a row with a question and what is relevant to it",
                                "mend the row, or pass over such rows with --skip-bad")
            found.notes.note("bad rows passed over", where)
            continue
        asked, relevant, quote = columns
        found.notes.formats[", ".join(f"{name}: {column}" for name, column in
                                      zip(("question", "relevant", "quote"), columns, strict=True) if column)] += 1
        yield Query(str(row.value[asked] or "").strip(), _split(row.value[relevant]) if relevant else (),
                       str(row.value[quote] or "").strip() if quote else "", where)


def _find_columns(row: Mapping[str, Any], options: RowsOptions, where: str) -> tuple[str, str, str]:
    """Find the columns of question, relevant and quote; of the latter two one may be missing. Raises UserError when more are."""
    for given, flag in ((options.text, "--text"), (options.label, "--label")):
        if given and given not in row:
            raise UserError(f"{where} has no column {given!r}{nearest(given, [str(name) for name in row])}",
                            f"one of {shown(', '.join(map(str, row)))}", f"{flag} names it")
    names = {str(name).strip().lower(): str(name) for name in reversed(list(row))}
    asked = options.text or next((names[name] for name in QUESTIONS if name in names), "")
    relevant = options.label or next((names[name] for name in RELEVANT if name in names), "")
    quote = next((names[name] for name in QUOTES if name in names), "")
    if not asked or not (relevant or quote):
        what = "relevant (files), or quote (words of the passage)" if asked else "question"
        raise UserError(f"{where} has no column called {what} among {shown(', '.join(map(str, row)))}", "question and relevant",
                        "name them: --text COLUMN for the question, --label COLUMN for the files")
    return asked, relevant, quote


def _wrong(row: Row, columns: tuple[str, str, str]) -> str:
    asked, relevant, quote = columns
    for name, column in (("question", asked), ("quote", quote)):
        if column and row.value[column] is not None and not isinstance(row.value[column], str):
            return f"its {name} is {shown(row.value[column])}, no text"
    value = row.value[relevant] if relevant else None
    items = value if isinstance(value, list) else [value]
    if not all(item is None or isinstance(item, str) for item in items):
        return f"what is relevant is {shown(value)}, not names of files"
    return ""


def _split(value: str | list[str | None] | None) -> tuple[str, ...]:
    items = value.split("|") if isinstance(value, str) else value or []
    return tuple(dict.fromkeys(item.strip() for item in items if item and item.strip()))
