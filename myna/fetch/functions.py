"""The functions of the Python that runs this, taken apart: signature, docstring, body; parsed as text, never imported.

    function = next(read_functions())
    function.signature, function.docstring, function.body

What is made of them for learning: `read_docstrings` gives code without its docstring, with what the docstring's first paragraph says;
`read_bodies` gives signature and docstring, with the body.
"""

from __future__ import annotations

import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Members = Iterator[tuple[str, bytes]]
Texts = Iterator[tuple[str, str]]

# folders of the library that are no library: its tests, an editor, a converter with its fixtures, and what was installed beside it
NOT_LIBRARY = frozenset({"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "pydoc_data", "__pycache__"})
_SHORTEST, _LONGEST = 40, 4000  # characters of code: less says nothing that its name does not, more fits no small model
_FEWEST_WORDS, _MOST_WORDS = 3, 60  # of a summary


@dataclass(frozen=True)
class Function:
    """A function with a docstring, its pieces as they stand in the file, without the indent of a class or function around it."""

    module: str
    "As json.decoder."
    name: str
    "With the classes around it: JSONDecoder.decode."
    signature: str
    "Decorators, def and arguments, to the colon."
    docstring: str
    "As `inspect.getdoc` would give it: without its indent."
    body: str
    "What follows the docstring, with its indent; empty where there is nothing."
    head: str = ""
    "Signature and docstring as they stand."


def read_functions(library: Path | None = None) -> Iterator[Function]:
    """Yield every function with a docstring, by file and line. library: a folder of Python files; none is the running Python's own.

    A file that is not UTF-8 or that this Python cannot parse, a template or one for another version, gives nothing.
    """
    library = library or Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if NOT_LIBRARY.isdisjoint(parts):
            try:
                source = path.read_text(encoding="utf-8")
                tree = ast.parse(source)
            except (SyntaxError, ValueError, OSError):  # UnicodeDecodeError is a ValueError
                continue
            yield from _find(tree, re.split("\r\n|\r|\n", source), ".".join(parts).removesuffix(".__init__"), "")


def _find(node: ast.AST, lines: list[str], module: str, around: str) -> Iterator[Function]:
    """Walk a module or class, and the functions in functions, in the order of the file."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if (function := _take(child, lines, module, around)) is not None:
                yield function
            yield from _find(child, lines, module, f"{around}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _find(child, lines, module, f"{around}{child.name}.")
        elif not isinstance(child, ast.expr):
            yield from _find(child, lines, module, around)  # under if, try, with


def _take(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], module: str, around: str) -> Function | None:
    """Take a function apart by lines; None where it has no docstring, or one that shares a line with code."""
    docstring, first = ast.get_docstring(node), node.body[0]
    begin = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    end = node.end_lineno or 0
    if not docstring or first.end_lineno is None or not lines[first.lineno - 1][: first.col_offset].isspace():
        return None
    if len(node.body) > 1 and node.body[1].lineno <= first.end_lineno:  # "text"; return 1
        return None
    indent = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
    whole = [line.removeprefix(indent).rstrip() for line in lines[begin:end]]  # a comment at the margin stays there
    signature, head, body = whole[: first.lineno - 1 - begin], whole[: first.end_lineno - begin], whole[first.end_lineno - begin :]
    return Function(module, around + node.name, "\n".join(signature), docstring, "\n".join(body).strip("\n"), "\n".join(head))


def read_docstrings(members: Members, library: Path | None = None) -> Texts:
    """Write code without its docstring and the docstring's first paragraph as its summary: a JSON object a line, in one file.

    Equal code is kept once. Left out: code that is very short or long, and summaries of fewer than 3 or more than 60 words.
    `members` is not read.
    """
    rows: dict[str, str] = {}
    for function in read_functions(library):
        code = f"{function.signature}\n{function.body}"
        summary = " ".join(re.split(r"\n\s*\n", function.docstring)[0].split())
        if function.body and _SHORTEST <= len(code) <= _LONGEST and _FEWEST_WORDS <= len(summary.split()) <= _MOST_WORDS:
            rows.setdefault(code, summary)
    yield "docstrings.jsonl", "".join(json.dumps({"text": code, "summary": summary}, ensure_ascii=False) + "\n"
                                      for code, summary in rows.items())


def read_bodies(members: Members, library: Path | None = None) -> Texts:
    """Write signature and docstring as a prompt, the body as its completion, and the module: a JSON object a line, in one file.

    Equal prompts are kept once, the first. Left out: functions without a body, and those longer than 4,000 characters. `members` is
    not read.
    """
    rows: dict[str, Function] = {}
    for function in read_functions(library):
        if function.body and len(function.head) + len(function.body) <= _LONGEST:
            rows.setdefault(function.head, function)
    yield "functions.jsonl", "".join(json.dumps({"prompt": head, "completion": function.body, "module": function.module},
                                                ensure_ascii=False) + "\n" for head, function in rows.items())
