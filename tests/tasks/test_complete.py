"""Where a function ends, and that a body is written until there: on made-up code, on Python's library, on a model that knows one text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.fetch.functions import read_functions
from myna.generate.rules import Rules
from myna.tasks.complete import CompleteOptions, complete_code, find_end, find_function, is_completer, scan_lines
from tests.generate.models import TableState

HEAD = 'def 飞(高):\n    """Fly: 起飞。"""'


def ends(head: str, text: str) -> str | None:
    function = find_function(head)
    assert function is not None
    end = find_end(head + text, function)
    return None if end is None else text[: end - len(head)]


@pytest.mark.parametrize(("text", "body"), [
    ("\n    return 高\n\nx = 1", "\n    return 高"), ("\n    return 高\n", None), ("\n    return 高\n\n    ", None),
    ("\n    return (\n1,\n)\n\ndef g(", "\n    return (\n1,\n)"), ('\n    x = """\ny\n"""\nz', '\n    x = """\ny\n"""'),
    ("\n    # 注\n# out\n    return 1\n@d", "\n    # 注\n# out\n    return 1"), ("\n    return 1\n# the next\nx", "\n    return 1"),
    ("\n    x = 'a\\\nb'\n    y = 1 + \\\n2\nz", "\n    x = 'a\\\nb'\n    y = 1 + \\\n2"), ("\n    x = (1\n\ndef g(", "\n    x = (1\n"),
    ("\n    x = '#('\n    if x: pass\ny", "\n    x = '#('\n    if x: pass"), ("\n    x = r'\\'#'\n\tz\nw", "\n    x = r'\\'#'\n\tz"),
    ("\n    x = 'open\n    y = 2\nz", "\n    x = 'open\n    y = 2"), ("\nx = 1", ""), ("\n    def g():\n        pass\n    g()\n", None),
])
def test_a_function_ends_where_its_indentation_does(text: str, body: str | None) -> None:
    found = ends(HEAD, text)
    assert (found if found is None else found.rstrip("\n")) == (body if body is None else body.rstrip("\n"))


def test_the_innermost_open_function_is_found() -> None:
    code = "import os\nclass A:\n    def f(self,\n          x={}):  # :\n        'doc'"
    function = find_function(code)
    assert function is not None and (code[function.start:].startswith("    def f"), function.indent) == (True, 4)
    inner = find_function(code + "\n        async def g():")
    assert inner is not None and inner.indent == 8
    assert ends("def f(x): # a 'comment'", "\n    return x\ny") == "\n    return x" and ends("def f(x):", " return x\n") == " return x"
    assert all(find_function(closed) is None for closed in (code + "\n        return 1\nx = 1", "x = 'def f():'", ""))
    assert [line.indent for line in scan_lines("a\n\tb\n  \n    # c\n   d")] == [0, 8, 3]


def test_the_library_s_functions_end_where_they_end() -> None:
    for function in read_functions(Path(asyncio.__file__).parent):
        if function.body:
            code = f"{function.head}\n{function.body}"
            found = ends(function.head, f"\n{function.body}\n\n# next\nx = 1\n")
            assert found is not None and found.rstrip() == code[len(function.head):].rstrip(), function.name


class Parrot:
    """Says one text after anything, token by token, as bytes; then the separator."""

    def __init__(self, text: str, max_length: int | None = None, begun: int = 0) -> None:
        self.said, self.begun = [byte + 1 for byte in text.encode()] + [0], begun
        self.vocab_size, self.max_length, self.separator_id = 257, max_length, 0
        self.read: list[int] = []

    def start(self, rows: int = 1, source: object = None) -> TableState:
        return TableState(rows)

    def step(self, ids: list[list[int]], state: TableState, last: bool = True) -> np.ndarray:
        out = np.full((len(ids), 257), -9.0, np.float32)
        for row, held, new in zip(out, state.ids, ids, strict=True):
            self.begun = self.begun if held else len(new)
            self.read = self.read if held else list(new)
            held.extend(new)
            row[self.said[min(len(held) - self.begun, len(self.said) - 1)]] = 0.0
        return out


class Bytes:
    """A byte tokenizer: id 0 is the separator."""

    token_bytes = (b"", *(bytes([byte]) for byte in range(256)))
    special_ids = frozenset({0})

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]


def write(code: str, text: str, max_length: int | None = None, **options: int):
    model = Parrot(text, max_length)
    return complete_code(model, Bytes(), code, CompleteOptions(**options)), model  # type: ignore[arg-type]


def test_a_body_is_written_until_the_function_ends() -> None:
    written, model = write(HEAD + "\n\n", "\n    return '鸟'\n\ndef next(): pass")
    assert written.body == "    return '鸟'" and written.finish_reason == "stop" and str(written) == HEAD + "\n    return '鸟'"
    assert bytes(id - 1 for id in model.read).decode() == HEAD  # what is read is what was learned from: no space at its end
    assert written.tokens == len("\n    return '鸟'\n\nd".encode())
    assert write(HEAD, "\n    return 1")[0].finish_reason == "stop"
    cut, _ = write(HEAD, "\n    return 12345", max_tokens=8)
    assert (cut.body, cut.finish_reason, cut.tokens) == ("    ret", "length", 8)


def test_code_that_does_not_fit_loses_its_first_lines(capsys: pytest.CaptureFixture[str]) -> None:
    written, model = write("x = 1\n" * 40 + HEAD, "\n    pass\ny", max_length=120, max_tokens=20)
    assert written.left_out == 30 and bytes(id - 1 for id in model.read).decode() == "x = 1\n" * 10 + HEAD
    assert written.body == "    pass" and "first 30 lines" in capsys.readouterr().err
    with pytest.raises(UserError, match="the function takes"):
        write("def f():\n    '" + "长" * 100 + "'", "x", max_length=120)


def test_wrong_use_is_told() -> None:
    for code in ("", "x = 1", "def f():\n    return 1\nx = 1", "class A:\n    x = 1"):
        with pytest.raises(UserError, match="no function is open"):
            write(code, "x")
    with pytest.raises(UserError, match="answers one text"):
        complete_code(Parrot("x"), Bytes(), HEAD, CompleteOptions(), Rules(source=True))  # type: ignore[arg-type]
    for options in ({"max_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(UserError):
            CompleteOptions(**options)  # type: ignore[arg-type]


def test_a_directory_says_what_it_learned(tmp_path: Path) -> None:
    assert not is_completer(tmp_path)
    for text, right in (('{"task": "complete"}', True), ('{"task": "classify"}', False), ("[1]", False), ("{", False)):
        (tmp_path / "task.json").write_text(text)
        assert is_completer(tmp_path) is right
