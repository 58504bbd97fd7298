"""Measure a model at the task it was made for, on other people's data, beside the baseline that was measured when it was made.

    evaluate_task("classify", Path("my-classifier"), [Path("more.csv")], TuneRecipe()).report.metrics["accuracy"].value
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from myna.evaluate.measured import Measured
from myna.models.precision import Precision
from myna.recipe import TuneRecipe
from myna.retrieval.options import Mode
from myna.tasks.options import TranscribeOptions


def evaluate_task(task: str, folder: Path, data: Sequence[Path], recipe: TuneRecipe, mode: Mode = "auto",
                  speaking: TranscribeOptions | None = None, member: str | None = None, precision: Precision = "float32") -> Measured:
    """Measure a directory on data. Raises UserError when it was not made for the task, or nothing can be measured.

    mode: how an index is searched (--task search). speaking: how speech becomes text (--task transcribe). member,
    precision: how a model is opened (--task generate).
    """
    match task:
        case "classify":
            from myna.roads.classify import evaluate_classifier  # here, so that each task loads only what it uses

            return evaluate_classifier(folder, data, recipe)
        case "tag":
            from myna.roads.tag import evaluate_tagger

            return evaluate_tagger(folder, data, recipe)
        case "search":
            from myna.roads.search import evaluate_search

            return evaluate_search(folder, data, recipe, mode)
        case "transcribe":
            from myna.roads.measuring import evaluate_speech

            return evaluate_speech(folder, data, recipe, speaking or TranscribeOptions())
        case "generate":
            from myna.roads.measuring import evaluate_writing

            return evaluate_writing(folder, data, recipe, member, precision)
        case "fill":
            from myna.roads.measuring import evaluate_filling

            return evaluate_filling(folder, data, recipe)
        case "complete":
            from myna.roads.complete import evaluate_completer

            return evaluate_completer(folder, data, recipe)
        case "translate":
            from myna.roads.translate import evaluate_translator

            return evaluate_translator(folder, data, recipe)
        case "summarize":
            from myna.roads.summarize import evaluate_summarizer

            return evaluate_summarizer(folder, data, recipe)
        case "answer":
            from myna.roads.answer import evaluate_answerer

            return evaluate_answerer(folder, data, recipe)
        case "chat":
            from myna.roads.chat import evaluate_chat

            return evaluate_chat(folder, data, recipe)
    raise ValueError(f"no task {task!r}")
