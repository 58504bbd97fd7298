"""`myna tag DIR TEXT...`: words of texts with their labels, names among them, or the words alone.

    myna tag my-tagger "我去咗香港"
    myna tag my-tagger --file texts.txt --json
    myna tag my-tagger --words given "我 去 咗 香港"
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict

from myna.cli.main import Parser, existing
from myna.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna tag`."""
    parser.add_argument("model", metavar="DIR", help="a tagger's directory")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts to label; - reads a text a line from standard input")
    parser.add_argument("--file", metavar="FILE", help="a text file with a text on each line")
    parser.add_argument("--words", metavar="HOW", default="",
                        help="given: the words are those between the spaces; or the directory of a tagger that finds words "
                             "(default: the model's own way, which docs/tasks/tag.md tells)")
    parser.add_argument("--lines", action="store_true", help="a line for each word, with its label and probability after tabs")


def run(args: Namespace) -> int:
    """Label texts and print a line each, word/label; with --json places and probabilities too."""
    texts = _gather(args)

    from myna.api import load

    model = load(args.model)
    given: Sequence[str | list[str]] = [text.split() for text in texts] if args.words == "given" else texts
    results = model.tag(given, words=None if args.words in ("", "given") else existing(args.words))
    if args.json:
        print(json.dumps({"model": args.model, "results": [asdict(result) for result in results]}, ensure_ascii=False))
        return 0
    for result in results:
        if args.lines:
            print("".join(f"{word.text}\t{word.tag}\t{word.probability:.3f}\n" for word in result.words))
            continue
        print(result)
        for entity in result.entities:
            print(f"  {entity.kind}: {entity.text} ({entity.start}-{entity.end}, {entity.probability:.3f})")
    return 0


def _gather(args: Namespace) -> list[str]:
    """Take the texts from arguments, standard input and the file. Raises UserError when there is none."""
    texts: list[str] = []
    for text in args.texts:
        texts += [line.rstrip("\n") for line in sys.stdin if line.strip()] if text == "-" else [text]
    if args.file:
        from myna.data.rows import format_of, read_rows

        path = existing(args.file)
        if format_of(path) not in ("text", ""):
            raise UserError(f"{path} holds rows", "a text file with a text on each line", "write the texts as lines")
        texts += [line for row in read_rows(path) for line in str(row.value.get("text", "")).splitlines() if line.strip()]
    if not texts:
        raise UserError("no text was given", "TEXT, - for standard input, or --file FILE", 'myna tag DIR "a text"')
    return texts
