"""Write the body of a Python function from its signature and docstring.

The model goes on with the code as it stands. Where the function ends is told by a small scanner of logical lines (strings, brackets,
comments and continued lines, as in section 2.1 of Python's reference), never by running anything: at the first line that is not
indented deeper than the function. What a line begins with decides that, so the scanner waits until it is there.

    written = complete_code(model, tokenizer, 'def double(x):\\n    \"\"\"Return x twice.\"\"\"\\n', CompleteOptions())
    written.body, written.finish_reason
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from myna.console import say
from myna.errors import UserError, shown
from myna.files import read_json
from myna.generate.options import SampleOptions
from myna.generate.rules import Rules
from myna.generate.sample import sample_tokens
from myna.generate.stream import TextStream
from myna.models.protocol import LanguageModel
from myna.tasks.options import CompleteOptions
from myna.tokenizer.tokenizer import Tokenizer

TASK = "task.json"
_MOST_BYTES = 1 << 20  # of task.json
_ROOM = 4  # own choice: a body may count on a quarter of the context, or on max_tokens where that is less
_TAB = 8  # columns: Python's reference, section 2.1.8
_SPACE = re.compile(r"[ \t\f]*")
_MARK = re.compile(r"""\\(?:\r\n|.)|#[^\n]*|\"{3}|'{3}|["'\n()\[\]{}]""", re.DOTALL)
_STRINGS = {quote: re.compile(rf"\\(?:\r\n|.)|{quote}" + ("" if len(quote) == 3 else r"|(?=\n)"), re.DOTALL)
            for quote in ('"', "'", '"' * 3, "'" * 3)}  # to the end of each: a string on one line ends with it at the latest
_DEFINES = re.compile(r"(?:async[ \t]+)?def\b")
_STATEMENT = re.compile(r"[ \t]*(?:(?:async[ \t]+)?def|class)\b")  # what no bracket can hold, so one was never closed


class Line(NamedTuple):
    """A logical line: one statement, or what a colon ends; over several lines where a string or a bracket is."""

    start: int
    "Where its first line begins, indentation included."
    indent: int
    "In columns."
    end: int
    "Behind its last character, without the line's end."
    whole: bool
    "The line's end was seen."
    opens: bool
    "It ends with a colon, comments aside."
    first: int
    "Where its first character that is no space stands."


class Function(NamedTuple):
    """A function whose body is not over."""

    start: int
    "Where the line of its def begins."
    indent: int
    "In columns."


@dataclass(frozen=True)
class Completed:
    """A function's body as a model wrote it."""

    code: str
    "What was given, without space at its end."
    text: str
    "What was written behind it; it begins with the line's end where the body stands on lines of its own."
    finish_reason: str
    "stop: the function ended. length: max_tokens or the model's context was reached before that."
    tokens: int = 0
    left_out: int = 0
    "Lines at the beginning of the code that the model had no room for."

    @property
    def body(self) -> str:
        """The body alone, with its indentation."""
        return self.text.lstrip("\r\n")

    def __str__(self) -> str:
        return self.code + self.text


def scan_lines(code: str, at: int = 0) -> Iterator[Line]:
    """Yield the logical lines of code from a place on; not blank lines and comments, nor a line whose first character is not there yet."""
    while at < len(code):
        first = _SPACE.match(code, at).end()  # type: ignore[union-attr]  # it matches nothing too
        if first == len(code):
            return
        if code[first] in "\r\n#":
            end = code.find("\n", first)
            if end < 0:
                return
            at = end + 1
            continue
        end, said, whole = _find_line_end(code, first)
        yield Line(at, len(code[at:first].expandtabs(_TAB)), end, whole, code[first:said].rstrip().endswith(":"), first)
        at = end + 1


def _find_line_end(code: str, place: int) -> tuple[int, int, bool]:
    """Return where the logical line that begins at a place ends, with a comment and without, and whether that is certain."""
    depth, comment = 0, -1
    while (mark := _MARK.search(code, place)) is not None:
        place, what = mark.end(), mark.group()
        if what == "\n":
            if not depth or _STATEMENT.match(code, place):
                return mark.start(), mark.start() if comment < 0 else comment, True
            comment = -1
        elif what[0] == "#":
            comment = mark.start()
        elif what in "([{":
            depth += 1
        elif what in ")]}":
            depth = max(0, depth - 1)
        elif what in _STRINGS:
            while (found := _STRINGS[what].search(code, place)) is not None and found.group().startswith("\\"):
                place = found.end()
            if found is None:
                break
            place = found.end()
    return len(code), len(code), False


