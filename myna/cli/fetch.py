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
    """Fetch a text or a model, or list them."""
    from myna.fetch import CATALOG, fetch

    if args.list:
        print(json.dumps({"sources": [_row(source) for source in CATALOG.values()]}, ensure_ascii=False)) if args.json else _print_table()
        return 0
    if not args.name:
        raise UserError("no name was given", "one of " + ", ".join(CATALOG), "see myna fetch --list")
    out, source = Path(args.out) if args.out else None, CATALOG.get(args.name)
    if source and source.kind == "model":
        from myna.models.fetched import fetch_model

        folder = fetch_model(args.name, out)
    else:
        folder = fetch(args.name, out)
        source = CATALOG[args.name]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    size = sum(file.stat().st_size for file in files)
    if args.json:
        print(json.dumps({**_row(source), "path": str(folder), "files": len(files), "bytes": size}, ensure_ascii=False))
    else:
        print(f"{folder}: {len(files)} files, {human(size)}B, {source.language}, licence {source.licence}")
        if source.kind == "text":
            print(f"next: myna build {folder} --minutes 3 --out {source.name}-model")
        elif source.kind == "model":
            print(f"next: myna {source.use.replace('MODEL', str(folder) if out else source.name)}")
        elif source.use:
            print(f"next: myna {source.use.replace('PATH', str(folder))}")
    return 0


def _row(source: Source) -> dict[str, Any]:
    return {key: value for key, value in asdict(source).items() if key not in ("read", "use")}


def _print_table() -> None:
    """Print a few lines for each, in 80 columns."""
    import textwrap

    from myna.fetch import CATALOG

    print(f"{'name':<17}{'what':<53}{'download':>10}")
    for source in CATALOG.values():
        size = f"{human(source.size)}B" if source.size else "none"
        where = f"{source.index}: {source.package} {source.version}" if source.index else "this Python"
        print(f"{source.name:<17}{source.what:<53}{size:>10}")
        about = textwrap.wrap(f"{source.language} · {source.licence} · {where}", 64, break_on_hyphens=False)
        print("\n".join(" " * 16 + line for line in about))
    print("\nThe file SOURCE beside each says more: caveats, and how it was made.")
