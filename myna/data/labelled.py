"""Texts with labels, from rows or folders: what a classifier learns from, with everything said that would spoil its scores.

    rows        CSV, TSV, JSONL, JSON, Parquet: a column of text (or title and text) and one of labels, found by their usual names
    folders     pos.txt and neg.txt, a text a line; or pos/*.txt and neg/*.txt, a text a file: the name is the label

A text that stands twice with one label is taken once; with different labels it is left out, for nobody knows which is right. Both are
counted with the first place, as are empty texts and rows without a label. The split is by the hash of the text, so equal texts never
stand on two sides; where the test is given, what it shares with the training part is taken out of the latter.

    reading = read_labelled([Path("reviews.csv")], RowsOptions())
    parts = split_labelled(reading, SplitOptions())
    parts.texts["train"][0].text, parts.labels
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
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

# usual names of columns, likeliest first, compared in small letters: those of data sets that people share
_TEXTS = ("text", "sentence", "review", "content", "comment", "document", "article", "body", "message", "tweet", "utterance", "query",
          "question", "headline", "title", "文本", "评论", "评论内容", "内容", "句子", "正文", "文章", "问题", "标题")
_LABELS = ("label", "labels", "category", "categories", "class", "sentiment", "topic", "topics", "intent", "target", "polarity", "tag",
           "tags", "genre", "emotion", "stars", "rating",
           "标签", "类别", "分类", "情感", "情感倾向", "情绪", "意图", "主题", "类型", "评分")
_TITLES = ("title", "headline", "subject", "标题")  # joined with the text where both are there
_PART_NAMES = {"train", "training", "test", "testing", "valid", "validation", "dev"}
_MOST_LABELS = 10_000  # more is a column of something else
_LONGEST_LABEL = 200  # characters
_IMBALANCE = 10  # times that the most frequent label outnumbers the rarest, from which it is said
_FEW_TESTED = 50  # texts of the test part, below which one text moves the accuracy by more than 2 points
_SHOWN = 12  # labels listed with their counts


@dataclass(frozen=True)
class LabelledText:
    """A text and what it is labelled with; several labels, or none, only where texts may have several."""

    text: str
    labels: tuple[str, ...]
    where: str = ""
    "file:line"

    @property
    def key(self) -> bytes:
        """Hash the text, 16 bytes."""
        return hashlib.blake2b(self.text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass
class LabelledReading:
    """What was read: texts, each once, whether they may have several labels, and what is to be said of the reading."""

    texts: list[LabelledText] = field(default_factory=list)
    several: bool = False
    notes: Reading = field(default_factory=Reading)
    columns: dict[str, str] = field(default_factory=dict)
    "Where text and label were found, as {text: review, label: sentiment}; nothing of folders."

    def said(self) -> list[str]:
        """Say in lines where text and labels were found, and what was left out."""
        return self.notes.said()


@dataclass(frozen=True)
class Parts:
    """The parts of a split, the labels of the training part in order, and what is to be said."""

    texts: dict[str, list[LabelledText]]
    labels: list[str]
    said: list[str]


def read_labelled(paths: Sequence[Path], options: RowsOptions) -> LabelledReading:
    """Read files and folders. Raises UserError on a row that cannot be read unless `skip_bad`, and when nothing is left."""
    found = LabelledReading(several=options.multi_label)
    given: list[LabelledText] = []
    for root in paths:
        for place in walk([root]):
            if place.reason or not format_of(place.path) or place.path.suffix.lower() == ".md":
                reason = place.reason or f"not one of {', '.join(name for name in FORMATS if name != '.md')}"
                if place.path == root:
                    raise UserError(f"{place.name}: {reason}", "rows with labels, or folders of texts, one for each label")
                found.notes.note(f"files not read: {reason}", place.name)
                continue
            before = len(given)
            rows = _read_folder(root, place.path, found) if format_of(place.path) == "text" else _read_table(place.path, options, found)
            given += rows
            found.notes.files.append({"path": place.name, "sha256": sha256(place.path), "bytes": place.path.stat().st_size, "status": "ok",
                                      "format": format_of(place.path), "kept": sum(len(row.text.encode("utf-8", "replace"))
                                                                                   for row in given[before:]),
                                      "documents": len(given) - before})
    if not found.several and (first := next((text for text in given if len(text.labels) > 1), None)):
        found.several = True
        found.notes.note("text has several labels, so every text may have several", first.where)
    for text in [] if found.several else given:
        if any("|" in label for label in text.labels):
            found.notes.note("rows have a label with |, which is taken as one (--multi-label makes several of it)", text.where)
    found.texts = _take_once(given, found)
    if not found.texts:
        raise UserError("no text with a label is left" + "".join(f"; {line}" for line in found.said()[:3]), "texts with labels")
    names = {label for text in found.texts for label in text.labels}
    if len(names) > _MOST_LABELS:
        raise UserError(f"{len(names):,} different labels in {found.columns.get('label', 'the data')}", f"at most {_MOST_LABELS:,}",
                        "name the column of labels: --rows.label COLUMN")
    return found


def _take_once(given: Sequence[LabelledText], found: LabelledReading) -> list[LabelledText]:
    """Leave out empty texts, texts without a label, doubles, and texts whose labels contradict each other; each counted."""
    labels: dict[bytes, set[str]] = {}
    clashes: set[bytes] = set()
    for text in given:
        if labels.setdefault(text.key, set(text.labels)) != set(text.labels):
            clashes.add(text.key)
    taken: dict[bytes, LabelledText] = {}
    for text in given:
        if not text.text:
            found.notes.note("empty texts dropped", text.where)
        elif not text.labels and not found.several:
            found.notes.note("rows without a label dropped", text.where)
        elif text.key in clashes:
            found.notes.note("rows dropped whose text also stands with another label", text.where)
        elif text.key in taken:
            found.notes.note("duplicates dropped", text.where)
        else:
            taken[text.key] = text
    return list(taken.values())


# ---- folders ----

def _read_folder(root: Path, path: Path, found: LabelledReading) -> Iterator[LabelledText]:
    """Read a text file: in a folder of a label's name it is one text, else it has the label's name and a text on each line."""
    inside = path.relative_to(root).parts if path != root else (path.name,)
    label = inside[0].split(".")[0] if len(inside) == 1 else inside[0]
    if label.lower() in _PART_NAMES:
        raise UserError(f"{path} would have the label {label!r}", "folders or files named by labels",
                        f"give the parts apart: {root / label} --test {root / 'test'}")
    text = "".join(str(row.value.get("text", "")) for row in read_rows(path))
    if len(inside) > 1:
        found.notes.formats["a folder for each label, a text in each file"] += 1
        yield LabelledText(text.strip(), (label,), str(path))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found.notes.formats["a file for each label, a text on each line"] += 1
            yield LabelledText(line.strip(), (label,), f"{path}:{number}")


# ---- rows ----

def _read_table(path: Path, options: RowsOptions, found: LabelledReading) -> Iterator[LabelledText]:
    columns: tuple[tuple[str, ...], str] | None = None
    for row in read_rows(path):
        where = f"{path}:{row.line}"
        try:
            if row.problem:
                raise _BadRowError(row.problem)
            if columns is None or not {*columns[0], columns[1]} <= row.value.keys():
                columns = find_columns(row.value, options, where)
                found.columns = {"text": " + ".join(columns[0]), "label": columns[1]}
            text, labels = _take(row, columns, options)
        except _BadRowError as error:
            if not options.skip_bad:
                raise UserError(f"{where}: {error}", "a row with a text and a label", "mend the row, or pass over such rows with --skip-bad"
                                ) from None
            found.notes.note("bad rows passed over", where)
            continue
        found.notes.formats[f"text: {' + '.join(columns[0])}, label: {columns[1]}"] += 1
        yield LabelledText(text, labels, where)


class _BadRowError(Exception):
    """A row that cannot be read, and why."""


def find_columns(row: Mapping[str, Any], options: RowsOptions, where: str, label: bool = True) -> tuple[tuple[str, ...], str]:
    """Find the columns of text (one, or a title and a text) and of labels: those named, else those with usual names.

    label: False where labels are not needed; then '' when there are none. Raises UserError when a column cannot be found.
    """
    names = {str(name).strip().lower(): name for name in reversed(list(row))}

    def named(column: str, flag: str) -> str:
        if column not in row:
            raise UserError(f"{where} has no column {column!r}{nearest(column, list(row))}", f"one of {', '.join(map(str, row))[:200]}",
                            f"{flag} names it")
        return column

    def usual(known: Sequence[str], flag: str, what: str) -> str:
        first = next((names[name] for name in known if name in names), "")
        if not first:
            raise UserError(f"{where} has no column of {what} among {shown(', '.join(map(str, row)))}",
                            f"one called {', '.join(known[:6])}", f"name it: {flag} COLUMN")
        return first

    target = named(options.label, "--rows.label") if options.label else ""
    if not target and label:
        target = usual(_LABELS, "--rows.label", "labels")
    if options.text:
        parts = (options.text,) if options.text in row else tuple(part.strip() for part in options.text.split("+"))
        return tuple(named(part, "--rows.text") for part in parts), target
    text = usual([name for name in _TEXTS if names.get(name) != target], "--rows.text", "texts")
    title = next((names[name] for name in _TITLES if name in names and names[name] not in (text, target)), "")
    return ((title, text) if title else (text,)), target


def _take(row: Row, columns: tuple[tuple[str, ...], str], options: RowsOptions) -> tuple[str, tuple[str, ...]]:
    """Return a row's text and labels. Raises _BadRowError when either is of a kind that is none."""
    parts = [row.value[name] for name in columns[0]]
    if wrong := next((part for part in parts if part is not None and not isinstance(part, str)), None):
        raise _BadRowError(f"its text is {shown(wrong)}, no text")
    text = "\n".join(stripped for part in parts if part and (stripped := part.strip()))
    return text.replace("\x00", ""), _read_labels(row.value[columns[1]], options.multi_label)


