"""`myna similar DIR WORD`: the words nearest to a word, by word vectors or by the table of a neural model.

    myna similar my-vectors king --n 5
    myna similar my-vectors man --analogy king woman
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from myna.cli.main import Parser
from myna.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna similar`."""
    parser.add_argument("model", metavar="DIR", help="word vectors, or a neural model, whose table of tokens is then looked at")
    parser.add_argument("word", metavar="WORD", help="the word")
    parser.add_argument("--n", type=int, default=10, metavar="N", help="how many words to list (default 10)")
    parser.add_argument("--analogy", nargs=2, metavar=("B", "C"), help="list the words that are to C as B is to WORD")


def run(args: argparse.Namespace) -> int:
    """List the nearest words with the cosine, a line each, best first."""
    from myna.models.pretrained import read_config
    from myna.models.vectors import open_vectors

    folder = Path(args.model)
    read_config(folder)  # says what is wrong with a path that is no model directory
    if args.n < 1:
        raise UserError(f"--n is {args.n}", "1 or more")
    vectors = open_vectors(folder)
    found = vectors.analogy(args.word, args.analogy[0], args.analogy[1], args.n) if args.analogy else vectors.nearest(args.word, args.n)
    if args.json:
        listed = [{"word": word, "cosine": cosine} for word, cosine in found]
        print(json.dumps({"word": args.word, "analogy": args.analogy, "nearest": listed}, ensure_ascii=False))
        return 0
    for word, cosine in found:
        print(f"{cosine:7.3f}  {word}")
    return 0
