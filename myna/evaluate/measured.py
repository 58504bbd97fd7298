"""What every measurement of a task gives: scores beside a baseline's, what lies behind them, and the lines that a terminal shows of it.

    Measured(report, {"texts": 120}, ["best:", "  ..."]).to_json()["accuracy"]["value"]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from myna.metrics.report import Report


@dataclass(frozen=True)
class Measured:
    """Scores, and what lies behind them."""

    report: Report
    details: dict[str, Any] = field(default_factory=dict)
    "JSON values: the best and worst examples, counts, what a table has no room for."
    lines: list[str] = field(default_factory=list)
    "What is shown under the table."

    def to_json(self) -> dict[str, Any]:
        """Return the report's JSON with the details under 'details'."""
        return {**self.report.to_json(), "details": self.details}
