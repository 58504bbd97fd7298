"""`myna evaluate DIR FILE...`: how well a model predicts a text, beside its n-gram baseline on the same bytes.

    myna evaluate my-model unseen.txt
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from myna.cli.main import Parser, add_options, existing, read_options
from myna.evaluate.options import EvaluateOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna evaluate`."""
    parser.add_argument("model", metavar="DIR", help="a model directory")
    parser.add_argument("files", metavar="FILE", nargs="+", help="text to measure on, cleaned as `myna clean` does")
    add_options(parser, EvaluateOptions)


def run(args: argparse.Namespace) -> int:
    """Measure and print bits per byte, bits per character and perplexity, model beside baseline."""
    folder, inputs = existing(args.model), [existing(path) for path in args.files]
    options = read_options(args, EvaluateOptions)

    from rich.console import Console

    from myna.console import human, say
    from myna.corpus.clean import clean
    from myna.corpus.options import CleanOptions
    from myna.corpus.store import Corpus
    from myna.evaluate.language import corpus_text, report_language
    from myna.models.ngram import Ngram
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import Tokenizer

    model, tokenizer = load_model(folder), Tokenizer.open(folder)
    beside = folder / "ngram"
    baseline = Ngram.open(beside) if beside.is_dir() else None
    if baseline is None:
        say(f"no baseline: {beside} does not exist" + (" (the model is itself an n-gram)" if isinstance(model, Ngram) else ""))
    with tempfile.TemporaryDirectory() as temporary:
        cleaned = clean(inputs, Path(temporary), CleanOptions())
        corpus = Corpus(Path(temporary))
        text = corpus_text(corpus)
        dropped = ", ".join(f"{human(size)}B {reason}" for reason, size in cleaned["totals"]["dropped"].items())
        count = len(corpus.documents)
        kept = f"{count} document{'' if count == 1 else 's'}, {human(text.bytes)}B of cleaned text"
        say(f"evaluating on {kept}" + (f"; dropped {dropped}" if dropped else ""))
        for entry in cleaned["files"]:
            if entry["status"] != "ok":
                say(f"{entry['path']} is {entry['status']}: {entry['reason']}")
        report = report_language(model, tokenizer, text, baseline, baseline.name if baseline else "",
                                 Tokenizer.open(beside) if baseline else None, options)
    if args.json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        Console(width=80).print(report.table())
    return 0
