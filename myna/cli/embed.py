"""`myna embed DIR TEXT...`: texts as vectors, by an encoder and the pooling that its directory says.

    myna embed minilm "A cat sits on the mat." "A dog runs." --json
    myna embed minilm --file sentences.txt --out vectors.npy
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

from myna.cli.main import Parser, existing
from myna.console import say
from myna.errors import UserError
from myna.files import read_regular, write_atomic

_SHOWN = 6  # numbers of a vector on a line


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna embed`."""
    parser.add_argument("model", metavar="DIR", help="model directory of an encoder, or the name of a fetched one")
    parser.add_argument("text", metavar="TEXT", nargs="*", help="texts; - reads a text from each line of standard input")
    add_file(parser)
    parser.add_argument("--out", metavar="FILE.npy", help="write the vectors there, as numpy reads them: (texts, width) float32")


def add_file(parser: Parser) -> None:
    """Add the flag that reads texts from a file."""
    parser.add_argument("--file", metavar="FILE", help="read a text from each line of this file")


def read_texts(given: list[str], file: str | None) -> list[str]:
    """Return the texts of the command line, "-" replaced by the lines of standard input, then those of the file."""
    texts: list[str] = []
    for text in given:
        texts += _lines(sys.stdin.buffer.read(), "standard input") if text == "-" else [text]
    if file is not None:
        texts += _lines(read_regular(existing(file)), file)
    if not texts:
        raise UserError("no text is given", "TEXT, - or --file FILE")
    return texts


def _lines(data: bytes, name: str) -> list[str]:
    from myna.corpus.decode import detect, sniff_wide

    codec = "utf-8-sig"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        codec = sniff_wide(data[: 1 << 16]) or detect(data[: 1 << 20])
        try:
            text = data.decode(codec)
        except UnicodeDecodeError as error:
            raise UserError(f"{name} is not text in {codec} (byte {error.start:,})", "text, one to a line", "convert it to UTF-8") from None
        say(f"{name} is read as {codec}")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def run(args: argparse.Namespace) -> int:
    """Embed: to a file, as JSON, or the first numbers of each for a look."""
    from myna.models.fetched import resolve_model
    from myna.models.pooling import read_pooling
    from myna.models.pretrained import load_model
    from myna.tasks.embed import embed_texts
    from myna.tokenizer.tokenizer import Tokenizer

    texts = read_texts(args.text, args.file)
    out = None if args.out is None else Path(args.out)
    if out is not None and (out.suffix != ".npy" or not out.absolute().parent.is_dir()):
        raise UserError(f"--out is {args.out}", "a file that ends in .npy, in a folder that is there")
    folder = resolve_model(args.model)
    model, pooling = load_model(folder), read_pooling(folder)
    vectors = embed_texts(model, Tokenizer.open(folder), pooling, texts)
    said = {"model": str(folder), "texts": len(texts), "width": vectors.shape[1], "pooling": pooling.mode, "normalized": pooling.normalize}
    if out is not None:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, vectors, allow_pickle=False)
        write_atomic(out, buffer.getvalue())
    if args.json:
        print(json.dumps({**said, **({"embeddings": vectors.tolist()} if out is None else {"out": str(out)})}))
        return 0
    say(f"{len(texts):,} texts, {vectors.shape[1]} numbers each: {pooling}")
    if out is not None:
        print(out)
        return 0
    for text, vector in zip(texts, vectors, strict=True):
        numbers = " ".join(f"{value:7.4f}" for value in vector[:_SHOWN])
        print(f"{numbers} ...  {shorten(text)}")
    return 0


def shorten(text: str, width: int = 60) -> str:
    """Show a text on a line of a terminal."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= width else line[: width - 3] + "..."
