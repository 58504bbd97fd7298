"""Measure how well an index finds what questions ask for, beside BM25 on the same questions.

    evaluate_search(Path("my-index"), [Path("questions.jsonl")], TuneRecipe()).report.metrics["recall_at_5"].value
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from myna.console import say
from myna.data.relevance import read_queries
from myna.evaluate.measured import Measured
from myna.evaluate.search import measure_search
from myna.recipe import TuneRecipe
from myna.retrieval.options import Mode
from myna.tasks.search import open_index


def evaluate_search(folder: Path, data: Sequence[Path], recipe: TuneRecipe, mode: Mode = "auto") -> Measured:
    """Measure an index directory on rows of questions. Raises UserError when there are none about what it holds."""
    index, embed = open_index(folder, vectors=mode != "lexical")
    reading = read_queries(data, recipe.rows)
    for line in reading.said():
        say(f"  {line}")
    told: Counter[str] = Counter()
    measured = measure_search(index, reading.queries, recipe.evaluate, mode, functools.partial(embed, told=told) if embed else None)
    for what, count in told.items():
        say(f"  {count:,} questions {what}")
    return measured
