"""Sentences whose words have labels, from the files that such data comes in; and text cut into words, as labels of its characters.

    columns     a word and its label on each line, a blank line after each sentence (.tsv, .conll, .conllu, .iob, .bio; a .txt with tabs):
                the first column is the word, the last the label; of CoNLL-U the columns FORM and UPOS; `--rows.text 2 --rows.label 4`
                names others by their number
    rows        JSONL, JSON, Parquet, CSV with lists, or strings divided at spaces: tokens, words; and tags, ner_tags, pos_tags
    cut text    lines of words with spaces between them (.txt, or rows with words alone): each word's atoms (see `myna.tokenizer.atoms`)
                have the labels B, M, E (begin, middle, end) or S (alone)

A sentence that stands twice is taken once; of different labels for the same words those that stand most often. An I-X that continues
nothing becomes B-X, as CoNLL 2003 means it. All of this is counted. The split is by the hash of the words.

    reading = read_tagged([Path("cantonese/")], RowsOptions())
    parts = split_tagged(reading, SplitOptions())
    parts.sentences["train"][0].words, parts.sentences["train"][0].tags
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.corpus.decode import Decoder, is_binary
from myna.corpus.options import SplitOptions
from myna.corpus.piece import Piece
from myna.corpus.read import walk
from myna.corpus.tables import MAX_ROW, lines
from myna.data.conversations import Reading
from myna.data.division import LEAST, divide_by_hash
from myna.data.options import RowsOptions
from myna.data.rows import format_of, read_rows
from myna.errors import UserError, nearest, shown
from myna.files import BrokenFileError, RawFile, read_chunks, sha256
from myna.tokenizer.atoms import find_atoms, join_words
from myna.tokenizer.scripts import unspaced_bytes

_COLUMN_FILES = (".tsv", ".tab", ".conll", ".conllu", ".conll03", ".iob", ".iob2", ".bio", ".tags", ".pos", ".txt")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_WORDS = ("tokens", "words", "token", "word", "sentence", "text")  # usual names of columns, likeliest first, in small letters
_TAGS = ("tags", "ner_tags", "pos_tags", "labels", "ner", "pos", "upos", "xpos", "chunk_tags", "tag", "label")
_MOST_TAGS, _LONGEST_TAG = 2000, 200  # more is a column of something else
_SHOWN = 12  # labels listed with their counts
_LOOKED_AT, _UNSPACED_SHARE = 2000, 0.3  # sentences whose script is looked at; share of bytes from which it is one without spaces


@dataclass(frozen=True)
class TaggedSentence:
    """Words, each with its label; none where the words themselves are what is learned."""

    words: tuple[str, ...]
    tags: tuple[str, ...] = ()
    where: str = ""
    "file:line"

    @property
    def key(self) -> bytes:
        """Hash the words, 16 bytes."""
        return hashlib.blake2b("\x1f".join(self.words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass
class TaggedReading:
    """What was read: sentences, each once, and what is to be said of the reading."""

    sentences: list[TaggedSentence] = field(default_factory=list)
    notes: Reading = field(default_factory=Reading)
    segments: bool = False
    "Whether words are what is learned."

    def said(self) -> list[str]:
        """Say in lines where words and labels were found, and what was left out."""
        return self.notes.said()


@dataclass(frozen=True)
class TaggedParts:
    """The parts of a split, the labels of the training part in order, whether words have spaces between, and what is to be said."""

    sentences: dict[str, list[TaggedSentence]]
    tags: list[str]
    spaced: bool
    said: list[str]


class _BadRowError(Exception):
    """A row that cannot be read, and why."""


def read_tagged(paths: Sequence[Path], options: RowsOptions) -> TaggedReading:
    """Read files and folders. Raises UserError on what cannot be read unless `skip_bad`, and when nothing is left."""
    found = TaggedReading(segments=options.segment)
    given: list[TaggedSentence] = []
    for root in paths:
        for place in walk([root]):
            kind = _kind_of(place.path)
            if place.reason or not kind:
                reason = place.reason or f"not one of {', '.join((*_COLUMN_FILES, '.jsonl', '.json', '.csv', '.parquet'))}"
                if place.path == root:
                    raise UserError(f"{place.name}: {reason}", "words with labels")
                found.notes.note(f"files not read: {reason}", place.name)
                continue
            before = len(given)
            given += (_read_columns if kind == "columns" else _read_rows)(place.path, options, found)
            found.notes.files.append({"path": place.name, "sha256": sha256(place.path), "bytes": place.path.stat().st_size, "status": "ok",
                                      "format": kind, "kept": sum(len("".join(one.words).encode("utf-8", "replace"))
                                                                  for one in given[before:]), "documents": len(given) - before})
    cut = [one for one in given if not one.tags]
    if cut and len(cut) < len(given) and not options.segment:
        raise UserError(f"{cut[0].where} has words without labels, others have them", "one kind of data",
                        "give one alone, or --rows.segment to learn the words of all")
    found.segments = found.segments or bool(cut)
    found.sentences = _take_once(_mend(given, found), found)
    if not found.sentences:
        raise UserError("no sentence with labels is left" + "".join(f"; {line}" for line in found.said()[:3]), "words with labels")
    return found


def _kind_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in _COMPRESSED else suffixes[-1] if suffixes else ""
    if suffix in _COLUMN_FILES:
        return "columns"
    return "rows" if format_of(path) in ("jsonl", "json", "csv", "parquet") else ""


def _mend(given: Sequence[TaggedSentence], found: TaggedReading) -> list[TaggedSentence]:
    """Leave labels out where words are learned; else let every span begin with B-."""
    if found.segments:
        return [dataclasses.replace(one, tags=()) for one in given]
    names = {tag for one in given for tag in one.tags}
    if names <= {"B", "M", "E", "S"} and names & {"B", "S"}:
        found.segments = True
        found.notes.note("sentences of characters with B, M, E and S read as the words that they make", given[0].where)
        return [_assemble(one) for one in given]
    if not all(tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2) for tag in names):
        return list(given)
    mended = []
    for one in given:
        tags = list(one.tags)
        for at, tag in enumerate(tags):
            if tag.startswith("I-") and (at == 0 or tags[at - 1] not in (tag, "B-" + tag[2:])):
                tags[at] = "B-" + tag[2:]
                found.notes.note("spans that begin with I- read as B-", one.where)
        mended.append(dataclasses.replace(one, tags=tuple(tags)))
    return mended


def _assemble(one: TaggedSentence) -> TaggedSentence:
    words: list[str] = []
    for part, tag in zip(one.words, one.tags, strict=True):
        if tag in ("B", "S") or not words:
            words.append(part)
        else:
            words[-1] += part
    return TaggedSentence(tuple(words), (), one.where)


def _take_once(given: Sequence[TaggedSentence], found: TaggedReading) -> list[TaggedSentence]:
    """Take every sentence once, with the labels that stand most often."""
    votes: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
    for one in given:
        if not any(word.strip() for word in one.words):
            found.notes.note("empty sentences dropped", one.where)
            continue
        if one.words in votes:
            other = one.tags not in votes[one.words]
            found.notes.note("sentences dropped that stand more than once" + (", with other labels: the most frequent are kept"
                                                                             if other else ""), one.where)
        votes.setdefault(one.words, Counter())[one.tags] += 1
    taken: dict[tuple[str, ...], TaggedSentence] = {}
    for one in given:
        if one.words in votes and one.words not in taken and one.tags == votes[one.words].most_common(1)[0][0]:
            taken[one.words] = one
    return list(taken.values())


# ---- columns ----

def _read_columns(path: Path, options: RowsOptions, found: TaggedReading) -> Iterator[TaggedSentence]:
    """Read a file of lines: a word and its label on each, or a cut sentence on each."""
    cut: bool | None = False if path.suffix.lower() != ".txt" else None
    words: list[str] = []
    tags: list[str] = []
    begun = ""
    for number, line in _lines(path):
        where = f"{path}:{number}"
        if line is not None and line.strip() and cut is None:
            cut = "\t" not in line
        if line is not None and cut:
            if line.strip():
                found.notes.formats["a sentence on each line, spaces between its words"] += 1
                yield TaggedSentence(tuple(line.split()), (), where)
            continue
        if line is not None and not line.strip():
            if words:
                yield TaggedSentence(tuple(words), tuple(tags), begun)
            words, tags = [], []
            continue
        try:
            pair = _take_line(line, options, found, where)
        except _BadRowError as error:
            if not options.skip_bad:
                raise UserError(f"{where}: {error}", "a word, a tab and its label, a blank line after each sentence",
                                "mend the line, or pass over such lines with --skip-bad") from None
            found.notes.note("bad lines passed over", where)
            continue
        if pair is not None:
            begun = begun if words else where
            words.append(pair[0])
            tags.append(pair[1])
    if words:
        yield TaggedSentence(tuple(words), tuple(tags), begun)


def _take_line(line: str | None, options: RowsOptions, found: TaggedReading, where: str) -> tuple[str, str] | None:
    """Return a line's word and label, None where it is a comment. Raises _BadRowError when it has too few columns."""
    if line is None:
        raise _BadRowError(f"a line of more than {MAX_ROW:,} characters")
    line = line.strip("\r\n")
    cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
    if cells[0] == "-DOCSTART-" or (line.startswith("#") and len(cells) != 2):
        found.notes.note("lines of comments passed over", where)
        return None
    universal = len(cells) == 10 and cells[0].replace("-", "").replace(".", "").isdigit()
    if universal and not cells[0].isdigit():
        found.notes.note("lines of CoNLL-U passed over that are no single word", where)
        return None
    at = [_column(options.text, 1 if universal else 0, "--rows.text"), _column(options.label, 3 if universal else -1, "--rows.label")]
    if len(cells) < 2 or max(at) >= len(cells):
        raise _BadRowError(f"{len(cells)} columns: {shown(line)}")
    word, tag = cells[at[0]], cells[at[1]]
    if not word or not tag or len(tag) > _LONGEST_TAG:
        raise _BadRowError(f"no word, or no label: {shown(line)}")
    found.notes.formats[f"{len(cells)} columns: word in {at[0] + 1}, label in {at[1] % len(cells) + 1}"] += 1
    return word, tag


