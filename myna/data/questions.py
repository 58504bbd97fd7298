"""Questions with the passage they are asked of and the answers that stand in it: what a reader learns from and is measured on.

    rows        CSV, TSV, JSONL, JSON, Parquet: a question, a passage (or the name of a text file beside the rows), and answers: a text, a
                list, or SQuAD's {"text": [...], "answer_start": [...]}
    nested      SQuAD's own JSON: data, paragraphs, context, qas

A question without an answer, or marked `is_impossible`, is one that its passage does not answer. What stands twice is taken once; answers
that do not stand in their passage are counted. Parts are divided by the hash of the passage, so no passage stands on two sides.

    reading = read_questions([Path("questions.jsonl")], RowsOptions())
    parts = split_questions(reading, SplitOptions())
    parts.questions["train"][0].question
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.corpus.options import SplitOptions
from myna.corpus.read import walk
from myna.corpus.store import PARTS
from myna.data.conversations import Reading
from myna.data.division import LEAST, divide_by_hash
from myna.data.options import RowsOptions
from myna.data.rows import FORMATS, Row, format_of, read_rows
from myna.errors import UserError, nearest, shown
from myna.files import read_regular, sha256

# usual names of columns, likeliest first: SQuAD's, and those of sets like it
_QUESTIONS = ("question", "query", "prompt", "ask")
_PASSAGES = ("context", "passage", "paragraph", "document", "text", "article", "body")
_FILES = ("file", "path", "filename")
_ANSWERS = ("answers", "answer", "response", "label", "target")
_UNANSWERED = frozenset(("", "unknown", "unanswerable", "no answer", "none", "null"))  # what sets write where there is no answer
_LARGEST = 512 << 20  # bytes of a nested file, which is read whole
_LONGEST_PASSAGE = 4 << 20  # bytes of a passage in a file of its own
_SHARE = 0.2  # of the passages for each of validation and test: the decision whether to answer is fitted on the former


@dataclass(frozen=True)
class Question:
    """A question, its passage, and the answers with the character each begins at in the passage (-1: it does not stand there)."""

    question: str
    passage: str
    answers: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()
    where: str = ""
    "file:line"

    @property
    def key(self) -> bytes:
        """Hash question and passage, 16 bytes."""
        return hash_text(f"{self.question}\0{self.passage}")


@dataclass(frozen=True)
class Excerpt:
    """A few sentences beside a question, and the characters of them that answer it, or -1 and -1."""

    question: str
    text: str
    start: int
    end: int


@dataclass
class QuestionReading:
    """What was read, and what is to be said of it."""

    questions: list[Question] = field(default_factory=list)
    notes: Reading = field(default_factory=Reading)

    def said(self) -> list[str]:
        """Say in lines where questions, passages and answers were found, and what was left out."""
        return self.notes.said()


@dataclass(frozen=True)
class QuestionParts:
    """The parts of a split, and what is to be said."""

    questions: dict[str, list[Question]]
    said: list[str]


def hash_text(text: str) -> bytes:
    """Hash a text, 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def read_questions(paths: Sequence[Path], options: RowsOptions) -> QuestionReading:
    """Read files and folders. Raises UserError on a row that cannot be read unless `skip_bad`, and when nothing is left."""
    reading = QuestionReading()
    seen: set[tuple[bytes, tuple[str, ...]]] = set()
    for root in paths:
        for place in walk([root]):
            if place.reason or format_of(place.path) in ("", "text"):
                reason = place.reason or f"not one of {', '.join(name for name, kind in FORMATS.items() if kind != 'text')}"
                if place.path == root:
                    raise UserError(f"{place.name}: {reason}", "rows with questions, passages and answers")
                reading.notes.note(f"files not read: {reason}", place.name)
                continue
            before = len(reading.questions)
            for question in _read_file(place.path, options, reading):
                if (double := (question.key, question.answers)) in seen:
                    reading.notes.note("duplicates dropped", question.where)
                    continue
                seen.add(double)
                reading.questions.append(question)
            kept = sum(len(question.question.encode("utf-8", "replace")) for question in reading.questions[before:])
            reading.notes.files.append({"path": place.name, "sha256": sha256(place.path), "bytes": place.path.stat().st_size,
                                        "status": "ok", "format": format_of(place.path), "kept": kept,
                                        "documents": len(reading.questions) - before})
    if not reading.questions:
        raise UserError("no question is left" + "".join(f"; {line}" for line in reading.said()[:3]),
                        "rows with a question, a passage and answers")
    return reading


