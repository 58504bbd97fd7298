"""The shape of the code: who may import whom, what no module may do, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import myna

ROOT = Path(myna.__file__).parent
LEVELS = {name: level for level, names in enumerate((
    ("errors",), ("files", "config", "machine", "fetch", "console"), ("corpus", "tokenizer", "metrics", "formats"), ("models", "data"),
    ("train", "generate", "retrieval"), ("tasks",), ("evaluate", "audit", "serve"),
    ("roads", "request", "recipe", "compare", "api"),
    ("cli",)), 1)
    for name in names}
TOP = ("__init__", "__main__")  # the package itself, which only points at api, and the command's entry
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "socket", "ssl", "urllib",
                     "urllib3", "requests", "http", "httpx", "aiohttp", "ftplib", "smtplib", "telnetlib", "huggingface_hub", "transformers"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("torch", "hub"), ("tokenizers", "from_pretrained"), ("os", "system"),
                        ("os", "popen")}
FORBIDDEN_ARGUMENTS = {"allow_pickle", "trust_remote_code"}


def modules() -> list[Path]:
    found = sorted(ROOT.rglob("*.py"))
    assert len(found) > 60
    return found


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file imports, wherever the statement stands: (line, dotted name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in (names if node.module == "myna" else [str(node.module)]))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            shown = node.args[0]
            if isinstance(shown, ast.Constant):
                yield node.lineno, str(shown.value)
            elif isinstance(shown, ast.JoinedStr) and isinstance(shown.values[0], ast.Constant):
                yield node.lineno, str(shown.values[0].value)


def wrong_imports(path: Path, name: str) -> list[str]:
    """What a module imports from its own level or a higher one. Imports for type checking count too: they say what is known."""
    own = name.split(".")[1]
    wrong = []
    for line, imported in imports(path):
        parts = imported.split(".")
        if parts[0] != "myna" or parts[1:2] in ([], ["__version__"], [own]):
            continue
        assert parts[1] in LEVELS, f"{path}:{line}: {imported} has no level"
        if LEVELS[parts[1]] > LEVELS[own] or (LEVELS[parts[1]] == LEVELS[own] and LEVELS[own] not in (2, 8)):
            wrong.append(f"{path.name}:{line} (level {LEVELS[own]}) imports {imported} (level {LEVELS[parts[1]]})")
    return wrong


def test_every_module_has_a_level() -> None:
    strays = [path for path in modules() if path.stem not in TOP and dotted(path).split(".")[1] not in LEVELS]
    assert strays == []


def test_a_module_imports_only_from_lower_levels() -> None:
    """Levels 2 and 8 are single files that use each other (files uses console, api uses build); every other level is packages apart."""
    found = [problem for path in modules() if dotted(path) != "myna" and path.stem != "__main__"
             for problem in wrong_imports(path, dotted(path))]
    assert found == []


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from myna.cli.main import main\n    from myna import train\n    import numpy, myna.models.ngram\n")
    assert [line.split(" ", 1)[0] for line in wrong_imports(file, "myna.corpus.bad")] == ["bad.py:2", "bad.py:3", "bad.py:4"]
    assert wrong_imports(file, "myna.models.bad")[-1].startswith("bad.py:3")


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in FORBIDDEN_ATTRIBUTES:
            yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        if isinstance(node, ast.keyword) and node.arg in FORBIDDEN_ARGUMENTS:
            allowed = isinstance(node.value, ast.Constant) and node.value.value is False
            if not allowed:
                yield f"line {node.value.lineno}: {node.arg}"
        if isinstance(node, ast.keyword) and node.arg == "shell":
            yield f"line {node.value.lineno}: a shell"


@pytest.mark.parametrize("source", ["eval('1')", "import torch\ntorch.load('x')", "import numpy\nnumpy.load('x', allow_pickle=True)",
                                    "f(trust_remote_code=flag)", "subprocess.run('x', shell=True)"])
def test_a_forbidden_call_is_found(source: str) -> None:
    assert len(list(forbidden(ast.parse(source)))) == 1


def test_nothing_runs_what_a_file_says_or_opens_a_connection() -> None:
    found = []
    for path in modules():
        found += [f"{path.name}: {problem}" for problem in forbidden(ast.parse(path.read_text(encoding="utf-8")))]
        found += [f"{path.name}:{line}: {name}" for line, name in imports(path) if name.split(".")[0] in FORBIDDEN_MODULES]
    assert found == []


def loaded_by(statement: str) -> set[str]:
    """The modules of a fresh process after a statement."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines())


def test_the_lower_levels_and_the_ngram_need_no_torch() -> None:
    light = [dotted(path) for path in modules() if LEVELS.get(dotted(path).partition(".")[2].split(".")[0], 9) <= 3]
    light += ["myna.models.ngram", "myna.models.pretrained", "myna.api", "myna.evaluate.files"]
    assert "torch" not in loaded_by("\n".join(f"import {name}" for name in light))


def test_help_and_the_package_itself_stay_light() -> None:
    heavy = {"torch", "numpy", "numba", "tokenizers", "pyarrow", "rich"}
    assert not heavy & loaded_by("import myna")
    assert not heavy & loaded_by("from myna.cli.main import main\nmain(['--help'])")
    assert not heavy & loaded_by("from myna.cli.main import main\nmain(['--version'])")


def test_the_flags_of_every_command_are_made_without_torch() -> None:
    lines = ["from myna.cli.main import COMMANDS, main", "for name in COMMANDS: assert main([name, '--help']) == 0"]
    assert not {"torch", "numba"} & loaded_by("\n".join(lines))


def test_every_command_has_a_module_and_every_module_a_command() -> None:
    from myna.cli.main import COMMANDS

    inside = {path.stem for path in (ROOT / "cli").glob("*.py")} - {"__init__", "main", "stop"}
    assert inside == set(COMMANDS)
