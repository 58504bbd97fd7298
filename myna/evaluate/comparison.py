"""Several models on the same bytes: one row each, a paired test of each against the next, and what a reader may conclude.

    comparison = compare_rows([Row("lstm", ...), Row("decoder", ...)], minutes=2, options=EvaluateOptions())
    rich.print(comparison.table())
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from myna.console import human
from myna.evaluate.language import Text as ScoredText
from myna.evaluate.language import evaluate_language
from myna.evaluate.options import EvaluateOptions
from myna.metrics.language import Blocks, language_report
from myna.metrics.report import Score
from myna.models.protocol import LanguageModel
from myna.tokenizer.tokenizer import Tokenizer

_WARM_UP, _TIMED = 16, 64


@dataclass(frozen=True)
class Row:
    """One model of a comparison."""

    family: str
    name: str
    "What it is, in words."
    blocks: Blocks = field(repr=False)
    parameters: int
    training_seconds: float
    training_tokens: int | None
    "Tokens read in training, repetitions counted; None for a mixture."
    generation_tokens_per_second: float
    peak_bytes: int | None
    sample: str
    curve: list[dict[str, float]] = field(default_factory=list)
    "Bits per byte of validation text while it was trained: seconds, tokens, bits_per_byte."
    folder: str = ""

    @property
    def training_tokens_per_second(self) -> float | None:
        """Tokens read a second while it was trained."""
        return self.training_tokens / self.training_seconds if self.training_tokens and self.training_seconds else None


@dataclass(frozen=True)
class Comparison:
    """Rows from best to worst, their scores, and each row's test against the next."""

    rows: list[Row]
    scores: list[dict[str, Score]]
    tests: list[Score]
    "Improvement of row i over row i + 1 in percent of its bits per byte, from the same resampled blocks."
    minutes: float

    def sentences(self) -> list[str]:
        """Say what follows from the tests, and what does not."""
        said = []
        for (better, worse), test in zip(zip(self.rows, self.rows[1:], strict=False), self.tests, strict=True):
            interval = f"{test.value:+.1f} % in bits per byte, 95 % interval {test.low:+.1f} to {test.high:+.1f}"
            judged = "is significantly better than" if test.low > 0 else "is not distinguishable from"
            said.append(f"{better.family} {judged} {worse.family} on this text ({interval}).")
        limits = (f"Each had {self.minutes:g} minutes on this machine, one seed and the settings chosen for it; with more time, more text "
                  "or other settings the order can change. The intervals say how far other text of this kind could move the scores, "
                  "not how far another seed could; with several tests, about one in twenty is significant by chance. Perplexities are "
                  "per token.")
        return [*said, limits]

    def to_json(self) -> dict[str, Any]:
        """Return {"rows": [{"family", "bits_per_byte": score, ...}], "tests": [...], "minutes", "conclusions"}."""
        rows = []
        for row, scores in zip(self.rows, self.scores, strict=True):
            plain = {name: value for name, value in vars(row).items() if name != "blocks"}
            rows.append({**plain, "training_tokens_per_second": row.training_tokens_per_second,
                         **{name: asdict(score) for name, score in scores.items()}})
        tests = [{"better": a.family, "worse": b.family, "improvement_percent": asdict(test), "significant": test.low > 0}
                 for a, b, test in zip(self.rows, self.rows[1:], self.tests, strict=False)]
        return {"rows": rows, "tests": tests, "minutes": self.minutes, "conclusions": self.sentences()}

    def table(self) -> Table:
        """Lay the rows out for 80 columns."""
        table = Table(width=80, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("model", "bits per\nbyte", "per-\nplexity", "weights", "trained", "read\n/s", "spoken\n/s", "memory"):
            table.add_column(Text(heading), justify="left" if heading == "model" else "right", no_wrap=True)
        for row, scores in zip(self.rows, self.scores, strict=True):
            bits, read = scores["bits_per_byte"], row.training_tokens_per_second
            cells = (row.family, f"{bits.value:.3f}\n[{bits.low:.3f}, {bits.high:.3f}]", f"{scores['perplexity'].value:.1f}",
                     human(row.parameters), f"{row.training_seconds:,.0f} s", human(round(read)) if read else "-",
                     human(round(row.generation_tokens_per_second)), f"{human(row.peak_bytes)}B" if row.peak_bytes else "-")
            table.add_row(*map(Text, cells))
        return table


def score_blocks(model: LanguageModel, tokenizer: Tokenizer, text: ScoredText, family: str) -> Blocks:
    """Score a text with a model, block by block."""
    return evaluate_language(model, tokenizer, text, f"evaluating {family}")


def time_steps(model: LanguageModel, ids: Sequence[int]) -> float:
    """Return how many tokens a second a model takes in one at a time, each with the distribution of the next, as generation needs it.

    ids: some text; the first few are not timed, for first calls load and allocate.
    """
    state = model.start()
    model.step([[model.separator_id, *ids[:_WARM_UP]]], state)
    timed = ids[_WARM_UP:_WARM_UP + _TIMED]
    began = time.perf_counter()
    for id in timed:
        model.step([[id]], state)
    return len(timed) / max(time.perf_counter() - began, 1e-9)


def compare_rows(rows: Sequence[Row], minutes: float, options: EvaluateOptions) -> Comparison:
    """Order rows from best to worst and test each against the next, on the same resampled blocks of the same bytes."""
    ordered = sorted(rows, key=lambda row: row.blocks.bits_per_byte)
    scores = [language_report(row.blocks, None, "", options.resamples, options.seed).metrics for row in ordered]
    tests = [language_report(better.blocks, worse.blocks, worse.family, options.resamples, options.seed).improvements["bits_per_byte"]
             for better, worse in itertools.pairwise(ordered)]
    return Comparison(ordered, scores, tests, minutes)
