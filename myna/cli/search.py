"""`myna search DIR QUERY`: the passages of an index that a question is about, each with its file.

    myna search my-index "who built the tower?" --k 3
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from myna.cli.index import read_search_recipe
from myna.cli.main import Parser, add_options, read_options
from myna.console import printable
from myna.retrieval.options import SearchOptions

_COLUMNS = 76  # beside an indent of 3, in a terminal of 80


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna search`."""
    parser.add_argument("index", metavar="DIR", help="a directory made by myna index")
    parser.add_argument("query", metavar="QUERY", help="a question, or words")
    add_options(parser, SearchOptions)
    parser.add_argument("--recipe", metavar="FILE", help="the recipe of myna index, which has these options under [search]; flags win")


def run(args: argparse.Namespace) -> int:
    """Search: the best passage first."""
    options = read_options(args, SearchOptions, recipe={"": read_search_recipe(args.recipe).get("search", {})})

    from myna.tasks.search import open_index

    index, embed = open_index(Path(args.index), vectors=options.mode != "lexical")
    hits = index.search(args.query, options, embed)
    if args.json:
        print(json.dumps({"query": args.query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False))
        return 0
    if not hits:
        print("nothing was found")
    for number, hit in enumerate(hits, 1):
        print(printable(f"{number}. {hit.file} (byte {hit.offset:,}; {hit.score:.3f})"))
        print("\n".join("   " + line for line in _wrap(printable(" ".join(hit.text.split())))))
    return 0


def _wrap(text: str) -> list[str]:
    """Divide a text into lines of 76 columns, of which a Chinese character takes two."""
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=_COLUMNS), _COLUMNS)]
