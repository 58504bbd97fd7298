"""`myna answer DIR QUESTION`: an answer from your documents with the sentence it stands in, or that they do not tell.

    myna answer my-reader "who built the tower?" --index my-index
    myna answer my-reader "who built the tower?" --documents my-documents/ --json
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from dataclasses import asdict
from typing import Any

from myna.cli.main import Parser, existing
from myna.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna answer`."""
    parser.add_argument("model", metavar="DIR", help="a reader, made by myna tune with --task answer")
    parser.add_argument("questions", metavar="QUESTION", nargs="*", help="questions; - reads one a line from standard input")
    parser.add_argument("--file", metavar="FILE", help="a text file with a question on each line")
    parser.add_argument("--index", metavar="DIR", help="an index of documents, made by myna index")
    parser.add_argument("--documents", metavar="PATH", action="append", default=[],
                        help="a file or folder, indexed for this once; may be given several times")
    parser.add_argument("--threshold", metavar="X", type=float, help="answer from this confidence on, instead of the reader's own")
    parser.add_argument("--generate", metavar="MODEL", help="a chat model (smollm2) that writes the answer from the passage quoted")


def run(args: argparse.Namespace) -> int:
    """Answer every question: the answer, the sentence, and where it stands."""
    questions = _gather(args)
    documents = [existing(path) for path in args.documents]

    from myna.api import load

    results = load(args.model).answer_all(questions, args.index, documents, args.threshold, args.generate)
    if args.json:
        print(json.dumps({"model": args.model, "results": [asdict(result) for result in results]}, ensure_ascii=False))
        return 0
    for number, result in enumerate(results):
        print("\n" * bool(number) + "\n".join(_show(result, len(results) > 1)))
    return 0


def _show(result: Any, several: bool) -> list[str]:
    lines = [f"? {result.question}"] if several else []
    lines.append(str(result))
    if result.unsupported:
        used = "generated; the passage" if result.how == "generated" else "what was generated is not used: the passage"
        lines.append(f"  {used} does not hold {', '.join(result.unsupported)}")
    elif result.how == "generated":
        lines.append("  generated from the passage quoted")
    if not result.quote:
        return [*lines, "  nothing in them is near"]
    quote = " ".join(result.quote.split())
    title = "" if result.answered else "nearest: "
    lines += textwrap.wrap(f"{title}“{quote}”", 76, initial_indent="  ", subsequent_indent="  ")
    return [*lines, f"  {result.place} (confidence {result.confidence:.2f}, answers are given from {result.threshold:.2f})"]


def _gather(args: argparse.Namespace) -> list[str]:
    """Take the questions from arguments, standard input and the file. Raises UserError when there is none."""
    questions: list[str] = []
    for question in args.questions:
        questions += [line.strip() for line in sys.stdin if line.strip()] if question == "-" else [question]
    if args.file:
        from myna.data.rows import read_rows

        questions += [line.strip() for row in read_rows(existing(args.file)) for line in str(row.value.get("text", "")).splitlines()
                      if line.strip()]
    if not questions:
        raise UserError("no question was given", "QUESTION, - for standard input, or --file FILE",
                        'myna answer DIR "who built the tower?" --index my-index')
    return questions
