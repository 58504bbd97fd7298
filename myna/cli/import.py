# ruff: noqa: N999 (the name of the command)
"""`myna import FILE DIR`: read an ARPA file or vectors in word2vec's text format, of Myna or of another tool, as a model directory.

    myna import news.arpa news-model --tokenizer my-model
    myna import news.vec news-vectors
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
    parser.add_argument("file", metavar="FILE", help="an ARPA file, packed or not, or vectors in word2vec's text format")
    parser.add_argument("directory", metavar="DIR", help="model directory to write")
    parser.add_argument("--tokenizer", metavar="MODEL", help="of an ARPA file: directory of the tokenizer whose tokens are its words")


def run(args: argparse.Namespace) -> int:
    """Check the file and write config.json, model.safetensors, myna.json and what else the model needs."""
    from myna import __version__
    from myna.files import new_directory, sha256, write_json
    from myna.formats.word2vec import is_word2vec
    from myna.models.ngram_arpa import import_arpa
    from myna.tokenizer.tokenizer import Tokenizer

    file, out = existing(args.file), Path(args.directory)
    if file.is_dir():
        raise UserError(f"{file} is a folder", "an ARPA file, or vectors in word2vec's text format")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists", "a new directory", "choose another name, or delete it")
    if is_word2vec(file):
        return _import_vectors(file, out, args)
    if not args.tokenizer:
        raise UserError("an ARPA file without --tokenizer", "the directory of the tokenizer whose tokens are its words")
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


def _import_vectors(file: Path, out: Path, args: argparse.Namespace) -> int:
    from myna import __version__
    from myna.files import new_directory, sha256, write_json
    from myna.models.vectors import import_word2vec

    if args.tokenizer:
        raise UserError("--tokenizer with vectors", "an ARPA file for it", "leave --tokenizer out: the file's words are its own")
    vectors = import_word2vec(file)
    lineage: dict[str, Any] = {"inputs": [{"path": str(file), "sha256": sha256(file), "bytes": file.stat().st_size}], "argv": sys.argv,
                               "versions": {"myna": __version__}}
    with new_directory(out) as folder:
        vectors.save(folder)
        hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        write_json(folder / "myna.json", {"format": 1, "version": __version__, "family": "vectors", "hashes": hashes, "lineage": lineage})
    say(f"{out}: {vectors.vocab_size:,} words of {vectors.table.shape[1]} numbers")
    if args.json:
        print(json.dumps({"directory": str(out), "words": vectors.vocab_size, "hidden_size": vectors.table.shape[1]}))
    return 0
