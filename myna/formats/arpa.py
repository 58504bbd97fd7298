r"""ARPA files, the text form of back-off n-gram models that SRILM, KenLM and most speech recognisers read.

A line is `log10 p TAB words [TAB log10 back-off]`. Words hold no blanks, but tokens do, and some are parts of a character, so a token is
spelled: a blank as `▁`, a backslash as `\\`, and bytes that are no printable character, or `▁` itself, as `\xe2` each. `unspell` gives
the bytes back. A word that would be taken twice, or for `<s>`, `</s>`, `<unk>`, gets its first character spelled as bytes; a token without
bytes (a reserved id), or a third one with the same bytes, ends in `\#` and its id.

Nothing a file says of its own size is believed: memory follows the lines that are there.

Source: the manual of SRILM, ngram-format(5).

    arpa = read_arpa(Path("model.arpa"))
    arpa.words[:3], len(arpa.levels), arpa.levels[0].log10[:3]
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.console import track
from myna.errors import UserError
from myna.files import BrokenFileError, RawFile, fsync, read_chunks

Array = npt.NDArray[Any]

START, END = "<s>", "</s>"
UNKNOWN = ("<unk>", "<UNK>")  # KenLM takes both for unknown words
_BLANK = "▁"  # U+2581, SentencePiece's sign for a blank
_LONGEST_LINE = 1 << 20  # bytes; a line of a model over words has some hundred
_PIECE = 10_000  # n-grams formatted between two signs of progress


@dataclass(frozen=True)
class Level:
    """The n-grams of one length, sorted by (context, word).

    words: (n,) the last word's number. contexts: (n,) the row, one level down, of the words before it (0 at level 1).
    log10: (n,) at most 0. backoffs: (n,) log10; 0 where none was given and none is needed. lines: (n,) where it stands in the file.
    """

    words: Array
    contexts: Array
    log10: Array
    backoffs: Array
    lines: Array


@dataclass(frozen=True)
class Arpa:
    """A checked file. words: by number, in the order of the file; level 1's row n is word n."""

    words: list[str]
    levels: list[Level]


def spell(piece: bytes) -> str:
    """Write a token's bytes as a word of an ARPA file."""
    return "".join(map(_spell_character, piece.decode("utf-8", "surrogateescape")))


def _spell_character(c: str) -> str:
    if c == " ":
        return _BLANK
    if c == "\\":
        return "\\\\"
    if c.isprintable() and c != _BLANK:
        return c
    return _spell_bytes(c)


