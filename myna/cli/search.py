"""`myna search DIR QUERY...`: the passages of an index that a question is about, each with its file.

    myna search my-index "who built the tower?" --k 3
    myna search my-index --file questions.txt --json
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from myna.cli.index import read_search_recipe
from myna.cli.main import Parser, add_options, existing, read_options
from myna.console import printable
from myna.errors import UserError
from myna.retrieval.options import SearchOptions

if TYPE_CHECKING:
    from myna.retrieval.index import Hit

_COLUMNS = 76  # beside an indent of 3, in a terminal of 80


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna search`."""
    parser.add_argument("index", metavar="DIR", help="a directory made by myna index")
    parser.add_argument("queries", metavar="QUERY", nargs="*", help="a question, or words, in quotes; - reads standard input, one a line")
    parser.add_argument("--file", metavar="FILE", help="a text file with a question on each line")
    add_options(parser, SearchOptions)
    parser.add_argument("--recipe", metavar="FILE", help="the recipe of myna index, which has these options under [search]; flags win")


def run(args: argparse.Namespace) -> int:
    """Search for every query: the best passage first."""
    options = read_options(args, SearchOptions, recipe={"": read_search_recipe(args.recipe).get("search", {})})
    queries = _gather(args)

    from myna.tasks.search import open_index

    index, embed = open_index(Path(args.index), vectors=options.mode != "lexical")
    found = [index.search(query, options, embed) for query in queries]
    if args.json:
        results = [{"query": query, "hits": [asdict(hit) for hit in hits]} for query, hits in zip(queries, found, strict=True)]
        print(json.dumps({"index": args.index, "results": results}, ensure_ascii=False))
        return 0
    for query, hits in zip(queries, found, strict=True):
        if len(queries) > 1:
            print(f"== {printable(query)}")
        _print_hits(hits)
    return 0


def _gather(args: argparse.Namespace) -> list[str]:
    """Take the queries from arguments, standard input and the file. Raises UserError when there is none."""
    queries: list[str] = []
    for query in args.queries:
        queries += [line.rstrip("\r\n") for line in sys.stdin if line.strip()] if query == "-" else [query]
    if args.file:
        from myna.data.rows import format_of, read_rows

        path = existing(args.file)
        if format_of(path) != "text":
            raise UserError(f"{args.file} is no text file by its name", "a .txt with a question on each line",
                            "myna evaluate DIR FILE --task search takes rows")
        queries += [line for row in read_rows(path) for line in str(row.value.get("text", "")).splitlines() if line.strip()]
    if not queries:
        raise UserError("no question was given", "QUERY, - for standard input, or --file FILE", 'myna search DIR "a question"')
    return queries


def _print_hits(hits: list[Hit]) -> None:
    if not hits:
        print("nothing was found")
    for number, hit in enumerate(hits, 1):
        print(printable(f"{number}. {hit.file} (byte {hit.offset:,}; {hit.score:.3f})"))
        print("\n".join("   " + line for line in _wrap(printable(" ".join(hit.text.split())))))


def _wrap(text: str) -> list[str]:
    """Divide a text into lines of 76 columns, of which a Chinese character takes two."""
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=_COLUMNS), _COLUMNS)]
