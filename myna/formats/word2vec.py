"""The word2vec text format: a line with the number of words and of dimensions, then a word and its numbers on each line.

No standard describes it; this is what the reference program of Mikolov et al. (2013), gensim and fastText read and write. Words are
UTF-8 and hold no space. The sizes in the first line are a claim: nothing is allocated that the file's own size does not allow.

    words, table = read_word2vec(Path("vectors.vec"))        # table (V, C) float32
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import fsync


class WordTable(Protocol):
    """What is written: `myna.models.vectors.Vectors` has it."""

    words: list[str]

    @property
    def table(self) -> npt.NDArray[np.float32]: ...


def write_word2vec(vectors: WordTable, path: Path) -> int:
    """Write words (V,) and their vectors (V, C), exact in float32; returns how many.

    Raises UserError on a word with a space or line end, or on an empty one, which the format cannot hold.
    """
    table = vectors.table
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{len(vectors.words)} {table.shape[1]}\n")
            for word, row in zip(vectors.words, table, strict=True):
                if not word or any(character in word for character in " \t\n\r\v\f"):
                    raise UserError(f"the word {word!r}", "words without spaces, all that the word2vec text format can hold")
                file.write(f"{word} {' '.join(f'{number:.9g}' for number in row.tolist())}\n")
        fsync(temporary)
        temporary.replace(path)
    except UnicodeEncodeError as error:
        raise UserError(f"a word with a lone surrogate ({error.reason})", "words of Unicode text") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return len(vectors.words)


def is_word2vec(path: Path) -> bool:
    """Tell whether a file begins as the format does: two whole numbers on a line."""
    with path.open("rb") as file:
        return re.fullmatch(rb"\d+[ \t]+\d+\s*", file.readline(1000)) is not None


def read_word2vec(path: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Read words (V,) and vectors (V, C). Of a word that comes twice the first is kept by those who look it up.

    Raises UserError, with the line, on a header or a line that is not as it should be, and on numbers that are not finite.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            V, C = _header(file.readline(1000), path, size)
            words: list[str] = []
            table = np.empty((V, C), np.float32)
            for number, line in enumerate(file, 2):
                if len(words) == V:
                    if line.strip():
                        raise UserError(f"{path}:{number}: a line after the {V:,} words that the first line tells of")
                    continue
                word, row = _line(line, C, f"{path}:{number}")
                table[len(words)] = row
                words.append(word)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", "a file in the word2vec text format") from None
    if len(words) < V:
        raise UserError(f"{path} ends after {len(words):,} words", f"the {V:,} that its first line tells of", "restore the file")
    return words, table


def _header(line: bytes, path: Path, size: int) -> tuple[int, int]:
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() and len(field) < 12 for field in fields):
        raise UserError(f"{path}:1: {line[:40]!r}", "two numbers, words and dimensions, as the word2vec text format begins")
    V, C = int(fields[0]), int(fields[1])
    if V < 1 or C < 1 or size < V * (2 * C + 1):  # a word and, for each number, a space and a digit
        raise UserError(f"{path}:1: {V:,} words of {C:,} numbers in a file of {size:,} bytes", "sizes that the file can hold",
                        "restore the file")
    return V, C


def _line(line: bytes, C: int, where: str) -> tuple[str, Any]:
    fields: Sequence[bytes] = line.strip(b" \r\n").rsplit(b" ", C)
    if len(fields) != C + 1 or not fields[0] or b" " in fields[0]:
        raise UserError(f"{where}: {len(line.split()) - 1} numbers", f"a word and {C} numbers, one space between them")
    try:
        word = fields[0].decode("utf-8")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            row = np.array(fields[1:], dtype="S").astype(np.float32)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason})", "words in UTF-8") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}", "numbers") from None
    if not np.isfinite(row).all():
        raise UserError(f"{where}: a number that is not finite", "word vectors")
    return word, row