def _read_file(path: Path, options: RowsOptions, reading: QuestionReading) -> Iterator[Question]:
    nested = _nested(path)
    columns: tuple[str, str, str, bool] | None = None
    for row in read_rows(path) if nested is None else nested:
        where = f"{path}:{row.line}"
        try:
            if row.problem:
                raise _BadRowError(row.problem)
            if columns is None or not {columns[0], columns[1]} <= row.value.keys():
                columns = _find_columns(row.value, options, where)
            question = _take(row.value, columns, where, path.parent, reading)
        except _BadRowError as error:
            if not options.skip_bad:
                raise UserError(f"{where}: {error}", "a row with a question, a passage and answers",
                                "mend the row, or pass over such rows with --skip-bad") from None
            reading.notes.note("bad rows passed over", where)
            continue
        reading.notes.formats["SQuAD's nested JSON" if nested is not None else
                              f"question: {columns[0]}, passage: {columns[1]}, answers: {columns[2] or 'none'}"] += 1
        if question is None:
            reading.notes.note("rows without a question or a passage dropped", where)
            continue
        yield question


class _BadRowError(Exception):
    """A row that cannot be read, and why."""


# ---- nested files ----

def _nested(path: Path) -> list[Row] | None:
    """Return the questions of SQuAD's nested JSON as rows numbered from 1; None where the file is something else."""
    if format_of(path) != "json" or path.suffix.lower() != ".json":
        return None
    with path.open("rb") as file:
        if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return None
    try:
        value = json.loads(read_regular(path, _LARGEST))
    except (ValueError, RecursionError):
        return None  # a row a line under this name, perhaps
    listed = value.get("data") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        return None
    rows: list[Row] = []
    for article in listed:
        for paragraph in _listed(article, "paragraphs"):
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            for asked in _listed(paragraph, "qas"):
                number = len(rows) + 1
                rows.append(Row(number, {**asked, "context": context}) if isinstance(asked, dict) else Row(number, {}, "no object in qas"))
    return rows


def _listed(value: Any, name: str) -> list[Any]:
    listed = value.get(name) if isinstance(value, dict) else None
    return listed if isinstance(listed, list) else []


# ---- rows ----

def _find_columns(row: Mapping[str, Any], options: RowsOptions, where: str) -> tuple[str, str, str, bool]:
    """Find the columns of question, passage and answers ('' where there are none), and whether the passage is a file's name."""
    names = {str(name).strip().lower(): str(name) for name in reversed(list(row))}

    def find(given: str, known: Sequence[str], flag: str, what: str) -> str:
        if given:
            if given not in row:
                raise UserError(f"{where} has no column {given!r}{nearest(given, list(map(str, row)))}",
                                f"one of {', '.join(map(str, row))[:200]}", f"{flag} names it")
            return given
        first = next((names[name] for name in known if name in names), "")
        if not first and what:
            raise UserError(f"{where} has no column of {what} among {shown(', '.join(map(str, row)))}",
                            f"one called {', '.join(known[:6])}", f"name it: {flag} COLUMN")
        return first

    question = find(options.prompt, _QUESTIONS, "--rows.prompt", "questions")
    passage = find(options.text, _PASSAGES, "--rows.text", "")
    file = "" if passage else find("", _FILES, "--rows.text", "")
    if not passage and not file:
        passage = find("", _PASSAGES, "--rows.text", "passages")
    return question, passage or file, find(options.answer, _ANSWERS, "--rows.answer", ""), not passage


def _take(row: Mapping[str, Any], columns: tuple[str, str, str, bool], where: str, folder: Path,
          reading: QuestionReading) -> Question | None:
    """Return a row's question; None where it or its passage is empty. Raises _BadRowError where one is of a kind that is none."""
    for name in columns[:2]:
        if row.get(name) is not None and not isinstance(row[name], str):
            raise _BadRowError(f"{name} is {shown(row[name])}, no text")
    question, passage = ((row.get(name) or "").replace("\x00", "").strip() for name in columns[:2])
    if not question or not passage:
        return None
    if columns[3]:
        passage = _read_passage(folder, passage)
    answers = _read_answers(row.get(columns[2]) if columns[2] else None)
    if row.get("is_impossible") in (True, "true", "True", 1):
        answers = []
    unsaid = [answer for answer, _ in answers if answer.lower() in _UNANSWERED and answer not in passage]
    answers = [(answer, start) for answer, start in answers if answer not in unsaid]
    if any(unsaid):
        reading.notes.note(f"questions whose answer is {shown(next(filter(None, unsaid)))} taken as unanswered", where)
    found = [(answer, start) if start >= 0 and passage[start:start + len(answer)] == answer else find_answer(answer, passage)
             for answer, start in answers]
    if found and all(start < 0 for _, start in found):
        reading.notes.note("answers that do not stand in their passage, so no reader learns from them", where)
    return Question(question, passage, tuple(answer for answer, _ in found), tuple(start for _, start in found), where)


