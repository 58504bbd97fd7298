"""Read sentences whose words have labels: a word, a tab and its label on each line, a blank line after each sentence.

    for sentence in read_tagged(fetch("cantonese-tags")):
        print(sentence[0])                               # ("喂", "e")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from myna.errors import UserError


def read_tagged(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Yield the sentences of a file, or of all `.tsv` files of a folder in the order of their names, as lists of (word, label).

    Raises UserError when there is no file, and at a line that is not UTF-8 or not two columns.
    """
    files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"no tagged text at {path}", "a .tsv file, or a folder of them, of word, tab, tag", "check the path")
    for file in files:
        yield from _read(file)


def _read(file: Path) -> Iterator[list[tuple[str, str]]]:
    sentence: list[tuple[str, str]] = []
    with file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            try:
                line = raw.decode("utf-8").strip("\r\n")
            except UnicodeDecodeError:
                raise UserError(f"line {number} of {file} is not UTF-8", "word, tab, tag", "convert the file") from None
            if not line.strip():
                if sentence:
                    yield sentence
                sentence = []
                continue
            word, tab, label = line.partition("\t")
            if not (word and tab and label) or "\t" in label:
                raise UserError(f"line {number} of {file} is not two columns: {line[:40]!r}", "word, tab, tag", "mend the line")
            sentence.append((word, label))
    if sentence:
        yield sentence
