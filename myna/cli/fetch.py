"""`myna fetch NAME [--out DIR]` and `myna fetch --list`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.console import human
from myna.errors import UserError

if TYPE_CHECKING:
    from myna.cli.main import Parser
    from myna.fetch import Source


def add_arguments(parser: Parser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to fetch: a name that --list shows")
    parser.add_argument("--out", metavar="DIR", help="a new folder for it (default: Myna's folder in the user's data directory)")
    parser.add_argument("--list", action="store_true", help="show every name, its size, licence and source")


def run(args: argparse.Namespace) -> int:
    """Fetch a text, or list them."""
    from myna.fetch import CATALOG, fetch

    if args.list:
        print(json.dumps({"sources": [_row(source) for source in CATALOG.values()]}, ensure_ascii=False)) if args.json else _print_table()
        return 0
    if not args.name:
        raise UserError("no name was given", "one of " + ", ".join(CATALOG), "see myna fetch --list")
    folder = fetch(args.name, Path(args.out) if args.out else None)
    files = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in files)
    source = CATALOG[args.name]
    if args.json:
        print(json.dumps({**_row(source), "path": str(folder), "files": len(files), "bytes": size}, ensure_ascii=False))
    else:
        print(f"{folder}: {len(files)} files, {human(size)}B, {source.language}, licence {source.licence}")
        if source.kind == "text":
            print(f"next: myna build {folder} --minutes 3 --out {source.name}-model")
    return 0


def _row(source: Source) -> dict[str, Any]:
    return {key: value for key, value in asdict(source).items() if key != "read"}


def _print_table() -> None:
    """Print a few lines for each text, in 80 columns."""
    import textwrap

    from myna.fetch import CATALOG

    print(f"{'name':<16}{'what':<54}{'download':>10}")
    for source in CATALOG.values():
        size = f"{human(source.size)}B" if source.size else "none"
        where = f"{source.index}: {source.package} {source.version}" if source.index else "this Python"
        print(f"{source.name:<16}{source.what:<54}{size:>10}")
        about = textwrap.wrap(f"{source.language} · {source.licence} · {where}", 64, break_on_hyphens=False)
        print("\n".join(" " * 16 + line for line in about))
    print("\nThe file SOURCE beside each text says more: caveats, and how it was made.")
