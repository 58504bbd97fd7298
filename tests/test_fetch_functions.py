"""Functions of Python files are taken apart by lines, and become rows of code with what it does."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from myna.fetch.functions import read_bodies, read_docstrings, read_functions

SOURCE = '''"""A module."""
import os

class Crane:
    @property
    def height(self):
        """Return the height
        in metres.

        More of it.
        """
        # 米
        return self._height + """
not indented"""

    if os.name == "posix":
        async def lift(self,
                       load):
            "Lift a load to the top: 吊起"
# a comment at the margin
            def inner():
                """Only inside."""
            return await self.motor.turn(load)

def plain(x):
    return x

def short(x): "one line"; return x
'''


def test_functions_are_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "yard").mkdir()
    (tmp_path / "yard" / "crane.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "yard" / "broken.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "crane.py").write_text(SOURCE, encoding="utf-8")
    height, lift, inner = read_functions(tmp_path)
    assert (height.module, height.name) == ("yard.crane", "Crane.height")
    assert height.signature == "@property\ndef height(self):" and height.docstring == "Return the height\nin metres.\n\nMore of it."
    assert height.body == '    # 米\n    return self._height + """\nnot indented"""'
    assert lift.signature == "async def lift(self,\n               load):" and lift.docstring == "Lift a load to the top: 吊起"
    assert lift.body.startswith("# a comment at the margin\n    def inner():") and "return await" in lift.body
    assert (inner.name, inner.body) == ("Crane.lift.inner", "")
    for function in (height, lift):
        ast.parse(f"{function.signature}\n    '''{function.docstring}'''\n{function.body}")


def test_code_with_its_summary(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "two.py").write_text(SOURCE, encoding="utf-8")
    (name, text), = read_docstrings(iter(()), tmp_path)
    rows = [json.loads(line) for line in text.splitlines()]
    assert name == "docstrings.jsonl" and [row["summary"] for row in rows] == ["Return the height in metres.",
                                                                              "Lift a load to the top: 吊起"]
    assert '"""Return' not in rows[0]["text"] and rows[0]["text"].startswith("@property\ndef height(self):\n    # 米")


def test_the_running_pythons_library() -> None:
    found = [function for function in read_functions() if function.module == "textwrap"]
    assert "dedent" in {function.name for function in found} and all(function.docstring for function in found)


def test_bodies_stand_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "yard.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "zoo.py").write_text(SOURCE, encoding="utf-8")
    [(name, text)] = read_bodies(iter(()), tmp_path)
    rows = [json.loads(line) for line in text.splitlines()]
    assert name == "functions.jsonl" and len(rows) == 2 and {row["module"] for row in rows} == {"yard"}
    lift = next(row for row in rows if row["prompt"].startswith("async"))
    assert lift["prompt"].endswith('    "Lift a load to the top: 吊起"')
    assert lift["completion"].endswith("    return await self.motor.turn(load)")
    for row in rows:
        ast.parse(row["prompt"] + "\n" + row["completion"])
