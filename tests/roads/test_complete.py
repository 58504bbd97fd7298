"""The road of a completer on a tiny model: divided by module, beside an n-gram and its base, and what wrong use is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import myna
import myna.roads.complete
import myna.roads.language
from myna.cli.main import main
from myna.errors import UserError
from myna.roads.complete import read_functions
from tests.roads.test_tune import FLAGS, base, short_measures  # noqa: F401 - fixtures

TINY = [*FLAGS, "--task", "complete"]


@pytest.fixture(scope="module", autouse=True)
def short_bodies() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(myna.roads.complete, "_MAX_TOKENS", 24)
    patch.setattr(myna.roads.complete, "_FEWEST", 5)
    yield
    patch.undo()


def write_functions(path: Path, count: int, first: int = 0, modules: int = 20) -> Path:
    rows = [{"prompt": f'def add_{n}(x):\n    """Add {n}: 加。"""\n', "completion": f"    return x + {n}\n", "module": f"m{n % modules}"}
            for n in range(first, first + count)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:  # noqa: F811
    place = tmp_path_factory.mktemp("complete")
    rows = write_functions(place / "functions.jsonl", 120)
    assert main(["tune", str(base), str(rows), "--out", str(place / "model"), *TINY]) == 0
    return place / "model", rows


def test_the_road_leaves_a_completer_with_its_report(made: tuple[Path, Path]) -> None:
    folder, _ = made
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(report["report"]) >= {"exact_match", "edit_similarity", "parse_rate", "bits_per_byte", "baseline"}
    assert "gram" in report["report"]["baseline"]["name"] and "exact_match" in report["untuned"]["baseline"]
    assert report["functions"] == 5 and len(report["best"]) == 5 and any("divided by module" in line for line in report["said"])
    for name in ("train", "valid", "test"):
        assert name in next(line for line in report["said"] if "divided by module" in line)
    assert json.loads((folder / "task.json").read_text())["task"] == "complete" and (folder / "report.html").is_file()
    losses = report["losses"]
    assert losses["bits_per_byte"]["value"] < losses["baseline"]["bits_per_byte"]["value"]  # it learned


def test_a_body_from_the_command_line_and_in_python(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = 'def add_7(x):\n    """加 7。"""'
    (tmp_path / "begun.py").write_text(code + "\n", encoding="utf-8")
    written = myna.load(made[0]).complete(code, max_tokens=30)
    assert str(written).startswith(code) and written.finish_reason in ("stop", "length") and 0 < written.tokens <= 30
    capsys.readouterr()
    assert main(["complete", str(made[0]), "--file", str(tmp_path / "begun.py"), "--max-tokens", "30", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["body"] == written.body and value["code"] == str(written) and value["tokens"] == written.tokens
    for argv, said in (([], "no code"), (["def f():", "--file", "x"], "twice"), (["x = 1"], "no function is open")):
        assert main(["complete", str(made[0]), *argv]) == 2
        error = capsys.readouterr().err
        assert said in error.splitlines()[-1] and "Traceback" not in error


def test_what_was_learned_from_is_not_measured(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, rows = made
    assert main(["evaluate", str(folder), str(rows), "--task", "complete", "--resamples", "200", "--json"]) == 0
    done = capsys.readouterr()
    value = json.loads(done.out)
    assert "were learned from and are left out" in done.err and value["details"]["functions"] <= 24
    assert value["baseline"]["name"] and set(value["exact_match"]) == {"value", "low", "high", "signature"}
    unnamed = tmp_path / "unnamed.jsonl"  # the same functions without their modules: known by their prompts
    unnamed.write_text("".join(json.dumps({**json.loads(line), "module": ""}) + "\n" for line in rows.read_text().splitlines()))
    assert main(["evaluate", str(folder), str(unnamed), "--task", "complete", "--resamples", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["details"]["functions"] == value["details"]["functions"]
    learned = write_functions(tmp_path / "learned.jsonl", 120)
    kept = [line for line in learned.read_text(encoding="utf-8").splitlines()
            if json.loads(line)["prompt"].strip() not in {row["code"] for row in value["details"]["best"] + value["details"]["worst"]}]
    assert kept
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "baseline" / "config.json").write_text('{"model_type": "ngram"}')
    assert main(["evaluate", str(broken), str(rows), "--task", "complete"]) == 2
    assert "baseline" in capsys.readouterr().err


def test_rows_are_put_right_and_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "def f(x):", "completion": "return x"}, {"prompt": "    def g(x):\r\n", "completion": "\r\n        return '鸟'\r\n"},
            {"prompt": "x = 1", "completion": "y"}, {"prompt": "def h(): ", "completion": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = read_functions([path], myna.roads.complete.TuneRecipe())
    assert [(pair.source, pair.target) for pair in reading.pairs] == [
        ("def f(x):", "\n    return x"), ("    def g(x):", "\n        return '鸟'")]
    said = "\n".join(reading.said())
    assert "no open function" in said and "without indentation" in said and "empty target" in said
    path.write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(UserError, match="open function"):
        read_functions([path], myna.roads.complete.TuneRecipe())


def test_new_is_refused_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_functions(tmp_path / "rows.jsonl", 30)
    assert main(["tune", "new", str(rows), "--out", str(tmp_path / "out"), *TINY]) == 2
    assert "n-grams" in capsys.readouterr().err
