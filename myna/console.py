"""What a person sees while a stage works: one line said, or a bar with rate and time left, always on standard error.

    with track("reading", total=1_000_000, unit="B") as advance:
        advance(65536)
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")  # control, direction, halves of a pair
_LINE_EVERY = 10.0  # seconds between progress lines when standard error is not a terminal


def say(message: str) -> None:
    """Print one line on standard error."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def track(label: str, total: float | None = None, unit: str = "") -> Iterator[Callable[[float], None]]:
    """Show progress of `total` units of work; the yielded function takes the amount just done.

    A terminal gets a live bar. A pipe or file gets a line every ten seconds, so logs stay short.
    """
    with (_bar if sys.stderr.isatty() else _lines)(label, total, unit) as advance:
        yield advance


@contextlib.contextmanager
def _lines(label: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    began = spoke = time.monotonic()
    done = 0.0

    def advance(amount: float = 1) -> None:
        nonlocal done, spoke
        done += amount
        now = time.monotonic()
        if now - spoke >= _LINE_EVERY:
            spoke = now
            say(_line(label, done, total, unit, now - began))

    yield advance


@contextlib.contextmanager
def _bar(label: str, total: float | None, unit: str) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, rate="")
        began = time.monotonic()
        done = 0.0

        def advance(amount: float = 1) -> None:
            nonlocal done
            done += amount
            rate = done / max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, rate=f"{human(done)}{unit} · {human(rate)}{unit}/s")

        yield advance


def _line(label: str, done: float, total: float | None, unit: str, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    of = f"/{human(total)}{unit} ({done / total:.0%})" if total else unit
    left = f" · {duration((total - done) / rate)} left" if total and rate else ""
    return f"{label} {human(done)}{of} · {human(rate)}{unit}/s{left}"


def printable(text: str) -> str:
    """Replace what could steer a terminal, or not be written to it."""
    return _UNPRINTABLE.sub("\ufffd", text)


def human(number: float) -> str:
    """Write a count with a decimal prefix: 1234567 is '1.2M'."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.1f}{suffix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Write seconds as '45 s', '3 min 20 s' or '2 h 5 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
