"""`myna fill DIR TEXT`: what stands where a text has a blank, by a model that sees both sides of it.

    myna fill my-model "The [MASK] of Denmark"
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from myna.cli.generate import read_prompt
from myna.cli.main import Parser, add_options, read_options
from myna.generate.options import FillOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna fill`."""
    parser.add_argument("model", metavar="DIR", help="model directory of an encoder, or the name of a fetched one")
    parser.add_argument("text", metavar="TEXT", help="text with blanks: [MASK], <mask>, <|mask|> or ___; - reads standard input")
    add_options(parser, FillOptions)


def run(args: argparse.Namespace) -> int:
    """Fill: a line per filling on standard output, the likeliest first."""
    options = read_options(args, FillOptions)

    text = read_prompt(args.text)

    from myna.api import load

    fillings = load(args.model).fill(text, **asdict(options))
    if args.json:
        print(json.dumps({"text": text, "options": asdict(options), "fillings": [asdict(filling) for filling in fillings]},
                         ensure_ascii=False, allow_nan=False))
        return 0
    for filling in fillings:
        count = sum(filling.pieces) - len(filling.pieces)
        note = f"   (mean of {sum(filling.pieces)} pieces)" if count else ""
        print(f"{filling.probability:7.1%}  {filling.text}{note}")
    return 0