def find_function(code: str) -> Function | None:
    """Find the innermost function that is open at the end of code: nothing after its def stands at its indentation or left of it."""
    around: list[Function] = []
    for line in scan_lines(code):
        while around and line.indent <= around[-1].indent:
            around.pop()
        if _DEFINES.match(code, line.first):
            around.append(Function(line.start, line.indent))
    return around[-1] if around else None


def find_end(code: str, function: Function) -> int | None:
    """Find where a function's last statement ends; None while more of it may come."""
    end: int | None = None
    for number, line in enumerate(scan_lines(code, function.start)):
        if number and line.indent <= function.indent:
            return end
        if line.whole:
            end = line.end
            if not number and not line.opens:
                return end  # def f(x): return x
    return None


class Body:
    """The body of a function on its way, token by token."""

    def __init__(self, code: str, function: Function, token_bytes: Sequence[bytes]) -> None:
        self.code, self.text = code, ""
        self._function, self._bytes, self._stream = function, token_bytes, TextStream()

    def take(self, token: int) -> bool:
        """Take a token; returns whether the function has ended."""
        # a model may have more ids than its tokenizer (its table padded to a round size); those have no text
        piece = self._stream.feed(self._bytes[token] if token < len(self._bytes) else b"")
        self.text += piece
        return bool(piece.strip()) and find_end(self.code + self.text, self._function) is not None

    def close(self) -> str:
        """Return what was written, without what stands behind the function's end."""
        self.text += self._stream.finish()
        end = find_end(self.code + self.text, self._function)
        return (self.text if end is None else self.text[: max(0, end - len(self.code))]).rstrip()


def complete_code(model: LanguageModel, tokenizer: Tokenizer, code: str, options: CompleteOptions, rules: Rules | None = None) -> Completed:
    """Write the body of the function that is open at the end of some code.

    Where code before the function does not fit the model, its first lines are left out, which is counted. Raises UserError when no
    function is open, it does not fit, or the model does not go on with a text.
    """
    code = code.rstrip()
    function = find_function(code)
    if function is None:
        raise UserError(f"no function is open at the end of {shown(code[-60:])}", "code that ends with a def line, or with its docstring",
                        "give the signature and the docstring, not yet the body")
    rules = rules or Rules()
    if rules.source:
        raise UserError("a model that answers one text with another", "a decoder or another model that goes on with a text")
    left_out, at = _fit(model, tokenizer, code, function, options.max_tokens)
    seen = code[at:]
    body = Body(seen, Function(function.start - at, function.indent), tokenizer.token_bytes)
    sampling = SampleOptions(max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed)
    stops = rules.end_ids | tokenizer.special_ids
    drawn = list(sample_tokens(model, tokenizer.encode(seen), sampling, stops, lambda row, token: body.take(token), rules=rules))
    return Completed(code, body.close(), drawn[-1].finish_reason, len(drawn), left_out)


def _fit(model: LanguageModel, tokenizer: Tokenizer, code: str, function: Function, max_tokens: int) -> tuple[int, int]:
    """Return how many first lines must be left out, and where the rest begins."""
    if model.max_length is None:
        return 0, 0
    room = model.max_length - min(max_tokens, model.max_length // _ROOM)
    starts = [0, *(match.end() for match in re.finditer("\n", code[: function.start]))]
    low, high = 0, len(starts) - 1
    while low < high:  # the first start from which on all fits
        middle = (low + high) // 2
        if len(tokenizer.encode(code[starts[middle] :])) <= room:
            high = middle
        else:
            low = middle + 1
    if low == len(starts) - 1 and (size := len(tokenizer.encode(code[starts[low] :]))) > room:
        raise UserError(f"the function takes {size:,} tokens before its body", f"at most {room:,}, so that the model can go on",
                        "shorten its docstring, or give a smaller --max-tokens")
    if low:
        say(f"the first {low:,} lines of the code are left out: the model can see {model.max_length:,} tokens")
    return low, starts[low]


def is_completer(folder: Path) -> bool:
    """Tell whether a directory learned to write the bodies of functions."""
    try:
        value = read_json(folder / TASK, _MOST_BYTES)
    except UserError:
        return False
    return isinstance(value, dict) and value.get("task") == "complete"
