"""`myna translate DIR TEXT...`: translations of texts, their lines kept.

    myna translate my-translator "Failed to connect to {host}"
    myna translate my-translator --file strings.txt --json
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import asdict

from myna.cli.main import Parser, add_options, existing, read_options
from myna.errors import UserError
from myna.tasks.options import TranslateOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna translate`."""
    parser.add_argument("model", metavar="DIR", help="a translator's directory")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts to translate; - reads standard input, a text on each line")
    parser.add_argument("--file", metavar="FILE", help="a text file with a text on each line; blank lines are kept")
    parser.add_argument("--why", action="store_true", help="show under each translation the example that lay beside its source")
    add_options(parser, TranslateOptions)


def run(args: Namespace) -> int:
    """Translate texts and print a translation for each; with --json scores and examples too."""
    options = read_options(args, TranslateOptions)
    texts = _gather(args)

    from myna.api import load

    results = load(args.model).translate(texts, **asdict(options))
    if args.json:
        print(json.dumps({"model": args.model, "results": [
            asdict(result) | {"nearest": result.nearest._asdict() if result.nearest else None} for result in results]}, ensure_ascii=False))
        return 0
    for result in results:
        print(result.text)
        if args.why and result.nearest is not None:
            near = result.nearest
            sides = (" ".join(side.split())[:60] for side in (near.source, near.target))
            print(f"    {near.similarity:.2f} {' -> '.join(sides)} ({result.origin})")
    return 0


def _gather(args: Namespace) -> list[str]:
    """Take the texts from arguments, standard input and the file. Raises UserError when there is none."""
    texts: list[str] = []
    for text in args.texts:
        texts += [line.rstrip("\r\n") for line in sys.stdin] if text == "-" else [text]
    if args.file:
        from myna.data.rows import format_of, read_rows

        path = existing(args.file)
        if format_of(path) not in ("text", ""):
            raise UserError(f"{args.file} holds rows", "a text file with a text on each line",
                            "to measure on pairs: myna evaluate DIR FILE --task translate")
        texts += [line for row in read_rows(path) for line in str(row.value.get("text", "")).splitlines()]
    if not any(text.strip() for text in texts):
        raise UserError("no text was given", "TEXT, - for standard input, or --file FILE", 'myna translate DIR "a text"')
    return texts
