"""`myna similar DIR WORD` or `DIR TEXT TEXT...`: the words or the texts that are nearest to the first, best first.

Words by word vectors, or by the table of a neural model; texts by an encoder, as `myna embed` embeds them.

    myna similar my-vectors king --n 5
    myna similar my-vectors man --analogy king woman
    myna similar minilm "How do I reset my password?" "I forgot my login" "The weather is fine"
    myna similar minilm "How do I reset my password?" --file questions.txt
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from myna.cli.embed import add_file, read_texts, shorten
from myna.cli.main import Parser
from myna.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna similar`."""
    parser.add_argument("model", metavar="DIR", help="word vectors, or a neural model's table of tokens; for texts an encoder")
    parser.add_argument("word", metavar="WORD", help="the word, or the text that others are compared with")
    parser.add_argument("candidates", metavar="TEXT", nargs="*", help="texts to order by nearness; - reads lines of standard input")
    add_file(parser)
    parser.add_argument("--n", type=int, default=10, metavar="N", help="how many to list (default 10)")
    parser.add_argument("--analogy", nargs=2, metavar=("B", "C"), help="list the words that are to C as B is to WORD")


def run(args: argparse.Namespace) -> int:
    """List the nearest with the cosine, a line each, best first."""
    from myna.models.fetched import resolve_model
    from myna.models.pretrained import read_config

    folder = resolve_model(args.model)
    read_config(folder)  # says what is wrong with a path that is no model directory
    if args.n < 1:
        raise UserError(f"--n is {args.n}", "1 or more")
    texts = bool(args.candidates) or args.file is not None
    if texts and args.analogy:
        raise UserError("--analogy and texts", "either", "leave out one of them")
    if texts:
        value, found = _rank_texts(folder, args)
    else:
        value, found = _rank_words(folder, args)
    if args.json:
        print(json.dumps(value, ensure_ascii=False))
        return 0
    for text, cosine in found:
        print(f"{cosine:7.3f}  {text}")
    return 0


def _rank_words(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    from myna.models.vectors import open_vectors

    vectors = open_vectors(folder)
    found = vectors.analogy(args.word, args.analogy[0], args.analogy[1], args.n) if args.analogy else vectors.nearest(args.word, args.n)
    listed = [{"word": word, "cosine": cosine} for word, cosine in found]
    return {"word": args.word, "analogy": args.analogy, "nearest": listed}, found


def _rank_texts(folder: Path, args: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, float]]]:
    from myna.models.pooling import read_pooling
    from myna.models.pretrained import load_model
    from myna.tasks.embed import embed_texts, rank_texts
    from myna.tokenizer.tokenizer import Tokenizer

    texts = read_texts(args.candidates, args.file)
    model, pooling = load_model(folder), read_pooling(folder)
    vectors = embed_texts(model, Tokenizer.open(folder), pooling, [args.word, *texts])
    found = rank_texts(vectors[0], vectors[1:])[: args.n]
    listed = [{"text": texts[number], "number": number, "cosine": cosine} for number, cosine in found]
    value = {"text": args.word, "pooling": pooling.mode, "candidates": len(texts), "nearest": listed}
    return value, [(shorten(texts[number]), cosine) for number, cosine in found]
