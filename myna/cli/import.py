# ruff: noqa: N999 (the name of the command)
"""`myna import FILE DIR`: read an ARPA file, of Myna or of another tool, as an n-gram model directory.

    myna import news.arpa news-model --tokenizer my-model
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from myna.cli.main import existing
from myna.console import human, say
from myna.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna import`."""
    parser.add_argument("file", metavar="FILE", help="an ARPA file, packed or not")
    parser.add_argument("directory", metavar="DIR", help="model directory to write")
    parser.add_argument("--tokenizer", metavar="MODEL", required=True, help="directory of the tokenizer whose tokens are the file's words")


def run(args: argparse.Namespace) -> int:
    """Check the file and write config.json, model.safetensors, the tokenizer and myna.json."""
    from myna import __version__
    from myna.files import new_directory, sha256, write_json
    from myna.models.ngram_arpa import import_arpa
    from myna.tokenizer.tokenizer import Tokenizer

    file, out = existing(args.file), Path(args.directory)
    if file.is_dir():
        raise UserError(f"{file} is a folder", "an ARPA file")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists", "a new directory", "choose another name, or delete it")
    tokenizer = Tokenizer.open(existing(args.tokenizer))
    model = import_arpa(file, tokenizer)
    lineage: dict[str, Any] = {"inputs": [{"path": str(file), "sha256": sha256(file), "bytes": file.stat().st_size}], "argv": sys.argv,
                               "versions": {"myna": __version__}}
    with new_directory(out) as folder:
        model.save(folder)
        tokenizer.save(folder)
        hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / "myna.json", {"format": 1, "version": __version__, "family": "ngram", "golden": tokenizer.golden(),
                                          "hashes": hashes, "lineage": lineage})
    ngrams = [len(chances) for _, chances, _ in model.levels()]
    say(f"{out}: {human(sum(ngrams))} n-grams of length 1 to {model.order} over {model.vocab_size:,} ids")
    if args.json:
        print(json.dumps({"directory": str(out), "order": model.order, "ngrams": ngrams, "vocab_size": model.vocab_size}))
    return 0
