"""What the README and the documentation show is true: commands parse, links lead somewhere, code compiles, both languages agree."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import myna
from myna.cli.main import COMMANDS, Parser
from myna.errors import UserError

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").rglob("*.md"))]


def indented(path: Path) -> list[str]:
    """The lines of indented code blocks, without their comments (two spaces or more before a # or a word that is no argument)."""
    lines = [line[4:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    return [re.split(r"\s{2,}|\s#\s", line)[0] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_parses(page: Path) -> None:
    calls = [call for line in indented(page) for call in re.split(r"&&|\|\|?", line) if re.match(r"\s*myna\s", call)]
    for call in calls:
        name, *argv = shlex.split(call)[1:]
        if "..." in argv or "INPUT..." in argv or name.startswith("-") or argv == ["--help"]:
            continue
        assert name in COMMANDS, call
        parser = Parser(prog=f"myna {name}", description="")
        importlib.import_module(f"myna.cli.{name}").add_arguments(parser)
        parser.add_argument("--json", action="store_true")
        try:
            parser.parse(argv)
        except UserError as error:  # the files of an example do not exist; its arguments must
            assert error.got.startswith("no such file"), error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall("^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_table_has_the_commands_that_exist(page: Path) -> None:
    assert re.findall(r"^\| \[`myna (\w+)`\]", page.read_text(encoding="utf-8"), re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_python_shown_uses_what_exists(page: Path) -> None:
    from myna.api import Model

    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for node in (node for block in blocks for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"myna": myna, "model": Model}.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr) or node.attr in Model.__dataclass_fields__, node.attr


def test_both_languages_have_the_same_sections_and_numbers() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert english.count("\n## ") == chinese.count("\n## ")
    for section in (3, 7):  # what was measured of tasks, and beside other tools
        compared = [re.findall(r"\d+\.\d+", re.split(r"\n## ", text)[section]) for text in (english, chinese)]
        assert compared[0] and compared[0] == compared[1]
