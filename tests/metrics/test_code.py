"""Scores of code equal their references, and no text that is parsed can do harm."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from myna.metrics.code import edit_similarity, normalize_code, parses, same_code

PIECES = ["    ", "return ", "x", "(", ")", ":", "\n", "'吊起'", "def f(", "# 米\n", "if ", "\t", "é"]


def slow_distance(one: str, other: str) -> int:
    """The textbook table, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def draw(generator: random.Random) -> str:
    return "".join(generator.choices(PIECES, k=generator.randint(0, 14)))


def test_edit_similarity_equals_its_references() -> None:
    generator = random.Random(0)
    rapidfuzz = pytest.importorskip("rapidfuzz")
    for _ in range(1000):
        one = draw(generator)
        other = draw(generator) if generator.random() < 0.5 else one.replace(generator.choice(PIECES), generator.choice(PIECES))
        left, right = normalize_code(one), normalize_code(other)
        found = edit_similarity(one, other)
        assert found == pytest.approx(1 - slow_distance(left, right) / max(1, len(left), len(right)), abs=1e-12)
        assert found == pytest.approx(rapidfuzz.distance.Levenshtein.normalized_similarity(left, right), abs=1e-12)


def test_what_does_not_show_counts_for_nothing() -> None:
    assert same_code("    return '鸟'  \n\n", "\n    return '鸟'") and edit_similarity("    return '鸟'  \n", "    return '鸟'") == 1
    assert not same_code("    return x", "return x") and edit_similarity("", "\n") == 1 and edit_similarity("x", "") == 0


@pytest.mark.parametrize(("code", "right"), [
    ("def 飞(高):\n    return 高\n", True), ("    def f(self):\n        return self\n", True), ("\n\tdef f(x):\n\t\treturn x", True),
    ("def f(x):\n", False), ("def f(x):\n    return )\n", False), ("x = '\0'", False), ("", True), ("def f():\n    '\\d'", True),
    ("(" * 100_000, False), ("-" * 100_000 + "1", False), ("x" * 200_000, False), ("[" * 90 + "]" * 90, True),
])
def test_parsing(code: str, right: bool, recwarn: pytest.WarningsRecorder) -> None:
    assert parses(code) is right and not recwarn.list


def test_nothing_is_run(tmp_path) -> None:
    assert parses(f"open({str(tmp_path / 'made')!r}, 'w')") and not (tmp_path / "made").exists()


def test_a_file_parses_and_not_what_is_cut_in_a_line() -> None:
    source = Path(ast.__file__).read_text(encoding="utf-8")
    assert parses(source) and not parses(source[: source.index("def ") + 5])
