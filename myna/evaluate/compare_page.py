"""The page of a comparison: the table, what follows from it, the curves over time and over tokens, a sample of each. Stands alone, as the
report does: no script, no request to any server.

    write_compare_page(Path("compared/compare.html"), comparison, [Path("my-texts/")])
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from myna.console import duration, human
from myna.evaluate.comparison import Comparison, Row
from myna.evaluate.curves import ticks
from myna.evaluate.page import make_environment
from myna.files import write_atomic

_WIDTH, _HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 96.0, 12.0, 34.0  # margins; the right one holds the names
_APART = 14.0  # pixels between two names
_ROOM = 0.35  # of the range between best and worst ends that is shown above the worst: the steep beginnings are cut off
_COLOURS = 8


def write_compare_page(path: Path, comparison: Comparison, inputs: Sequence[Path]) -> None:
    """Write the page as one file."""
    best = comparison.rows[0]
    rows = [{"family": row.family, "name": row.name, "bits": scores["bits_per_byte"], "perplexity": scores["perplexity"],
             "parameters": row.parameters, "seconds": row.training_seconds, "read": row.training_tokens_per_second,
             "spoken": row.generation_tokens_per_second, "memory": row.peak_bytes, "sample": row.sample}
            for row, scores in zip(comparison.rows, comparison.scores, strict=True)]
    charts = [("over time", draw(comparison, "seconds", duration)), ("over tokens read", draw(comparison, "tokens", human))]
    page = make_environment().get_template("compare.html").render(
        rows=rows, sentences=comparison.sentences(), charts=[(title, Markup(chart)) for title, chart in charts if chart],
        head=f"{best.family}: {best.blocks.bits_per_byte:.3f} bits per byte, the fewest of {len(rows)}",
        under=f"Every family had {comparison.minutes:g} minutes on the same text and the same machine.",
        names=", ".join(row.family for row in comparison.rows), inputs=", ".join(path.name for path in inputs))
    write_atomic(path, page.encode("utf-8", "replace").decode("utf-8"))


def draw(comparison: Comparison, axis: str, show: Callable[[float], str]) -> str:
    """Draw the validation curves against "seconds" or "tokens" as an SVG; nothing when no row has a curve."""
    curved = [row for row in comparison.rows if len(row.curve) > 1]
    if not curved:
        return ""
    last = max(point[axis] for row in curved for point in row.curve)
    ends = [row.curve[-1]["bits_per_byte"] if row in curved else row.blocks.bits_per_byte for row in comparison.rows]
    low, high = min(ends), max(ends)
    span = max(high - low, 0.05 * low)
    low, high = low - 0.1 * span, high + _ROOM * span

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / last

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - min(value, high)) / (high - low)

    end = _WIDTH - _RIGHT
    parts = [f'<line class="grid" x1="{_LEFT}" x2="{end}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
             f'<text class="label" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
             for value in ticks(low, high, 5)]
    parts += [f'<text class="label" x="{x(value):.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{show(value)}</text>'
              for value in ticks(0, last, 4)]
    places = _spread([y(value) for value in ends])
    for number, (row, value, place) in enumerate(zip(comparison.rows, ends, places, strict=True)):
        parts += [f'<g class="line{number % _COLOURS}">', *_series(row, axis, x, y, value, end),
                  f'<text class="series" x="{end + 6}" y="{place + 4:.1f}">{html.escape(row.family)}</text></g>']
    label = f"Bits per byte of validation text against {'time' if axis == 'seconds' else 'tokens read'}"
    return (f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">'
            + "".join(parts) + "</svg>")


def _series(row: Row, axis: str, x: Callable[[float], float], y: Callable[[float], float], value: float, end: float) -> list[str]:
    if len(row.curve) < 2:  # made in one go: its score on the test text, across
        return [f'<line class="series" x1="{_LEFT}" x2="{end}" y1="{y(value):.1f}" y2="{y(value):.1f}">'
                f"<title>{html.escape(row.family)}: {value:.3f} on the test text</title></line>"]
    points = " ".join(f"{x(point[axis]):.1f},{y(point['bits_per_byte']):.1f}" for point in row.curve)
    dots = [f'<circle class="series" cx="{x(point[axis]):.1f}" cy="{y(point["bits_per_byte"]):.1f}" r="3.5">'
            f"<title>{html.escape(row.family)}: {point['bits_per_byte']:.3f} after {duration(point['seconds'])}, "
            f"{human(point['tokens'])} tokens</title></circle>" for point in row.curve]
    return [f'<polyline class="series" points="{points}"/>', *dots]


def _spread(places: list[float]) -> list[float]:
    """Move names apart that would stand on one another, keeping their order."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + _APART)
    below = max(moved) - (_HEIGHT - _BOTTOM)
    return [place - max(0.0, below) for place in moved]
