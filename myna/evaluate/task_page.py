"""The report of a task's model as one page: how good it is beside its baseline, on which examples, what was decided, from what, how long.

`report.html` stands alone as the page of a build does (see `myna.evaluate.page`): no script, no request, every text escaped.

    write_task_page(Path("my-classifier"))          # my-classifier/report.html
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from myna.evaluate.page import lay_span, make_environment
from myna.files import write_atomic
from myna.metrics.report import Report
from myna.tasks.record import TaskRecord, read_task_record

_TONES = {"better": "Better than", "worse": "Worse than", "even": "Not distinguishable from"}
_LINES = 400  # shown of each list; own choice: what a person looks through, and all of it is in report.json


def write_task_page(folder: Path) -> Path:
    """Write `report.html` into a finished directory of a task and return its path. Raises UserError when the directory is none."""
    path = folder / "report.html"
    write_atomic(path, render_task(read_task_record(folder)))
    return path


def render_task(record: TaskRecord) -> str:
    """Return the page of a task's directory as HTML."""
    report = record.report
    metric = next(iter(report.metrics), "")
    page = make_environment().get_template("task_page.html").render(
        record=record, headline=_headline(report, metric), metric=metric.replace("_", " "),
        score=report.metrics.get(metric), span=lay_span(report, metric), score_table=Markup(report.html() if report.metrics else ""),
        groups=group_lines(record.lines[:_LINES]), more=max(0, len(record.lines) - _LINES), said=record.said[:_LINES],
        stages=record.stages, slowest=max(record.stages.values(), default=0.0), files=record.files[:_LINES],
        command=shlex.join(["myna", *map(str, record.lineage.get("argv", [])[1:])]))
    return page.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no character that a page can have


def group_lines(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Put indented lines under the line before them that is not: [{"head": line, "rows": [lines]}]."""
    groups: list[dict[str, Any]] = []
    for line in lines:
        if line.startswith(" ") and groups:
            groups[-1]["rows"].append(line.strip())
        else:
            groups.append({"head": line.strip(), "rows": []})
    return groups


def _headline(report: Report, metric: str) -> dict[str, str]:
    """Put the result in a headline: its tone, the words, and what stands under them."""
    if not metric:
        return {"tone": "alone", "head": "Not measured", "under": "No scores are kept in this directory."}
    if not report.improvements:
        score = report.metrics[metric]
        return {"tone": "alone", "head": f"{metric.replace('_', ' ')} {score.value:.3f}", "under": report.verdict()}
    gained = next(iter(report.improvements.values()))
    tone = "better" if gained.low > 0 else "worse" if gained.high < 0 else "even"
    return {"tone": tone, "head": f"{_TONES[tone]} its baseline: {report.baseline}",
            "under": f"{report.verdict()} Measured on examples that it did not learn from."}
