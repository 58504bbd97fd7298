"""`myna complete DIR CODE`: the body of a Python function from its signature and docstring.

    myna complete my-completer "def double(x):"
    myna complete my-completer --file started.py --json
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from myna.cli.main import Parser, add_options, add_precision, existing, read_options
from myna.console import say
from myna.errors import UserError
from myna.tasks.options import CompleteOptions

_LARGEST = 1 << 20  # bytes of code: far more than a model sees


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna complete`."""
    parser.add_argument("model", metavar="DIR", help="a model directory, or the name of a fetched model")
    parser.add_argument("code", metavar="CODE", nargs="?", help="code that ends with a def line or its docstring; - is standard input")
    parser.add_argument("--file", metavar="FILE", help="the same from a file")
    add_options(parser, CompleteOptions)
    add_precision(parser)


def run(args: Namespace) -> int:
    """Write the body, alone; with --json the whole function and how it ended."""
    options = read_options(args, CompleteOptions)
    code = _gather(args)

    from myna.api import load
    from myna.tasks.complete import is_completer

    model = load(args.model, precision=args.precision)
    if not is_completer(model.folder):
        say(f"{model.folder} did not learn to write bodies of functions; myna tune {args.model} DATA --task complete --out DIR teaches it")
    written = model.complete(code, max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed)
    if args.json:
        print(json.dumps({"model": args.model, "code": str(written), "body": written.body, "finish_reason": written.finish_reason,
                          "tokens": written.tokens, "lines_left_out": written.left_out}, ensure_ascii=False))
        return 0
    print(written.body)
    if written.finish_reason == "length":
        say(f"(cut after {written.tokens:,} tokens, where the function had not ended; --max-tokens allows more)")
    return 0


def _gather(args: Namespace) -> str:
    """Take the code from the argument, standard input or the file. Raises UserError when there is not one of them, or it is no text."""
    if (args.code is None) == (args.file is None):
        raise UserError("no code" if args.code is None else "code twice", "CODE, - for standard input, or --file FILE",
                        'myna complete DIR "def double(x):"')
    if args.code not in (None, "-"):
        return str(args.code)
    where = args.file or "standard input"
    data = sys.stdin.buffer.read(_LARGEST + 1) if args.code == "-" else _read(existing(args.file))
    if len(data) > _LARGEST:
        raise UserError(f"{where} has more than {_LARGEST:,} bytes", "code up to the function to be written", "give less of it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (at byte {error.start})", "Python code in UTF-8", "convert it") from None


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is no file", "a file of code")
    with path.open("rb") as file:
        return file.read(_LARGEST + 1)
