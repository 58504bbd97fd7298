"""`myna evaluate DIR FILE...`: how well a model predicts a text, beside its n-gram baseline on the same bytes.

    myna evaluate my-model unseen.txt
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from myna.cli.main import Parser, add_member, add_options, add_precision, existing, read_options
from myna.console import say
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.models.precision import Measured, keep_measured
from myna.tasks.options import TranscribeOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna evaluate`."""
    parser.add_argument("model", metavar="DIR", help="a model directory")
    parser.add_argument("files", metavar="FILE", nargs="+", help="text to measure on, cleaned as `myna clean` does")
    add_member(parser)
    add_precision(parser)
    parser.add_argument("--task", metavar="NAME", default="language",
                        choices=("language", "classify", "tag", "search", "transcribe", "generate", "fill", "complete", "chat",
                                 "summarize", "translate", "answer"),
                        help="language (default), classify (labelled texts), tag (labelled words), search (DIR an index, FILE rows of "
                             "questions), transcribe (FILE recordings with their texts), generate (how varied is what it writes), "
                             "fill (hidden words, by an encoder), complete (functions with their bodies), "
                             "chat (conversations), translate (pairs), summarize (texts with summaries), answer (questions with "
                             "their passages)")
    parser.add_argument("--skip-bad", action="store_true", help="of tasks with rows: pass over those that cannot be read, and count them")
    parser.add_argument("--multi-label", action="store_true", help="--task classify: a cell may hold several labels")
    parser.add_argument("--text", metavar="COLUMN", default="", help="the column of texts (--task search: of questions), if oddly named")
    parser.add_argument("--label", metavar="COLUMN", default="", help="the column of labels (--task search: of what is relevant)")
    parser.add_argument("--mode", choices=("auto", "lexical", "dense", "hybrid"), default="auto",
                        help="--task search: by words, by vectors, or both; auto is both where the index has vectors")
    parser.add_argument("--num-beams", metavar="N", dest="speech.num_beams", default=argparse.SUPPRESS,
                        help="--task transcribe: search with so many beams, beside greedy decoding (default 1)")
    parser.add_argument("--language", metavar="NAME", dest="speech.language", default=argparse.SUPPRESS,
                        help="--task transcribe: what is spoken, as en or zh")
    parser.add_argument("--keep", action="store_true",
                        help="with --precision: keep the score and the one in float32 in the directory, where `myna show` finds them")
    add_options(parser, EvaluateOptions)


def run(args: argparse.Namespace) -> int:
    """Measure and print bits per byte, bits per character and perplexity, model beside baseline, and float32 beside what is less."""
    inputs = [existing(path) for path in args.files]
    options = read_options(args, EvaluateOptions)
    if args.task != "language":
        return _task(args, inputs, options)
    if args.keep and (args.precision == "float32" or args.member is not None):
        wrong = "without --precision" if args.precision == "float32" else "with --member"
        raise UserError(f"--keep {wrong}", "a score of the whole directory in another precision than float32", "add --precision int8")

    from myna.api import load

    model = load(args.model, args.member, args.precision)
    report = model.evaluate(inputs, **asdict(options))
    value, line = report.to_json(), ""
    if args.precision != "float32":
        say("and in float32, to compare")
        full = load(args.model, args.member).evaluate(inputs, **asdict(options))
        metric, score = next(iter(report.metrics.items()))
        measured = Measured(metric, score.value, full.metrics[metric].value, [path.name for path in inputs])
        value["precision"], line = {args.precision: measured._asdict()}, measured.say(args.precision)
        if args.keep:
            keep_measured(model.folder, args.precision, measured)
    if args.json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        from rich.console import Console

        Console(width=80).print(report.table())
        if line:
            print(line)
    return 0


def _task(args: argparse.Namespace, inputs: list[Path], options: EvaluateOptions) -> int:
    """Measure what a model was made for: scores beside the baseline's, and what lies behind them."""
    from myna.data.options import RowsOptions
    from myna.models.fetched import resolve_model
    from myna.recipe import TuneRecipe
    from myna.roads.evaluate import evaluate_task

    if (args.precision != "float32" or args.member is not None) and args.task != "generate":
        wrong = "--precision" if args.member is None else "--member"
        raise UserError(f"{wrong} with --task {args.task}", "--task language or generate", "leave it out")
    rows = RowsOptions(text=args.text, label=args.label, skip_bad=args.skip_bad, multi_label=args.multi_label)
    recipe, folder = TuneRecipe(rows=rows, evaluate=options), existing(str(resolve_model(args.model)))
    speaking = read_options(args, TranscribeOptions, "speech")
    measured = evaluate_task(args.task, folder, inputs, recipe, args.mode, speaking, args.member, args.precision)
    if args.json:
        print(json.dumps(measured.to_json(), ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console(width=80)
    console.print(measured.report.table())
    for line in measured.lines:
        console.print(line, markup=False, highlight=False)
    return 0
