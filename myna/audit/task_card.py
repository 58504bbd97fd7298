"""The model card of a task's model: `README.md` of its directory. Values are escaped as in `myna.audit.card`.

    write_task_card(Path("my-classifier"))          # my-classifier/README.md
"""

from __future__ import annotations

import shlex
from pathlib import Path

from myna.audit.card import FILES_SHOWN, Markdown, make_environment, score_rows
from myna.files import write_atomic
from myna.tasks.record import TaskRecord, read_task_record

_PIPELINES = {"classify": "text-classification", "embed": "sentence-similarity", "search": "sentence-similarity",
              "answer": "question-answering", "translate": "translation", "summarize": "summarization", "chat": "text-generation",
              "tag": "token-classification", "transcribe": "automatic-speech-recognition", "complete": "text-generation",
              "fill": "fill-mask"}  # the hub's words


def write_task_card(folder: Path) -> Path:
    """Write `README.md` into a finished directory of a task and return its path. Raises UserError when the directory is none."""
    path = folder / "README.md"
    write_atomic(path, render_task(read_task_record(folder)))
    return path


def render_task(record: TaskRecord) -> str:
    """Return the card of a task's directory as Markdown."""
    return make_environment().get_template("task_card.md.jinja").render(
        record=record, pipeline=_PIPELINES.get(record.task, ""), rows=score_rows(record.report), files=record.files[:FILES_SHOWN],
        example=Markdown(record.command), rest=len(record.files[FILES_SHOWN:]),
        command=shlex.join(["myna", *map(str, record.lineage.get("argv", [])[1:])]))
