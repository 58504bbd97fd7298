"""Training curves as SVG: what the model cost on its own text and on unseen text, step by step, beside the baseline.

The training loss is turned from nats per token into bits per byte, so that one axis serves all; where the two curves part, the
model has begun to memorise. The drawing uses classes only, so the page decides its colours, and marks carry native tooltips.

    curves = read_curves(read_log(Path("my-model/log.jsonl")), bytes_per_token=3.1, baseline=1.93)
    svg = draw_curves(curves, width=760, height=340)
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from myna.console import duration

_POINTS = 300  # of the training curve: more than the chart has pixels for cannot be seen
_SMOOTHED = 25  # the moving average reaches over this part of the curve to both sides, less at its steep beginning
_ROOM = 1.12  # the first validation point lies this far below the top; the steeper beginning of training is cut off
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 14.0, 44.0  # margins for the labels
_STRIP = 34.0  # height of the learning rate below the curves


class Point(NamedTuple):
    """A value at a step and at a time."""

    step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Curves:
    """What is drawn; values in bits per byte."""

    training: list[Point]
    validation: list[Point]
    rates: list[Point]
    "The learning rate as a share of its peak."
    baseline: float | None = None
    expected: float | None = None
    "What the plan predicted for the end."
    notes: list[tuple[int, str]] = field(default_factory=list)

    @property
    def last(self) -> Point:
        """The end of the run."""
        return max([*self.training[-1:], *self.validation[-1:]])


def read_curves(rows: Sequence[dict[str, Any]], bytes_per_token: float, baseline: float | None, expected: float | None = None) -> Curves:
    """Take the curves from the rows of a training log; a skipped step has no loss and no point."""
    scale = 1 / (math.log(2) * bytes_per_token)

    def points(event: str, key: str, factor: float = 1.0) -> list[Point]:
        found = (row for row in rows if row["event"] == event and isinstance(row.get(key), (int, float)))
        return [Point(row["step"], row[key] * factor, row["seconds"]) for row in found]

    notes = [(row["step"], row["text"]) for row in rows if row["event"] == "note"]
    training, rates = points("step", "loss", scale), points("step", "learning_rate")
    return Curves(training, points("valid", "bits_per_byte"), rates, baseline, expected, notes)


def smooth(points: Sequence[Point], most: int = _POINTS) -> tuple[list[Point], list[Point]]:
    """Return the points thinned to means of equal runs of steps, and their moving average, centred so that it does not lag."""
    run = -(-len(points) // most) if points else 1
    thinned = [Point(part[-1].step, sum(p.value for p in part) / len(part), part[-1].seconds)
               for part in (points[at:at + run] for at in range(0, len(points), run))]
    averaged = []
    for number, point in enumerate(thinned):
        reach = min(number, len(thinned) // _SMOOTHED)
        near = thinned[number - reach:number + reach + 1]
        averaged.append(point._replace(value=sum(p.value for p in near) / len(near)))
    return thinned, averaged


def ticks(low: float, high: float, count: int) -> list[float]:
    """Choose at most `count` + 1 round numbers (1, 2, 2.5 or 5 times a power of ten apart) within [low, high]."""
    least = max(high - low, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= least * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 10) for n in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axes(NamedTuple):
    """The drawing's size in pixels and the ranges it shows."""

    width: int
    height: int
    first: int
    last: int
    low: float
    high: float

    @property
    def bottom(self) -> float:
        """The foot of the curves."""
        return self.height - _BOTTOM - _STRIP

    @property
    def right(self) -> float:
        """The end of the curves."""
        return self.width - _RIGHT

    def x(self, step: float) -> float:
        return _LEFT + (self.right - _LEFT) * (step - self.first) / max(1, self.last - self.first)

    def y(self, value: float) -> float:
        return _TOP + (self.bottom - _TOP) * (self.high - value) / (self.high - self.low)


def draw_curves(curves: Curves, width: int, height: int) -> str:
    """Draw an SVG of this size in pixels; it keeps its size, for smaller text would not be readable on a phone."""
    first = curves.training[0].step if curves.training else 0
    axes = _Axes(width, height, first, max(first + 1, curves.last.step), *_limits(curves))
    clip = f"area{width}"
    thinned, averaged = smooth(curves.training)
    shown = [p for p in curves.validation if axes.low <= p.value <= axes.high]
    label = "Training and validation bits per byte by step" + (", beside the baseline" if curves.baseline else "")
    return "".join([
        f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<clipPath id="{clip}"><rect x="{_LEFT}" y="{_TOP}" width="{axes.right - _LEFT}" height="{axes.bottom - _TOP}"/></clipPath>',
        *_value_labels(axes), *_step_labels(curves, axes), *_marks(curves, axes),
        f'<g clip-path="url(#{clip})">', *(_line(points, axes, name) for points, name in (
            (thinned, "raw"), (averaged, "training"), (curves.validation, "validation"))), "</g>",
        *(f'<circle class="validation" cx="{axes.x(p.step):.1f}" cy="{axes.y(p.value):.1f}" r="4"><title>{_tip(p)}</title></circle>'
          for p in shown),
        *_strip(curves, axes), "</svg>"])


