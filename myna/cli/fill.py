"""`myna fill DIR TEXT`: what stands where a text has a blank, by a model that sees both sides of it.

    myna fill my-model "The [MASK] of Denmark"
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from myna.cli.generate import read_prompt
from myna.cli.main import Parser, add_options, read_options
from myna.errors import UserError
from myna.generate.options import FillOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna fill`."""
    parser.add_argument("model", metavar="DIR", help="model directory of an encoder, or the name of a fetched one")
    parser.add_argument("text", metavar="TEXT", help="text with blanks: [MASK], <mask>, <|mask|> or ___; - reads standard input")
    add_options(parser, FillOptions)


def run(args: argparse.Namespace) -> int:
    """Fill: a line per filling on standard output, the likeliest first."""
    options = read_options(args, FillOptions)

    from myna.generate.fill import fill_text
    from myna.models.fetched import resolve_model
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import Tokenizer

    folder = resolve_model(args.model)
    model = load_model(folder)
    if not hasattr(model, "masked_log_probs"):
        raise UserError(f"{folder} is a model that reads from left to right", "an encoder, which sees both sides of a blank",
                        "make one with myna build --family encoder, or continue a text with myna generate")
    text = read_prompt(args.text)
    fillings = fill_text(model, Tokenizer.open(folder), text, options)
    if args.json:
        print(json.dumps({"text": text, "options": asdict(options), "fillings": [asdict(filling) for filling in fillings]},
                         ensure_ascii=False, allow_nan=False))
        return 0
    for filling in fillings:
        count = sum(filling.pieces) - len(filling.pieces)
        note = f"   (mean of {sum(filling.pieces)} pieces)" if count else ""
        print(f"{filling.probability:7.1%}  {filling.text}{note}")
    return 0
