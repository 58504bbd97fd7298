"""`myna index INPUT... --out DIR`: make an index of documents, or add to it; what did not change is left as it is.

    myna index my-documents/ --out my-index
    myna index my-documents/ --out my-vectors --encoder minilm
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from myna.cli.main import Parser, add_options, existing, read_options
from myna.config import read_recipe
from myna.errors import UserError
from myna.retrieval.options import IndexOptions, SearchOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna index`."""
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="files and folders of documents")
    parser.add_argument("--out", metavar="DIR", required=True, help="the index directory; one that is there grows")
    add_options(parser, IndexOptions)
    parser.add_argument("--recipe", metavar="FILE", help="TOML: these options, and those of myna search under [search]; flags win")
    parser.add_argument("--remove", metavar="PATH", action="append", default=[], help="take a file, or a folder's files, out again")
    parser.add_argument("--list", action="store_true", help="list the files of the index")


def run(args: argparse.Namespace) -> int:
    """Add the files that are new or changed, and say what was done."""
    options = read_options(args, IndexOptions, recipe=read_search_recipe(args.recipe))
    inputs = [existing(path) for path in args.inputs]

    from myna.retrieval.index import Index
    from myna.tasks.search import make_index, open_index

    folder = Path(args.out)
    if args.list or args.remove:
        index, _ = open_index(folder, vectors=False)
        removed = index.remove([Path(path) for path in args.remove]) if args.remove else 0
        if args.json:
            print(json.dumps({"index": str(folder), "files": sorted(index.files), "removed": removed}, ensure_ascii=False))
        else:
            print("\n".join(sorted(index.files)) if args.list else f"{folder}: {removed} files removed, {len(index.files):,} left")
        return 0
    if not inputs:
        raise UserError("no document was given", "files or folders of text", "myna index my-documents/ --out my-index")
    added = make_index(folder, inputs, options)
    index = Index.open(folder)
    if args.json:
        print(json.dumps({"index": str(folder), "files": added.files, "unchanged": added.unchanged, "replaced": added.replaced,
                          "documents": added.documents, "passages": added.passages, "rejected": dict(added.rejected),
                          "partial": added.partial, "missing": added.missing, "notes": dict(added.notes),
                          "total_files": len(index.files), "total_passages": int((~index.deleted).sum())}, ensure_ascii=False))
    else:
        print(f"{folder}: {added.said()}")
        print(f'next: myna search {folder} "..."')
    return 0


def read_search_recipe(path: str | None) -> dict[str, dict[str, Any]]:
    """Read a recipe of index and search: the options of an index at the top, those of a search under "search"; empty without a path."""
    return read_recipe(Path(path), {"search": SearchOptions}, IndexOptions) if path else {}
