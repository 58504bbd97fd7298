"""The report: scores with intervals and signatures, the baseline's beside them; one object, printed as a table, JSON or HTML.

A signature says how a number was measured; scores are compared only when their signatures are equal.

    report = Report({"bits_per_byte": Score(1.84, 1.79, 1.88, "bits_per_byte|...|v1")})
    rich.print(report.table())
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

_DIFFERENCE, _IMPROVEMENT = "_difference", "_improvement_percent"


@dataclass(frozen=True)
class Score:
    """A number, its 95 % interval, and how it was measured."""

    value: float
    low: float
    high: float
    signature: str


@dataclass(frozen=True)
class Report:
    """Scores of a model, and of its baseline on the same text.

    differences: model minus baseline. improvements: how much better the model is, in percent of the baseline's score, positive
    when better whichever way the metric points. Both from the same resampled blocks.
    """

    metrics: dict[str, Score]
    baseline: str = ""  # its name; empty: none
    baseline_metrics: dict[str, Score] = field(default_factory=dict)
    differences: dict[str, Score] = field(default_factory=dict)
    improvements: dict[str, Score] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return {metric: score, metric_difference: ..., metric_improvement_percent: ..., "baseline": {"name", metric: score}}."""
        scores = {**self.metrics, **{name + _DIFFERENCE: score for name, score in self.differences.items()},
                  **{name + _IMPROVEMENT: score for name, score in self.improvements.items()}}
        value: dict[str, Any] = {name: asdict(score) for name, score in scores.items()}
        if self.baseline:
            value["baseline"] = {"name": self.baseline, **{name: asdict(score) for name, score in self.baseline_metrics.items()}}
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Report:
        """Read back what `to_json` gave, as a model directory's myna.json keeps it."""
        beside = dict(value.get("baseline", {}))
        name = beside.pop("name", "")
        found: dict[str, dict[str, Score]] = {"": {}, _DIFFERENCE: {}, _IMPROVEMENT: {}}
        for key, score in value.items():
            if key != "baseline":
                kind = next((end for end in (_DIFFERENCE, _IMPROVEMENT) if key.endswith(end)), "")
                found[kind][key.removesuffix(kind)] = Score(**score)
        return cls(found[""], name, {key: Score(**score) for key, score in beside.items()}, found[_DIFFERENCE], found[_IMPROVEMENT])

    def verdict(self) -> str:
        """Say in one sentence whether the model is better than its baseline by the first metric they share."""
        if not self.improvements and self.differences:  # a score of 0 has no share to be better by
            return f"The baseline ({self.baseline}) is at 0, so the difference alone can be told."
        if not self.improvements:
            return "No baseline was measured on this text."
        metric, score = next(iter(self.improvements.items()))
        if score.low > 0:
            judged = "significantly better than"
        elif score.high < 0:
            judged = "significantly worse than"
        else:
            judged = "not distinguishable from"
        return (f"The model is {judged} its baseline ({self.baseline}): {score.value:+.1f} % in {_words(metric)}"
                f" (95 % interval {score.low:+.1f} to {score.high:+.1f}).")

    def table(self) -> Table:
        """Lay the scores out for 80 columns: model, baseline, difference, each with its interval."""
        # Text, not str: a name with square brackets is no markup
        table = Table(caption=Text(self.verdict()) if self.baseline else None, caption_justify="left", width=80)
        for number, heading in enumerate(self._headings()):
            table.add_column(Text(heading), justify="right" if number else "left", no_wrap=number == 0, ratio=1 if number else None)
        for cells in self._cells():
            table.add_row(*map(Text, cells))
        return table

    def html(self) -> str:
        """Return an HTML fragment: the table, and the verdict as its caption."""
        caption = f"<caption>{html.escape(self.verdict())}</caption>" if self.baseline else ""
        head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in self._headings())
        rows = "".join("<tr>" + "".join(_html_cell(cell, number) for number, cell in enumerate(cells)) + "</tr>" for cells in self._cells())
        signatures = "".join(f"<li><code>{html.escape(score.signature)}</code></li>" for score in self.metrics.values())
        return (f'<table class="scores">{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
                f'<details class="signatures"><summary>How it was measured</summary><ul>{signatures}</ul></details>')

    def _headings(self) -> list[str]:
        return ["metric", "model", *([f"baseline: {self.baseline}", "difference"] if self.baseline else [])]

    def _cells(self) -> list[list[str]]:
        rows = []
        for name, score in self.metrics.items():
            beside = [_shown(scores[name]) if name in scores else "-" for scores in (self.baseline_metrics, self.differences)]
            rows.append([_words(name), _shown(score), *(beside if self.baseline else [])])
        return rows


def _shown(score: Score) -> str:
    # as many decimals as leave four digits of the larger end, three at most
    digits = max(0, 4 - len(str(int(max(abs(score.low), abs(score.high))))))
    return f"{score.value:.{digits}f}\n[{score.low:.{digits}f}, {score.high:.{digits}f}]"


def _html_cell(cell: str, number: int) -> str:
    value, _, interval = cell.partition("\n")
    if number == 0:
        return f'<th scope="row">{html.escape(value)}</th>'
    return f"<td>{html.escape(value)}" + (f" <small>{html.escape(interval)}</small>" if interval else "") + "</td>"


def _words(metric: str) -> str:
    return metric.replace("_", " ")