def _read_labels(value: Any, several: bool) -> tuple[str, ...]:
    """Read a cell of labels: a string, a number, or a list; with `several` a string is divided at | or, without one, at , and ;.

    Raises _BadRowError on anything else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        listed: list[Any] = (value.split("|") if "|" in value else re.split("[,;，；、]", value)) if several else [value]
    elif isinstance(value, list):
        listed = value
    else:
        listed = [value]
    labels = []
    for one in listed:
        if isinstance(one, float) and math.isfinite(one) and one == int(one):
            one = int(one)  # a column of whole numbers in which one was missing
        if not isinstance(one, str | int | bool):
            raise _BadRowError(f"its label is {shown(one)}")
        if len(label := str(one).strip()) > _LONGEST_LABEL:
            raise _BadRowError(f"its label has {len(label):,} characters")
        labels += [label] if label else []
    return tuple(dict.fromkeys(labels))


# ---- the split ----

def split_labelled(reading: LabelledReading, options: SplitOptions, valid: LabelledReading | None = None,
                   test: LabelledReading | None = None) -> Parts:
    """Divide texts into train, valid and test by their hashes, or take the latter two as they are given.

    A tenth of the texts is held out for each unless the options say otherwise. Raises UserError when too few are left to train on.
    """
    said: list[str] = []
    given = {name: other.texts for name, other in (("valid", valid), ("test", test)) if other is not None}
    texts = reading.texts
    if "test" in given and "valid" in given:
        given["valid"] = _without(given["valid"], given["test"], "validation", "test", said)
    for name, others in given.items():
        texts = _without(texts, others, "training", name, said)
    parts = divide_by_hash(texts, [text.key for text in texts], given, options)
    labels = sorted({label for text in parts["train"] for label in text.labels})
    if len(labels) == 1 and not reading.several and len({text.labels for text in texts}) == 1:
        raise UserError(f"all {len(texts):,} texts to learn from have the label {shown(labels[0])}", "at least 2 labels",
                        "give texts with others")
    if len(labels) < 2 - reading.several or min(len(held) for held in parts.values()) < LEAST:
        counts = ", ".join(f"{len(held):,} for {name}" for name, held in parts.items())
        raise UserError(f"{len(reading.texts):,} texts leave {counts}, with {len(labels)} different labels to train on",
                        f"at least {LEAST} texts in each part, and 2 labels", "give more texts")
    return Parts(parts, labels, said + describe_parts(parts, labels, reading.several))


def _without(texts: Sequence[LabelledText], others: Sequence[LabelledText], of: str, name: str, said: list[str]) -> list[LabelledText]:
    held = {text.key for text in others}
    left = [text for text in texts if text.key not in held]
    if len(left) < len(texts):
        said.append(f"{len(texts) - len(left):,} texts of the {of} part stand in the {name} part too and were taken out of the former")
    return left


def describe_parts(parts: Mapping[str, Sequence[LabelledText]], labels: Sequence[str], several: bool) -> list[str]:
    """Say in lines how many texts and labels there are, how even they are, and which labels are never learned."""
    said = [", ".join(f"{name} {len(texts):,}" for name, texts in parts.items()) + " texts" +
            (f"; {sum(len(text.labels) for text in parts['train']) / len(parts['train']):.2f} labels a text" if several else "")]
    counts = Counter(label for text in parts["train"] for label in text.labels)
    listed = [f"{label} {count:,} ({count / len(parts['train']):.1%})" for label, count in counts.most_common(_SHOWN)]
    said.append(f"{len(labels)} labels in training: " + ", ".join(listed) + (", ..." if len(labels) > _SHOWN else ""))
    most, least = counts.most_common()[0], counts.most_common()[-1]
    if most[1] >= _IMBALANCE * least[1]:
        said.append(f"uneven: {most[0]} stands {most[1] / least[1]:.0f} times as often as {least[0]} ({least[1]:,}); macro F1 says how "
                    "well rare labels are told")
    if len(parts["test"]) < _FEW_TESTED:
        said.append(f"the test part has {len(parts['test'])} texts only: its scores say little, as their intervals show")
    for name in ("valid", "test"):
        unseen = Counter(label for text in parts[name] for label in text.labels if label not in counts)
        if unseen:
            said.append(f"{sum(unseen.values()):,} labels in {name} were never seen in training, so they are always wrong: "
                        + ", ".join(list(unseen)[:_SHOWN]))
    return said