def _spell_bytes(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogateescape"))


def unspell(word: str) -> bytes:
    """Give back the bytes that `spell` wrote as this word."""
    def read(match: re.Match[str]) -> str:
        found = match.group()
        return " " if found == _BLANK else "\\" if found == "\\\\" else bytes([int(found[2:], 16)]).decode("latin-1")

    pieces = re.split(f"({_BLANK}|\\\\\\\\|\\\\x[0-9a-f]{{2}})", word)  # text and signs by turns
    sign = re.compile("(?s).+")
    return b"".join(sign.sub(read, piece).encode("latin-1") if i % 2 else piece.encode("utf-8") for i, piece in enumerate(pieces))


def spell_words(pieces: Sequence[bytes], names: Mapping[int, str]) -> list[str]:
    """Give every id a word of its own. pieces: the bytes of each id. names: what special ids are called."""
    taken, words = {START, END, *UNKNOWN}, [""] * len(pieces)
    for id in [*sorted(names), *(id for id in range(len(pieces)) if id not in names)]:
        piece = names[id].encode("utf-8") if id in names else pieces[id]
        word = spell(piece)
        if word in taken:
            first = piece.decode("utf-8", "surrogateescape")[0]
            word = _spell_bytes(first) + word[len(_spell_character(first)):]
        if not word or word in taken:
            word += f"\\#{id}"
        taken.add(word)
        words[id] = word
    return words


def write_arpa(path: Path, words: Sequence[str], separator_id: int, sizes: Sequence[int],
               levels: Iterable[tuple[Array, Array, Array | None]]) -> None:
    """Write a model whole or not at all.

    sizes: n-grams per length. levels: per length k, ids (n, k), natural log-probabilities (n,) and back-offs (n,), None at the longest.
    The separator is `<s>` where it begins an n-gram and `</s>` where it ends one; at length 1 it is both. Nine digits are written,
    so that reading them as float32 gives the same bits again.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file, track("writing", sum(sizes), " n-grams") as advance:
            counts = (f"ngram {k}={size + (k == 1)}" for k, size in enumerate(sizes, start=1))
            file.write("\n".join(["\\data\\", *counts]) + "\n")
            for length, (ids, chances, backoffs) in enumerate(levels, start=1):
                file.write(f"\n\\{length}-grams:\n")
                for at in range(0, len(ids), _PIECE):
                    part = slice(at, at + _PIECE)
                    rows = _rows(ids[part], chances[part], None if backoffs is None else backoffs[part], words, separator_id)
                    file.write("".join(rows))
                    advance(len(ids[part]))
            file.write("\n\\end\\\n")
        fsync(temporary)
        temporary.replace(path)
        fsync(path.resolve().parent)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(ids: Array, chances: Array, backoffs: Array | None, words: Sequence[str], separator_id: int) -> Iterator[str]:
    """Format n-grams of one length."""
    begins, ends = list(words), list(words)
    begins[separator_id], ends[separator_id] = START, END
    weights = None if backoffs is None else (backoffs.astype(np.float64) / np.log(10)).tolist()
    for row, (gram, chance) in enumerate(zip(ids.tolist(), (chances.astype(np.float64) / np.log(10)).tolist(), strict=True)):
        weight = "" if weights is None else f"\t{weights[row]:.9g}"
        if len(gram) > 1:
            yield f"{chance:.9g}\t{' '.join([begins[id] for id in gram[:-1]])} {ends[gram[-1]]}{weight}\n"
        elif gram[0] == separator_id:  # -99 is SRILM's logarithm of zero: <s> is never predicted
            yield f"-99\t{START}{weight}\n{chance:.9g}\t{END}{weight and chr(9) + '0'}\n"
        else:
            yield f"{chance:.9g}\t{words[gram[0]]}{weight}\n"


class _Lines:
    """The lines of a file, perhaps compressed, with their numbers; never more than one chunk and one line in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self._lines = self._read()
        self._again: bytes | None = None

    def _read(self) -> Iterator[bytes]:
        file, rest = RawFile(self.path), b""
        try:
            for chunk in read_chunks(file):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise self.error("a line of more than 1 MiB", "an ARPA file")
                yield from lines
            if rest:
                yield rest
        except BrokenFileError as error:
            raise self.error(error.reason, "a whole file") from None
        finally:
            file.close()

    def next(self) -> bytes | None:
        """Return the next line without blanks around it; None at the end of the file."""
        line = next(self._lines, None)
        self.number += 1
        return None if line is None else line.strip()

    def next_filled(self) -> bytes:
        """Return the next line that is not blank; an error at the end of the file."""
        while (line := self.next()) is not None:
            if line:
                return line
        raise self.error("the file ends here", "\\end\\", "get the whole file")

    def error(self, got: str, expected: str, action: str = "", line: int | None = None) -> UserError:
        """Make the error of a line, by default the one just read."""
        return UserError(f"{self.path}:{self.number if line is None else line}: {got}", expected, action)


def read_arpa(path: Path) -> Arpa:
    r"""Read a file, packed or not. Raises UserError, with file and line, unless

    every count in \data\ is that of its section, every n-gram's beginning is an n-gram too and has a back-off, every word is a
    1-gram, none is there twice, `<s>` only begins and `</s>` only ends, and every number is finite and every log-probability at most 0.
    """
    lines = _Lines(path)
    sizes = _read_counts(lines)
    with track("reading", sum(sizes), " n-grams") as advance:
        words: list[str] = []
        numbers: dict[bytes, int] = {}
        levels: list[Level] = []
        keys: list[Array] = []
        for length, size in enumerate(sizes, start=1):
            ids, log10, backoffs, first = _read_section(lines, length, size, length == len(sizes), numbers, words)
            level = _sort(lines, ids.reshape(-1, length), log10, backoffs, first, keys, levels, words)
            levels.append(level)
            keys.append(level.contexts * len(words) + level.words)
            advance(size)
    if (line := lines.next_filled()) != b"\\end\\":
        raise lines.error(_shown(line), "\\end\\")
    for level in levels:
        np.nan_to_num(level.backoffs, copy=False)
    return Arpa(words, levels)


def _read_counts(lines: _Lines) -> list[int]:
    r"""Read what \data\ says of each length."""
    while (line := lines.next()) != b"\\data\\":
        if line is None:
            raise lines.error("no line \\data\\ in the whole file", "an ARPA file", "check the path")
    sizes: list[int] = []
    while (line := lines.next_filled())[:1] != b"\\":
        match = re.fullmatch(rb"ngram\s+(\d{1,9})\s*=\s*(\d{1,18})", line)
        if match is None or int(match[1]) != len(sizes) + 1:
            raise lines.error(_shown(line), f"'ngram {len(sizes) + 1}=' and a count")
        sizes.append(int(match[2]))
    if not sizes:
        raise lines.error("\\data\\ names no length, so the order is 0", "an order of 1 or more")
    if line != b"\\1-grams:":
        raise lines.error(_shown(line), "\\1-grams:")
    return sizes


def _read_section(lines: _Lines, length: int, size: int, longest: bool, numbers: dict[bytes, int], words: list[str],
                  ) -> tuple[Array, Array, Array, int]:
    """Read the n-grams of one length: word numbers (n * length,), log10 (n,), back-offs (n,) NaN where there is none, the first line."""
    if length > 1 and (heading := lines.next_filled()) != f"\\{length}-grams:".encode():
        raise lines.error(_shown(heading), f"\\{length}-grams:")
    ids, log10, backoffs, first = array("i"), array("d"), array("d"), lines.number + 1
    while line := lines.next():
        fields = line.split()
        if line[:1] == b"\\":
            break
        if len(log10) == size:
            raise lines.error(f"more than {size:,} {length}-grams", "as many as \\data\\ says", "the count or the file is broken")
        if not length + 1 <= len(fields) <= length + 2:
            raise lines.error(_shown(line), f"a logarithm, {length} word{'s' * (length > 1)} and perhaps a back-off")
        try:
            chance, weight = float(fields[0]), float(fields[-1]) if len(fields) == length + 2 else np.nan
        except ValueError:
            raise lines.error(_shown(line), "a logarithm first and, after the words, nothing or another") from None
        if not -np.inf < chance <= 0:
            raise lines.error(f"a log-probability of {chance:g}", "a number not above 0")
        if len(fields) == length + 2 and (not np.isfinite(weight) or (longest and weight)):
            raise lines.error(f"a back-off of {weight:g}", "none at the longest length" if longest else "a finite number")
        log10.append(chance)
        backoffs.append(weight)
        if length == 1:
            _add_word(lines, fields[1], numbers, words)
        try:
            ids.extend([numbers[word] for word in fields[1:length + 1]])
        except KeyError as error:
            raise lines.error(f"the word {_shown(error.args[0])} is no 1-gram", "words of the first section") from None
    if len(log10) != size:
        raise lines.error(f"{len(log10):,} {length}-grams", f"{size:,}, as \\data\\ says", "the count or the file is broken")
    if line:
        raise lines.error(_shown(line), "a blank line after the n-grams")
    return np.array(ids, np.int64), np.array(log10), np.array(backoffs), first


def _add_word(lines: _Lines, word: bytes, numbers: dict[bytes, int], words: list[str]) -> None:
    if word in numbers:
        raise lines.error(f"the word {_shown(word)} is there twice", "each n-gram once")
    try:
        words.append(word.decode("utf-8"))
    except UnicodeDecodeError:
        raise lines.error(f"the word {_shown(word)} is not UTF-8", "text in UTF-8", "convert the file first") from None
    numbers[word] = len(numbers)


def _find_contexts(ids: Array, keys: list[Array], words: int) -> tuple[Array, Array]:
    """Look up all but the last word of each n-gram: its row one level down, and whether there is one."""
    contexts, found = ids[:, 0], np.ones(len(ids), bool)
    for column in range(1, ids.shape[1] - 1):
        wanted, known = contexts * words + ids[:, column], keys[column]
        if not len(known):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        contexts = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found &= known[contexts] == wanted
    return contexts, found


def _sort(lines: _Lines, ids: Array, log10: Array, backoffs: Array, first: int, keys: list[Array], levels: list[Level],
          words: list[str]) -> Level:
    """Check what only a whole section of n-grams can tell, and sort it. ids: (n, k) word numbers. first: the line of the first."""
    at = np.arange(first, first + len(ids))
    if not levels:
        return Level(ids[:, 0], np.zeros(len(ids), np.int64), log10, backoffs, at)

    def check(bad: Array, what: str, expected: str) -> None:
        for row in np.flatnonzero(bad)[:1]:
            raise lines.error(f"{' '.join(words[number] for number in ids[row])}: {what}", expected, line=int(at[row]))

    start, end = (words.index(mark) if mark in words else -1 for mark in (START, END))
    check((ids[:, 1:] == start).any(axis=1), f"{START} after its beginning", f"{START} first or nowhere")
    check((ids[:, :-1] == end).any(axis=1), f"{END} before its end", f"{END} last or nowhere")
    contexts, found = _find_contexts(ids, keys, len(words))
    check(~found, "its beginning is no n-gram of the file", "every n-gram without its last word to be one too")
    bare = contexts[np.isnan(levels[-1].backoffs[contexts])]
    if len(bare):
        raise lines.error("longer n-grams begin with this one, but it has no back-off", "a logarithm after the words",
                          line=int(levels[-1].lines[bare[0]]))
    order = np.lexsort((ids[:, -1], contexts))
    last, contexts = ids[order, -1], contexts[order]
    again = np.zeros(len(ids), bool)
    again[order[1:]] = (last[1:] == last[:-1]) & (contexts[1:] == contexts[:-1])
    check(again, "is there twice", "each n-gram once")
    return Level(last, contexts, log10[order], backoffs[order], at[order])


def _shown(line: bytes) -> str:
    """Show bytes of somebody else's file: short, and without control characters."""
    text = repr(line.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 60 else text[:60] + "..."
