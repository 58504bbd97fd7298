"""`myna compare INPUT... --families A,B,C --out DIR`: every family on the same text in the same time, one table.

    myna compare my-texts/ --families ngram,lstm,decoder --minutes 2 --out compared
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from myna.cli.build import add_road_arguments, read_road
from myna.cli.main import Parser, existing
from myna.errors import UserError

_FAMILIES = "ngram,hmm,rnn,lstm,gru,decoder,mixture"


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna compare`."""
    parser.add_argument("--families", metavar="A,B,...", default=_FAMILIES,
                        help=f"what to compare; mixture is the weighted sum of all others (default {_FAMILIES})")
    add_road_arguments(parser, family=False)
    parser.add_argument("--out", metavar="DIR", required=True, help="the directory to make: a model directory for each family inside it")
    parser.add_argument("--resume", action="store_true", help="go on with what DIR holds; what is finished is not built again")


def run(args: argparse.Namespace) -> int:
    """Compare, then print the table and what follows from it."""
    recipe = read_road(args)
    inputs, valid, test = ([existing(path) for path in paths] for paths in (args.inputs, args.valid, args.test))
    if not inputs:
        raise UserError("no input was given", "files or folders of text", "myna compare my-texts/ --minutes 2 --out compared")

    from myna.compare import compare

    families = [name.strip() for name in args.families.split(",") if name.strip()]
    comparison = compare(inputs, Path(args.out), families, recipe, args.resume, valid, test)
    if args.json:
        print(json.dumps(comparison.to_json(), ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console(width=80)
    console.print(comparison.table())
    for sentence in comparison.sentences():
        console.print(sentence, markup=False, highlight=False)
    for row in comparison.rows:
        console.print(f"\n{row.family}: {' '.join(row.sample.split())[:200]}", markup=False, highlight=False)
    print(f"\nthe page: {Path(args.out) / 'compare.html'}")
    return 0
