"""The end of every task's road: what was measured and from what, the page and the card.

    finish_task(out, "classifier", measured, said, learned, recipe, given, files, clock)    # report.json, seen.bin, myna.json, pages
    write_task_pages(Path("my-classifier"))                                                 # report.html and README.md alone
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from myna import __version__, machine
from myna.audit.task_card import write_task_card
from myna.console import duration, say
from myna.evaluate.measured import Measured
from myna.evaluate.task_page import write_task_page
from myna.files import sha256, write_json
from myna.metrics.report import Report
from myna.recipe import TuneRecipe
from myna.request import Inputs, request_of
from myna.roads.build import Clock, list_versions
from myna.roads.seen import save_seen
from myna.tokenizer.tokenizer import Tokenizer

_HASHED = {"config.json", "model.safetensors", "features.json", "tokenizer.json", "task.json", "terms.json", "memory.jsonl"}
_RESUMING = "checkpoints"  # the folder that only resuming needs


def finish_task(out: Path, family: str, measured: Measured, said: Sequence[str], learned: Iterable[bytes], recipe: TuneRecipe,
                given: Inputs, files: Sequence[dict[str, Any]], clock: Clock) -> Report:
    """Write what stands beside a task's model, which is written already; myna.json is last but for the pages. Returns the scores.

    said: what was said on the way. learned: the hashes of what was learned from. files: what was read, as a reading notes it.
    """
    shutil.rmtree(out / _RESUMING, ignore_errors=True)
    save_seen(out, learned)
    report = measured.report.to_json()
    write_json(out / "report.json", {"report": report, **measured.details, "lines": measured.lines, "said": list(said)})
    words: Any = {"golden": Tokenizer.open(out).golden()} if (out / "tokenizer.json").is_file() else {}
    hashed = sorted(path for path in out.rglob("*") if path.name in _HASHED and path.is_file())
    write_json(out / "myna.json", {
        "format": 1, "version": __version__, "family": family, **words,
        "hashes": {path.relative_to(out).as_posix(): sha256(path) for path in hashed},
        "lineage": {"inputs": list(files), "request": request_of(recipe, given), "seed": recipe.tune.seed,
                    "threads": recipe.tune.threads or machine.usable_cores(), "argv": sys.argv, "versions": list_versions()},
        "actual": {"total_seconds": round(clock.seconds, 3)}, "report": report, "stages": clock.stages, "notes": list(said)})
    write_task_pages(out)
    say(f"[{duration(clock.seconds)}] done: {out / 'report.html'}")
    return measured.report


def write_task_pages(out: Path) -> None:
    """Write report.html and README.md into a finished directory, and remove what only resuming needed. Raises UserError when it is none."""
    write_task_card(out)
    write_task_page(out)
    shutil.rmtree(out / _RESUMING, ignore_errors=True)
