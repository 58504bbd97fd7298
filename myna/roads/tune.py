"""Tune a model: the one entry of every task's road, with what they share: the lock, the request that `--resume` goes on with, threads.

    tune("smollm2", [Path("my-rows.jsonl")], Path("my-model"), TuneRecipe(TuneOptions(minutes=10)))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from myna import machine
from myna.console import say
from myna.errors import UserError
from myna.files import lock, read_json
from myna.metrics.report import Report
from myna.recipe import TuneRecipe
from myna.request import Inputs, saved_request
from myna.roads.build import Clock, write_pages
from myna.roads.task_pages import write_task_pages


def tune(base: str | Path | None, data: Sequence[Path], out: Path, recipe: TuneRecipe, resume: bool = False,
         valid: Sequence[Path] = (), test: Sequence[Path] = ()) -> Report:
    """Tune a model on rows of conversations, text or labelled texts and write a model directory, or go on with one; returns its scores.

    base: a model directory, the name of a fetched one, or of a classifier 'new'; None only to go on with what `out` holds.
    valid, test: parts that are given apart, of labelled texts.
    Raises UserError on anything the user can mend, Interrupted (a KeyboardInterrupt) when stopped after saving.
    """
    clock = Clock()
    with lock(out):
        given: Inputs = {"data": data, "base": [] if base is None else [Path(base)]}
        if recipe.tune.task != "language":
            given = {**given, "valid": valid, "test": test}
        elif valid or test:
            raise UserError("--valid or --test for a tuning of language", "rows in one place, of which some are held out",
                            "leave them out, or add --task classify")
        saved = saved_request(out, recipe, given, resume, "tune")
        if saved is not None and saved[0].tune.task != "language" and "test" not in given:  # --resume alone does not tell the task
            given = {**given, "valid": valid, "test": test}
            saved = saved_request(out, recipe, given, resume, "tune")
        if saved is None:
            say(f"{out} is finished")
            # a kill may have come between myna.json and the last of these
            made = read_json(out / "myna.json")
            (write_pages if made["lineage"]["request"]["recipe"]["tune"].get("task", "language") == "language" else write_task_pages)(out)
            return Report.from_json(made["report"])
        recipe, given = saved
        machine.set_threads(recipe.tune.threads or machine.usable_cores())
        name = str(given["base"][0])
        match recipe.tune.task:  # imported here, so that each task loads only what it uses
            case "classify":
                from myna.roads.classify import tune_classifier

                return tune_classifier(name, given, out, recipe, clock)
            case "tag":
                from myna.roads.tag import tune_tagger

                return tune_tagger(name, given, out, recipe, clock)
            case "complete":
                from myna.roads.complete import tune_completer

                return tune_completer(name, given, out, recipe, clock)
            case "summarize":
                from myna.roads.summarize import tune_summarizer

                return tune_summarizer(name, given, out, recipe, clock)
            case "translate":
                from myna.roads.translate import tune_translator

                return tune_translator(name, given, out, recipe, clock)
            case "answer":
                from myna.roads.answer import tune_answerer

                return tune_answerer(name, given, out, recipe, clock)
            case "language":
                from myna.roads.language import tune_language

                return tune_language(name, given, out, recipe, clock)
