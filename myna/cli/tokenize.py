"""`myna tokenize CORPUS --out DIR`: make a tokenizer from a cleaned corpus and turn the corpus into ids.

    myna clean my-texts/ --out corpus && myna tokenize corpus --out tokens
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from myna.cli.main import Parser, add_options, existing, read_options
from myna.tokenizer.options import TokenizerOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna tokenize`."""
    parser.add_argument("corpus", metavar="CORPUS", help="a directory made by `myna clean`")
    parser.add_argument("--out", metavar="DIR", required=True, help="the directory to make")
    parser.add_argument("--tokenizer", metavar="DIR", help="use the tokenizer of this directory instead of training one")
    add_options(parser, TokenizerOptions)


def run(args: argparse.Namespace) -> int:
    """Tokenize and print the report."""
    from myna.corpus.store import Corpus
    from myna.data.shards import prepare_tokens
    from myna.errors import UserError
    from myna.files import read_json
    from myna.tokenizer.tokenizer import Tokenizer

    options = read_options(args, TokenizerOptions)
    if args.tokenizer and options != TokenizerOptions():
        raise UserError("--tokenizer with options for training one", "one or the other", "leave out --tokenizer or the options")
    given = Tokenizer.open(existing(args.tokenizer)) if args.tokenizer else None
    _, folder = prepare_tokens(Corpus.open(existing(args.corpus)), Path(args.out), options, given)
    report = read_json(folder / "report.json")
    if args.json:
        print(json.dumps({"out": str(folder), **report}, ensure_ascii=False))
    else:
        print("\n".join(table(report)))
    return 0


def table(report: dict[str, Any]) -> list[str]:
    """Lay the report of the tokenizer stage out in lines of at most 80 columns."""
    lines = [f"vocabulary {report['vocab_size']:,} tokens, {report['special_tokens']} of them special;"
             f" pre-tokenizer {report['pre_tokenizer']}", ""]
    lines.append(f"{'split':<18}{'documents':>12}{'tokens':>16}{'bytes':>18}{'bytes/token':>14}")
    lines += [_row(name, part, f"{part['documents']:>12,}") for name, part in report["parts"].items()]
    lines += ["", f"{'script':<30}{'tokens':>16}{'bytes':>18}{'bytes/token':>14}"]
    lines += [_row(name, row, " " * 12) for name, row in report["scripts"].items()]
    return [*lines, _row("all", report, " " * 12)]


def _row(name: str, row: dict[str, Any], documents: str) -> str:
    rate = f"{row['bytes_per_token']:.2f}" if row["bytes_per_token"] else "-"
    return f"{name:<18}{documents}{row['tokens']:>16,}{row['bytes']:>18,}{rate:>14}"
