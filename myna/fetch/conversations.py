"""From the files of a package to conversations: JSONL with a list of `messages` a line, as `myna tune` and other tools read them.

Two speakers take the roles of user and assistant in the order in which they speak. A conversation in which only one speaks is left out.

    for name, text in read_chitchat(read_members(Path("chitchat_dataset-0.9.0-py3-none-any.whl"), "chitchat_dataset/dataset.json")):
        print(name, text.count("\\n"), "conversations")
"""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

_ROLES = ("user", "assistant")


def read_chitchat(members: Members) -> Texts:
    """Read {id: {"messages": [[{text, sender, timestamp}, ...], ...]}}: what one says in a row is one turn, a line for each message."""
    for path, data in members:
        talks = []
        for talk in json.loads(data).values():
            said = [(message["sender"], message["text"].strip()) for turn in talk["messages"] for message in turn]
            turns = itertools.groupby((pair for pair in said if pair[1]), key=lambda pair: pair[0])
            talks.append(["\n".join(text for _, text in turn) for _, turn in turns])
        yield PurePosixPath(path).parent.name.removesuffix("_dataset") + ".jsonl", _write(talks)


def read_chatterbot(members: Members) -> Texts:
    """Read the lists of lists under `conversations:` of ChatterBot's corpus; a file for a file, named language-subject."""
    for path, data in members:
        place = PurePosixPath(path)
        yield f"{place.parent.name}-{place.stem}.jsonl", _write(_read_lists(data.decode("utf-8").splitlines()))


def _write(talks: Iterable[list[str]]) -> str:
    rows = [[{"role": _ROLES[number % 2], "content": turn} for number, turn in enumerate(talk)] for talk in talks if len(talk) > 1]
    return "".join(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows)


def _read_lists(lines: list[str]) -> list[list[str]]:
    """Read the part of YAML 1.2 in which these files are written: plain, quoted and literal scalars in a list of lists."""
    found: list[list[str]] = []
    items: list[list[str]] = []  # the lines of each item: its first after the dash, then those indented under it
    begun = False
    for line in lines:
        if not begun or (line and line[0] not in " -"):
            begun = line.rstrip() == "conversations:"
            continue
        if line.startswith("- "):  # a few conversations lack the second dash
            found.append([])
        if line.startswith(("- ", "  - ")) and found:
            items.append([line.removeprefix("- ").removeprefix("  - ").removeprefix("- ")])
            found[-1].append("")
        elif items:
            items[-1].append(line)
    scalars = iter(_read_scalar(item) for item in items)
    return [[turn for turn in (next(scalars) for _ in talk) if turn] for talk in found]


def _read_scalar(item: list[str]) -> str:
    first = item[0].strip()
    if first in ("|", "|-"):  # lines as they are, without the indent of the first of them
        body = item[1:]
        indent = next((len(line) - len(line.lstrip()) for line in body if line.strip()), 0)
        return "\n".join(line[indent:].rstrip() for line in body).strip("\n")
    text = _fold([first, *item[1:]])
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(ast.literal_eval(text)).strip()  # the escapes of YAML that occur here are those of Python
        except (SyntaxError, ValueError):
            return text[1:-1].strip()
    return text


def _fold(lines: list[str]) -> str:
    """Join lines by spaces; a blank line is a line end."""
    parts: list[str] = []
    for line in (line.strip() for line in lines):
        parts.append(line or "\n")
    return " ".join(parts).replace(" \n ", "\n").strip()
