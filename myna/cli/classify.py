"""`myna classify DIR TEXT...`: labels of texts, with their probabilities.

    myna classify my-classifier "a fine book" "a bad one"
    myna classify my-classifier --file texts.txt --json
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import asdict

from myna.cli.main import Parser, existing
from myna.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna classify`."""
    parser.add_argument("model", metavar="DIR", help="a classifier's directory")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts to label; - reads a text a line from standard input")
    parser.add_argument("--file", metavar="FILE", help="a text file with a text on each line, or rows with a column of text")
    parser.add_argument("--text", "--rows.text", metavar="COLUMN", default="",
                        help="the column of the file's rows, where its name is not a usual one")
    parser.add_argument("--threshold", metavar="X", type=float, help="several labels: give those of at least this probability")


def run(args: Namespace) -> int:
    """Label texts and print a line each: label, probability, text; with --json all probabilities."""
    texts = _gather(args)

    from myna.api import load

    results = load(args.model).classify(texts, threshold=args.threshold)
    if args.json:
        print(json.dumps({"model": args.model, "results": [asdict(result) for result in results]}, ensure_ascii=False))
        return 0
    for result in results:
        chances = ", ".join(f"{label} {result.probabilities[label]:.3f}" for label in result.labels)
        print(f"{chances or '(none)'}\t{' '.join(result.text.split())[:60]}")
    return 0


def _gather(args: Namespace) -> list[str]:
    """Take the texts from arguments, standard input and the file. Raises UserError when there is none."""
    texts: list[str] = []
    for text in args.texts:
        texts += [line.rstrip("\n") for line in sys.stdin if line.strip()] if text == "-" else [text]
    if args.file:
        texts += _read(args.file, args.text)
    if not texts:
        raise UserError("no text was given", "TEXT, - for standard input, or --file FILE", 'myna classify DIR "a text"')
    return texts


def _read(name: str, column: str) -> list[str]:
    from myna.data.labelled import find_columns
    from myna.data.options import RowsOptions
    from myna.data.rows import format_of, read_rows

    path = existing(name)
    if format_of(path) in ("text", ""):
        return [line for row in read_rows(path) for line in str(row.value.get("text", "")).splitlines() if line.strip()]
    texts = []
    for row in read_rows(path):
        where = f"{name}:{row.line}"
        if row.problem:
            raise UserError(f"{where}: {row.problem}", "a row with a text", "mend the row")
        columns, _ = find_columns(row.value, RowsOptions(text=column), where, label=False)
        parts = [row.value[one] for one in columns]
        if not all(isinstance(part, str) for part in parts):
            raise UserError(f"{where}: its text is no text", "a row with a text", "mend the row")
        texts.append("\n".join(part.strip() for part in parts))
    return texts