def _limits(curves: Curves) -> tuple[float, float]:
    """Choose the range of the axis: all of validation, the baseline, and of training what lies beside them."""
    known = [p.value for p in curves.validation] + [v for v in (curves.baseline, curves.expected) if v]
    ends = [p.value for p in smooth(curves.training)[1]]
    top = max(known) * _ROOM if known else max(ends)
    low = min(known + [v for v in ends if v <= top])
    return low - 0.06 * (top - low) - 1e-3, top + 1e-3


def _value_labels(axes: _Axes) -> list[str]:
    """Draw the lines behind and their values at the left."""
    marks = ticks(axes.low, axes.high, 6)
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 2
    return [f'<line class="grid" x1="{_LEFT}" x2="{axes.right}" y1="{axes.y(value):.1f}" y2="{axes.y(value):.1f}"/>'
            f'<text class="label" x="{_LEFT - 8}" y="{axes.y(value) + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>'
            for value in marks]


def _step_labels(curves: Curves, axes: _Axes) -> list[str]:
    """Write steps below the drawing, and the time of each below it."""
    timed = sorted({*curves.training, *curves.validation})
    parts = []
    for step in (round(t) for t in ticks(axes.first, axes.last, 7 if axes.width > 500 else 3) if t == round(t)):
        seconds = next((p.seconds for p in timed if p.step >= step), timed[-1].seconds) if step else 0.0
        at = axes.x(step)
        anchor = "end" if at > axes.right - 20 else "start" if at < _LEFT + 20 else "middle"
        parts.append(f'<text class="label" x="{at:.1f}" y="{axes.height - 22}" text-anchor="{anchor}">{step:,}'
                     f'<tspan class="time" x="{at:.1f}" dy="14">{duration(seconds)}</tspan></text>')
    return parts


def _marks(curves: Curves, axes: _Axes) -> list[str]:
    """Draw the baseline across, the predicted end, and a line where a note was made."""
    parts = []
    if curves.baseline:
        at = axes.y(curves.baseline)
        worse = any(p.value >= curves.baseline for p in curves.validation[-1:])  # then the label goes under the line
        parts.append(f'<line class="baseline" x1="{_LEFT}" x2="{axes.right}" y1="{at:.1f}" y2="{at:.1f}"/>'
                     f'<text class="label baseline" x="{axes.right - 12}" y="{at + (15 if worse else -7):.1f}" text-anchor="end">'
                     f'n-gram {curves.baseline:.3f}</text>')
    if curves.expected:
        parts.append(f'<path class="expected" d="M{axes.x(axes.last):.1f} {axes.y(curves.expected) - 6:.1f}l6 6-6 6-6-6z">'
                     f'<title>predicted before step 1: {curves.expected:.3f} bits per byte</title></path>')
    for step, text in curves.notes:
        at = axes.x(step)
        parts.append(f'<line class="note" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{axes.bottom}">'
                     f'<title>{html.escape(text)}</title></line>')
    return parts


def _strip(curves: Curves, axes: _Axes) -> list[str]:
    """Draw the learning rate as a filled strip under the curves."""
    rates, _ = smooth(curves.rates)
    peak = max((p.value for p in rates), default=0.0)
    if not peak:
        return []
    foot = axes.height - _BOTTOM + 4
    line = " ".join(f"{axes.x(p.step):.1f},{foot - (_STRIP - 12) * p.value / peak:.1f}" for p in rates)
    return [f'<polygon class="rate" points="{axes.x(rates[0].step):.1f},{foot} {line} {axes.x(rates[-1].step):.1f},{foot}">'
            "<title>learning rate</title></polygon>"]


def _line(points: Sequence[Point], axes: _Axes, name: str) -> str:
    path = " ".join(f"{axes.x(p.step):.1f},{axes.y(p.value):.1f}" for p in points)
    return f'<polyline class="{name}" points="{path}"/>' if len(points) > 1 else ""


def _tip(point: Point) -> str:
    return f"step {point.step:,}, after {duration(point.seconds)}: {point.value:.3f} bits per byte"
