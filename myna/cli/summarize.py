"""`myna summarize DIR TEXT...`: summaries of texts and files of any length.

    myna summarize my-summarizer long.txt
    myna summarize textrank long.txt --sentences 5
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from myna.cli.main import Parser, add_precision
from myna.errors import UserError

_LONGEST_NAME = 255  # bytes: more is a text, not the name of a file


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna summarize`."""
    parser.add_argument("model", metavar="DIR", help="what tune --task summarize made; or textrank or lead, which need no model: "
                                                     "the most central or the first sentences of the text")
    parser.add_argument("texts", metavar="TEXT|FILE", nargs="+",
                        help="a text, or a file: one text, or rows (JSONL, CSV, ...) with a column of texts; - reads standard input")
    parser.add_argument("--text", metavar="COLUMN", default="", help="the column of a file's rows, where its name is not a usual one")
    parser.add_argument("--sentences", metavar="N", type=int, help="textrank, lead: how many (default 3, or as the directory says)")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="a decoder: write at most so many (default as the directory says)")
    parser.add_argument("--num-beams", metavar="N", type=int, default=1, help="a decoder: search with so many beams (default 1: greedy)")
    parser.add_argument("--beginning", action="store_true",
                        help="a decoder: read only the beginning of a long text, as much as was learned from; best for news")
    add_precision(parser)


def run(args: Namespace) -> int:
    """Summarize each text and print its summary; with --json how it was made too."""
    texts = [text for given in args.texts for text in _gather(given, args.text)]
    from myna.tasks.extract import METHODS

    if args.model in METHODS and not Path(args.model).exists():
        from myna.tasks.summarize import SENTENCES, Extractor

        if args.max_tokens is not None or args.num_beams != 1 or args.beginning or args.precision != "float32":
            raise UserError(f"{args.model} with a decoder's options", "--sentences N", "leave the others out")
        extractor = Extractor(args.model, SENTENCES if args.sentences is None else args.sentences)
        summaries = [extractor.summarize(text) for text in texts]
    else:
        from myna.api import load

        model = load(args.model, precision=args.precision)
        summaries = [model.summarize(text, max_tokens=args.max_tokens, num_beams=args.num_beams, beginning=args.beginning,
                                     sentences=args.sentences) for text in texts]
    if args.json:
        print(json.dumps({"model": args.model, "summaries": [asdict(summary) for summary in summaries]}, ensure_ascii=False))
        return 0
    for summary in summaries:
        print(summary.text)
    if cut := sum(not summary.stopped for summary in summaries):
        print(f"{cut} of {len(summaries)} summaries were cut at the most tokens that are written (--max-tokens)", file=sys.stderr)
    return 0


def _gather(given: str, column: str) -> list[str]:
    """Take a text as it is, standard input as one, a file's, or those of its rows. Raises UserError."""
    from myna.data.rows import format_of

    if given == "-":
        return [sys.stdin.read()]
    path = Path(given)
    short = len(given.encode("utf-8", "replace")) <= _LONGEST_NAME and "\n" not in given
    if short and path.is_file():
        return _read(path, column)
    if short and (path.is_dir() or (format_of(path) and len(given.split()) == 1)):
        raise UserError(f"{given} is a folder" if path.is_dir() else f"no such file: {given}", "a text, or a file of text or rows",
                        "check the path")
    return [given]


def _read(path: Path, column: str) -> list[str]:
    """Read the one text of a text file, or the texts of rows; empty ones are counted and left out."""
    from myna.console import say
    from myna.data.rows import format_of, read_rows
    from myna.tasks.summarize import SUMMARIZE

    if not (kind := format_of(path)):
        raise UserError(f"{path} is no text and no rows", "a .txt or .md file, JSONL, JSON, CSV, TSV or Parquet", "convert it")
    texts: list[str] = []
    empty = 0
    for row in read_rows(path):
        names = {str(name).strip().lower(): name for name in row.value}
        chosen = column or next((names[name] for name in SUMMARIZE.sources if name in names), "")
        value = row.value.get(chosen)
        if row.problem or (not isinstance(value, str) and value is not None) or chosen not in row.value:
            raise UserError(f"{path}:{row.line}: {row.problem or 'no column of texts among ' + ', '.join(names)[:200]}",
                            "a row with a text", "name the column: --text COLUMN")
        empty += not (value or "").strip()
        texts.append(value or "")
    if kind == "text":
        return texts
    if empty:
        say(f"{empty:,} empty texts of {path} are left out")
    return [text for text in texts if text.strip()]
