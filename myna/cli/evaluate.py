"""`myna evaluate DIR FILE...`: how well a model predicts a text, beside its n-gram baseline on the same bytes.

    myna evaluate my-model unseen.txt
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from myna.cli.main import Parser, add_member, add_options, existing, read_options
from myna.evaluate.options import EvaluateOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna evaluate`."""
    parser.add_argument("model", metavar="DIR", help="a model directory")
    parser.add_argument("files", metavar="FILE", nargs="+", help="text to measure on, cleaned as `myna clean` does")
    add_member(parser)
    add_options(parser, EvaluateOptions)


def run(args: argparse.Namespace) -> int:
    """Measure and print bits per byte, bits per character and perplexity, model beside baseline."""
    inputs = [existing(path) for path in args.files]
    options = read_options(args, EvaluateOptions)

    from myna.api import load

    report = load(args.model, args.member).evaluate(inputs, **asdict(options))
    if args.json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        from rich.console import Console

        Console(width=80).print(report.table())
    return 0
