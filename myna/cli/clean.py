"""`myna clean`: read and clean text into a corpus directory, and show what was kept, dropped and why.

    myna clean my-texts/ --out corpus
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from myna.cli.main import Parser, add_options, existing, read_options
from myna.corpus.options import CleanOptions, SplitOptions

_PROBLEMS = 20  # files named in the table; the report has them all


def add_arguments(parser: Parser) -> None:
    """Declare the flags."""
    parser.add_argument("input", nargs="+", help="files and folders of text")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the corpus directory to make")
    parser.add_argument("--valid", action="append", default=[], type=existing, metavar="FILE", help="text for validation, not a share")
    parser.add_argument("--test", action="append", default=[], type=existing, metavar="FILE", help="text for test, not a share")
    add_options(parser, CleanOptions)
    add_options(parser, SplitOptions, "split")


def run(args: argparse.Namespace) -> int:
    """Clean, split, and print the report."""
    from myna.corpus.clean import prepare_corpus

    corpus = prepare_corpus([existing(path) for path in args.input], args.out, read_options(args, CleanOptions),
                            read_options(args, SplitOptions, "split"), args.valid, args.test, require_split=False)
    path = args.out / "split.json"
    value = {"out": str(args.out), **corpus.report, "split": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None}
    if args.json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        _show(value)
    return 0


def _show(value: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    totals = value["totals"]
    table = Table(title=f"{totals['files']:,} files, {totals['documents']:,} documents", box=None, title_justify="left")
    for name, side in (("", "left"), ("bytes", "right"), ("share", "right"), ("documents", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    lost = totals["dropped_documents"]
    rows = [("read", totals["bytes"], totals["documents"] + sum(lost.values())), ("kept", totals["kept"], totals["documents"])]
    rows += [(f"dropped: {reason}", size, lost.get(reason, 0)) for reason, size in totals["dropped"].items()]
    for name, size, documents in rows:
        table.add_row(escape(name), f"{size:,}", f"{size / max(1, totals['bytes']):.1%}", f"{documents:,}" if documents else "")
    console.print(table)
    for kind, count in totals["rewritten"].items():
        console.print(f"rewritten: {kind}, {count:,} characters")
    problems = [file for file in value["files"] if file["status"] != "ok"]
    for file in problems[:_PROBLEMS]:
        name = file["path"].encode("unicode_escape").decode("ascii") if not file["path"].isprintable() else file["path"]
        console.print(f"{file['status']}: {escape(name)}: {escape(file['reason'])}", style="yellow", soft_wrap=True)
    if len(problems) > _PROBLEMS:
        console.print(f"and {len(problems) - _PROBLEMS} more in {escape(value['out'])}/report.json")
    for file in value["files"]:
        if file["status"] != "rejected" and file.get("column"):
            console.print(f"text of {escape(file['path'])}: {escape(file['column'])}", soft_wrap=True)
            break
    if value["split"]:
        console.print("split: " + ", ".join(f"{name} {value['split'][name]['bytes']:,} B" for name in ("train", "valid", "test")))
        for line in value["split"]["said"]:
            console.print(escape(line), soft_wrap=True)
    console.print(f"corpus: {escape(value['out'])}", soft_wrap=True)
