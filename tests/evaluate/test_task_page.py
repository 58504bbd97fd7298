"""Page and card of a task's model: what they say, and that nothing in them can break out."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from myna.cli.main import main
from myna.errors import UserError
from myna.evaluate.task_page import group_lines, write_task_page
from myna.metrics.report import Report, Score
from myna.roads.task_pages import write_task_pages
from myna.tasks.record import has_task_record
from tests.evaluate.directories import HOSTILE


def make_directory(folder: Path, low: float = 0.01, high: float = 0.03, said: str = "") -> Path:
    """Write what a task's road leaves: myna.json and report.json."""
    def score(value: float) -> Score:
        return Score(value, value - 0.02, value + 0.02, "accuracy|unit=text|v1")

    report = Report({"accuracy": score(0.87)}, "linear on characters 1-3", {"accuracy": score(0.85)},
                    {"accuracy": Score(0.02, low, high, "accuracy|unit=text|v1")}, {"accuracy": Score(2.3, 100 * low, 100 * high, "v1")})
    folder.mkdir()
    lineage = {"inputs": [{"path": f"评论{said}.csv", "bytes": 1234, "sha256": "ab" * 32}], "seed": 0, "threads": 1,
               "argv": ["myna", "tune", "new", f"评论{said}.csv"], "versions": {"myna": "0.1.0"},
               "request": {"recipe": {"tune": {"task": "classify"}}, "base": ["new"]}}
    value: dict[str, Any] = {"version": "0.1.0", "report": report.to_json(), "lineage": lineage, "actual": {"total_seconds": 12.5},
                             "stages": {"read": 0.5, "neural model": 11.0}, "hashes": {"config.json": "cd"},
                             "notes": [f"both are used{said}"]}
    (folder / "myna.json").write_text(json.dumps(value))
    (folder / "report.json").write_text(json.dumps({"report": report.to_json(), "lines": ["worst:", f"  0.004 差评{said}", "end"]}))
    (folder / "checkpoints").mkdir()
    return folder


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(("low", "high", "head"), [(0.01, 0.03, "Better than its baseline"), (-0.03, -0.01, "Worse than its baseline"),
                                                   (-0.01, 0.03, "Not distinguishable from its baseline")])
def test_the_page_says_how_good_on_which_examples_and_why(tmp_path: Path, low: float, high: float, head: str) -> None:
    folder = make_directory(tmp_path / "分类器", low, high)
    write_task_pages(folder)
    page, card = (folder / "report.html").read_text(), (folder / "README.md").read_text()
    for part in (head, "0.870", "0.850", "linear on characters 1-3", "差评", "both are used", "评论.csv", "neural model", "分类器"):
        assert part in page
    for part in ("0.870 (0.850 to 0.890)", "both are used", "评论.csv", 'myna classify \'分类器\' "a text"', "text-classification"):
        assert part in card
    assert not (folder / "checkpoints").exists()


def test_nothing_in_a_page_or_card_breaks_out(tmp_path: Path) -> None:
    folder = make_directory(tmp_path / "made", said=HOSTILE)
    write_task_pages(folder)
    parser = _Tags()
    parser.feed((folder / "report.html").read_text())
    assert "script" not in parser.tags and "<script>alert(1)</script>" in parser.text
    card = (folder / "README.md").read_text()
    assert "default-src 'none'" in (folder / "report.html").read_text()
    assert "<script>alert(1)" not in "".join(line for line in card.splitlines() if line.startswith(("-", "|")))


def test_lines_that_are_indented_belong_to_the_one_before() -> None:
    assert group_lines(["a", "b:", "  1", "  二", "c"]) == [
        {"head": "a", "rows": []}, {"head": "b:", "rows": ["1", "二"]}, {"head": "c", "rows": []}]


@pytest.mark.parametrize("broken", [{"lineage": {}}, {"report": {"accuracy": 3}}, {"stages": {"a": "b"}}, {"lineage": 7}])
def test_a_damaged_directory_is_one_line(tmp_path: Path, broken: dict[str, Any]) -> None:
    folder = make_directory(tmp_path / "made")
    value = json.loads((folder / "myna.json").read_text())
    (folder / "myna.json").write_text(json.dumps({**value, **broken}))
    with pytest.raises(UserError):
        write_task_page(folder)


def test_show_says_the_task_its_scores_and_what_was_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_directory(tmp_path / "made", said="，两者")
    assert main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    for part in ("for classify, begun with new", "both are used，两者", "0.870", "myna classify", "评论，两者.csv"):
        assert part in out
    assert main(["show", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "task" and found["report"]["accuracy"]["value"] == 0.87
    (folder / "myna.json").write_text("[]")
    assert not has_task_record(folder) and not has_task_record(tmp_path)
