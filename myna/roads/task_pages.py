"""The last step of every task's road: the page and the card, made from `myna.json` and `report.json` alone.

    write_task_pages(Path("my-classifier"))         # report.html and README.md in it
"""

from __future__ import annotations

import shutil
from pathlib import Path

from myna.audit.task_card import write_task_card
from myna.evaluate.task_page import write_task_page


def write_task_pages(out: Path) -> None:
    """Write report.html and README.md into a finished directory, and remove what only resuming needed. Raises UserError when it is none."""
    write_task_card(out)
    write_task_page(out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