def find_answer(answer: str, passage: str) -> tuple[str, int]:
    """Return an answer as it stands in a passage, and where; spaces and case may differ. The answer and -1 where it does not."""
    if (start := passage.find(answer)) >= 0:
        return answer, start
    places = [place for place, letter in enumerate(passage) if not letter.isspace()]
    bare, wanted = "".join(passage[place] for place in places), "".join(answer.split())
    start = bare.find(wanted)
    if start < 0 and len(bare.lower()) == len(bare):  # of some letters the small one is two
        start = bare.lower().find(wanted.lower())
    if start < 0 or not wanted:
        return answer, -1
    begin, end = places[start], places[start + len(wanted) - 1] + 1
    return passage[begin:end], begin


def _read_passage(folder: Path, name: str) -> str:
    """Read the text file that a row names; only one that lies beside the rows or in a folder there."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise _BadRowError(f"its file {shown(name)} is not in the folder of the rows")
    if format_of(path) != "text" or path.stat().st_size > _LONGEST_PASSAGE:
        raise _BadRowError(f"its file {shown(name)} is no text of at most {_LONGEST_PASSAGE:,} bytes")
    return "".join(str(row.value.get("text", "")) for row in read_rows(path)).strip()


def _read_answers(value: Any) -> list[tuple[str, int]]:
    """Read a cell of answers, each with where it says that it begins (-1: it does not say). Raises _BadRowError on anything else."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):  # a list in a cell of CSV
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        starts = value.get("answer_start")
        starts = starts if isinstance(starts, list) and len(starts) == len(value["text"]) else [-1] * len(value["text"])
        value = [{"text": text, "answer_start": start} for text, start in zip(value["text"], starts, strict=True)]
    found: dict[str, int] = {}
    for one in [value] if not isinstance(value, list) else value:
        text, start = (one.get("text"), one.get("answer_start", -1)) if isinstance(one, dict) else (one, -1)
        if text is None:
            continue
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise _BadRowError(f"its answer is {shown(text)}")
        kept = str(text).replace("\x00", "").strip()
        found.setdefault(kept, start if isinstance(start, int) and kept == text else -1)
    return [(text, start) for text, start in found.items() if text]


# ---- the split ----

def split_questions(reading: QuestionReading, options: SplitOptions, valid: QuestionReading | None = None,
                    test: QuestionReading | None = None) -> QuestionParts:
    """Divide questions into train, valid and test by the hashes of their passages, or take the latter two as they are given.

    A fifth of the passages is held out for each unless the options say otherwise. Raises UserError when too few are left.
    """
    said: list[str] = []
    given = {name: other.questions for name, other in (("valid", valid), ("test", test)) if other is not None}
    questions = reading.questions
    for name, others in given.items():
        texts = {question.passage for question in others}
        left = [question for question in questions if question.passage not in texts]
        if len(left) < len(questions):
            said.append(f"{len(questions) - len(left):,} questions whose passage stands in the {name} part too were taken out")
        questions = left
    passages = list(dict.fromkeys(question.passage for question in questions))
    apart: dict[str, list[str]] = {name: [] for name in given}
    chosen = divide_by_hash(passages, [hash_text(passage) for passage in passages], apart, options, _SHARE)
    parts = {name: given.get(name) or _on(questions, set(chosen[name])) for name in PARTS}
    if min(len(held) for held in parts.values()) < LEAST or not all(any(one.answers for one in parts[name]) for name in PARTS):
        counts = ", ".join(f"{len(held):,} for {name}" for name, held in parts.items())
        raise UserError(f"{len(reading.questions):,} questions on {len(passages):,} passages leave {counts}",
                        f"at least {LEAST} questions in each part, one of them answered", "give more questions")
    for name, held in parts.items():
        said.append(f"{name}: {len(held):,} questions on {len({one.passage for one in held}):,} passages, "
                    f"{sum(not one.answers for one in held):,} of them not answered there")
    return QuestionParts(parts, said)


def _on(questions: Sequence[Question], passages: set[str]) -> list[Question]:
    return [question for question in questions if question.passage in passages]
