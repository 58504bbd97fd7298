"""What the directory of a task's model says of itself: the task, its scores beside the baseline's, what was said, files, time.

Read from `myna.json` and `report.json`, which every task's road writes, without opening the model. The page and the card stand on it.

    record = read_task_record(Path("my-classifier"))
    record.task, record.report.verdict()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.files import read_json
from myna.metrics.report import Report

_MOST_BYTES = 64 << 20  # of each of the two files
_DAMAGE = (AttributeError, KeyError, TypeError, ValueError)
_EXAMPLES = {  # how each task's verb is called, after `myna VERB DIR`
    "classify": '"a text"', "embed": '"a text"', "search": '"a question"', "answer": '"a question"', "translate": '"a sentence"',
    "summarize": "long.txt", "chat": "", "tag": '"a sentence"', "transcribe": "recording.wav", "complete": '"def name(x):"',
    "fill": '"a ___ day"'}


@dataclass(frozen=True)
class TaskRecord:
    """A task's directory in words and numbers; what is not known is empty."""

    name: str
    "The directory's own name."
    task: str
    base: str
    report: Report
    lines: list[str]
    "What is shown under the table: counts, the best and the worst examples."
    said: list[str]
    "What was read, dropped, tried and chosen, in order."
    files: list[dict[str, Any]]
    stages: dict[str, float]
    seconds: float
    lineage: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    version: str = ""

    @property
    def command(self) -> str:
        """How the model is put to use from the command line, after the words `myna VERB DIR`."""
        return _EXAMPLES.get(self.task, "")


def read_task_record(folder: Path) -> TaskRecord:
    """Read a finished directory. Raises UserError when myna.json or report.json is missing or damaged."""
    myna = _read(folder / "myna.json")
    details = _read(folder / "report.json")
    try:
        lineage = dict(myna.get("lineage") or {})
        request = lineage.get("request") or {}
        actual = myna.get("actual") or {}
        return TaskRecord(
            folder.resolve().name, str(request["recipe"]["tune"]["task"]), str(next(iter(request.get("base") or [""]))),
            Report.from_json(dict(myna.get("report") or {})), _strings(details.get("lines")), _strings(myna.get("notes")),
            [dict(one) for one in lineage.get("inputs") or []],
            {str(name): float(seconds) for name, seconds in (myna.get("stages") or {}).items()}, float(actual.get("total_seconds", 0)),
            lineage, {str(name): str(digest) for name, digest in (myna.get("hashes") or {}).items()}, str(myna.get("version", "")))
    except _DAMAGE as error:
        raise UserError(f"what {folder} says of itself is damaged ({type(error).__name__}: {error})", "files as myna tune writes them",
                        "restore myna.json and report.json") from None


def has_task_record(folder: Path) -> bool:
    """Tell whether a directory was finished by a task's road."""
    if not (folder / "myna.json").is_file() or not (folder / "report.json").is_file():
        return False
    try:
        return str(read_json(folder / "myna.json", _MOST_BYTES)["lineage"]["request"]["recipe"]["tune"]["task"]) != "language"
    except (UserError, *_DAMAGE):
        return False


def _read(path: Path) -> Mapping[str, Any]:
    value = read_json(path, _MOST_BYTES)
    if not isinstance(value, dict):
        raise UserError(f"{path} is no object", "a file as myna tune writes it", "restore the file")
    return value


def _strings(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