def _column(wanted: str, usual: int, flag: str) -> int:
    if not wanted:
        return usual
    if not wanted.isascii() or not wanted.isdigit() or not 1 <= int(wanted) <= 100:
        raise UserError(f"{flag} is {shown(wanted)}", "the number of a column, from 1 on, for these files have no header")
    return int(wanted) - 1


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Yield the lines of a text file with their numbers; None for one that is too long."""
    try:
        file = RawFile(path)
        try:
            if reason := is_binary(file.peek(0, 4096)) if path.suffix.lower() not in _COMPRESSED else "":
                raise BrokenFileError(reason)
            for number, line in enumerate(lines(Decoder().decode(read_chunks(file))), 1):
                yield number, line.text if isinstance(line, Piece) else None
        finally:
            file.close()
    except BrokenFileError as error:
        raise UserError(f"{path}: {error.reason}", "a file that can be read to its end", "restore the file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})", "a readable file") from None


# ---- rows ----

def _read_rows(path: Path, options: RowsOptions, found: TaggedReading) -> Iterator[TaggedSentence]:
    for row in read_rows(path):
        where = f"{path}:{row.line}"
        try:
            if row.problem:
                raise _BadRowError(row.problem)
            first, second = find_lists(row.value, options, where)
            words, tags = _list(row.value[first], "words"), _list(row.value[second], "labels") if second else ()
            if second and len(words) != len(tags):
                raise _BadRowError(f"{len(words)} words and {len(tags)} labels")
        except _BadRowError as error:
            if not options.skip_bad:
                raise UserError(f"{where}: {error}", "as many labels as words",
                                "mend the row, or pass over such rows with --skip-bad") from None
            found.notes.note("bad rows passed over", where)
            continue
        found.notes.formats[f"words: {first}" + (f", labels: {second}" if second else "")] += 1
        yield TaggedSentence(words, tags, where)


def find_lists(row: Mapping[str, Any], options: RowsOptions, where: str) -> tuple[str, str]:
    """Find the columns of words and of labels, '' where there is none of the latter. Raises UserError when there are no words."""
    names = {str(name).strip().lower(): str(name) for name in reversed(list(row))}
    found = []
    for flag, column, usual in (("--rows.text", options.text, _WORDS), ("--rows.label", options.label, _TAGS)):
        if column and column not in row:
            raise UserError(f"{where} has no column {column!r}{nearest(column, [str(name) for name in row])}", "a column of the rows",
                            f"name another: {flag}")
        found.append(column or next((names[name] for name in usual if name in names), ""))
    if not found[0]:
        raise UserError(f"{where} has no column of words among {shown(', '.join(map(str, row)))}", f"one called {', '.join(_WORDS[:4])}",
                        "name it: --rows.text COLUMN")
    return found[0], "" if options.segment else found[1]


def _list(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or not all(isinstance(one, str | int) and not isinstance(one, bool) for one in value):
        raise _BadRowError(f"its {what} are {shown(value)}, no list")
    cells = tuple(str(one).strip() for one in value)
    if any(not one or (what == "labels" and len(one) > _LONGEST_TAG) for one in cells):
        raise _BadRowError(f"one of its {what} is empty or too long")
    return cells


# ---- the split ----

def split_tagged(reading: TaggedReading, options: SplitOptions, valid: TaggedReading | None = None,
                 test: TaggedReading | None = None) -> TaggedParts:
    """Divide sentences into train, valid and test by the hashes of their words, or take the latter two as they are given.

    A tenth of the sentences is held out for each unless the options say otherwise. Raises UserError when too few are left.
    """
    said: list[str] = []
    given = {name: other.sentences for name, other in (("valid", valid), ("test", test)) if other is not None}
    sentences = reading.sentences
    if "test" in given and "valid" in given:
        given["valid"] = _without(given["valid"], given["test"], "validation", "test", said)
    for name, others in given.items():
        sentences = _without(sentences, others, "training", name, said)
    parts = divide_by_hash(sentences, [one.key for one in sentences], given, options)
    spaced = not _is_unspaced(parts["train"])
    tags = sorted({tag for one in parts["train"] for tag in labels_of(one, spaced)[1]})
    if min(map(len, parts.values())) < LEAST or len(tags) < 2:
        counts = ", ".join(f"{len(held):,} for {name}" for name, held in parts.items())
        raise UserError(f"{len(reading.sentences):,} sentences leave {counts}, with {len(tags)} different labels to train on",
                        f"at least {LEAST} sentences in each part, and 2 labels", "give more sentences")
    if len(tags) > _MOST_TAGS:
        raise UserError(f"{len(tags):,} different labels", f"at most {_MOST_TAGS:,}", "name the column of labels: --rows.label")
    return TaggedParts(parts, tags, spaced, said + _describe(parts, tags, spaced))


def _is_unspaced(sentences: Sequence[TaggedSentence]) -> bool:
    sample = "".join(word for one in sentences[:_LOOKED_AT] for word in one.words)
    return unspaced_bytes(sample) > _UNSPACED_SHARE * len(sample.encode("utf-8", "replace"))


def _without(sentences: Sequence[TaggedSentence], others: Sequence[TaggedSentence], of: str, name: str,
             said: list[str]) -> list[TaggedSentence]:
    held = {one.key for one in others}
    left = [one for one in sentences if one.key not in held]
    if len(left) < len(sentences):
        said.append(f"{len(sentences) - len(left):,} sentences of the {of} part stand in the {name} part too and were taken out of the "
                    "former")
    return left


def labels_of(one: TaggedSentence, spaced: bool) -> tuple[list[str], list[str]]:
    """Return the tokens that are labelled and their labels: the words with theirs; without labels, atoms with B, M, E and S."""
    return (list(one.words), list(one.tags)) if one.tags else cut_labels(one.words, spaced)


def cut_labels(words: Sequence[str], spaced: bool) -> tuple[list[str], list[str]]:
    """Return the atoms of words written as a text, each with B, M, E or S: where its word begins, goes on, ends, or is it alone."""
    text, starts = join_words(words, spaced=spaced)
    begins = set(starts)
    ends = {start + len(word) for start, word in zip(starts, words, strict=True)}
    atoms = find_atoms(text)
    labels = [("S" if end in ends else "B") if start in begins else "E" if end in ends else "M" for start, end in atoms]
    return [text[start:end] for start, end in atoms], labels


def _describe(parts: Mapping[str, Sequence[TaggedSentence]], tags: Sequence[str], spaced: bool) -> list[str]:
    """Say in lines how many sentences, words and labels there are, and which labels are never learned."""
    words = {name: sum(len(one.words) for one in held) for name, held in parts.items()}
    said = [", ".join(f"{name} {len(held):,} sentences of {words[name]:,} words" for name, held in parts.items())]
    counts = Counter(tag for one in parts["train"] for tag in labels_of(one, spaced)[1])
    listed = [f"{tag} {count:,} ({count / counts.total():.1%})" for tag, count in counts.most_common(_SHOWN)]
    said.append(f"{len(tags)} labels in training: " + ", ".join(listed) + (", ..." if len(tags) > _SHOWN else ""))
    rare = [tag for tag in tags if counts[tag] < 10]
    if rare:
        said.append(f"{len(rare)} labels stand fewer than ten times in training: macro F1 says how well rare labels are told")
    known = {word for one in parts["train"] for word in one.words}
    for name in ("valid", "test"):
        unseen = Counter(tag for one in parts[name] for tag in one.tags if tag not in counts)
        if unseen:
            said.append(f"{unseen.total():,} labels in {name} were never seen in training, so they are always wrong: "
                        + ", ".join(list(unseen)[:_SHOWN]))
        new = sum(word not in known for one in parts[name] for word in one.words)
        said.append(f"{new:,} of {words[name]:,} words in {name} ({new / max(1, words[name]):.1%}) do not stand in training")
    return said
