"""`myna evaluate DIR FILE...`: how well a model predicts a text, beside its n-gram baseline on the same bytes.

    myna evaluate my-model unseen.txt
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from myna.cli.main import Parser, add_member, add_options, add_precision, existing, read_options
from myna.console import say
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.models.precision import Measured, keep_measured


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna evaluate`."""
    parser.add_argument("model", metavar="DIR", help="a model directory")
    parser.add_argument("files", metavar="FILE", nargs="+", help="text to measure on, cleaned as `myna clean` does")
    add_member(parser)
    add_precision(parser)
    parser.add_argument("--keep", action="store_true",
                        help="with --precision: keep the score and the one in float32 in the directory, where `myna show` finds them")
    add_options(parser, EvaluateOptions)


def run(args: argparse.Namespace) -> int:
    """Measure and print bits per byte, bits per character and perplexity, model beside baseline, and float32 beside what is less."""
    inputs = [existing(path) for path in args.files]
    options = read_options(args, EvaluateOptions)
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
