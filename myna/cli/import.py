# ruff: noqa: N999 (the name of the command)
"""`myna import SOURCE DIR`: read what other tools wrote as a model directory.

GGUF, CTranslate2's Whisper, ARPA, word2vec's text, and model directories whose tokenizer is in another form than tokenizer.json.

    myna import model.gguf my-model
    myna import news.arpa news-model --tokenizer my-model
    myna import news.vec news-vectors
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from myna.cli.main import existing
from myna.console import human, say
from myna.errors import UserError

# of a Hugging Face directory: weights, what says how they are used, and every form of a tokenizer; no program of anybody
_COPIED = ("*.json", "*.safetensors", "*.model", "*.spm", "*.tiktoken", "*.txt", "*.jinja", "*.md", "*/config.json", "LICENSE*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna import`."""
    parser.add_argument("file", metavar="SOURCE", help="a GGUF file, an ARPA file (packed or not), vectors in word2vec's text format, "
                                                       "a folder with CTranslate2's Whisper, or a model directory without tokenizer.json")
    parser.add_argument("directory", metavar="DIR", help="model directory to write")
    parser.add_argument("--tokenizer", metavar="MODEL", help="of an ARPA file: directory of the tokenizer whose tokens are its words")


def run(args: argparse.Namespace) -> int:
    """Check the source and write config.json, model.safetensors, tokenizer, myna.json and what else the model needs."""
    source, out = existing(args.file), Path(args.directory)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists", "a new directory", "choose another name, or delete it")
    kind = _kind(source)
    if args.tokenizer and kind != "arpa":
        raise UserError(f"--tokenizer with {kind}", "an ARPA file for it", "leave --tokenizer out: the source has its own words")
    importers = {"GGUF": _import_gguf, "CTranslate2": _import_ctranslate2, "a model directory": _import_directory,
                 "vectors": _import_vectors, "arpa": _import_arpa}
    report = importers[kind](source, out, args)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    return 0


def _kind(source: Path) -> str:
    """Say what was given: a folder by the files in it, a file by its first bytes."""
    from myna.formats.gguf_read import is_gguf
    from myna.formats.word2vec import is_word2vec

    if source.is_dir():
        if (source / "model.bin").is_file():
            return "CTranslate2"
        if not any(path.is_file() for pattern in _COPIED for path in source.glob(pattern)):
            raise UserError(f"{source} is a folder without a model or a tokenizer", "a GGUF or ARPA file, vectors, or a model directory")
        return "a model directory"
    if is_gguf(source):
        return "GGUF"
    return "vectors" if is_word2vec(source) else "arpa"


def _import_gguf(file: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    from myna.models.gguf_import import import_gguf

    info = import_gguf(file, out)
    size = sum(path.stat().st_size for path in out.iterdir())
    types = ", ".join(f"{count} {kind}" for kind, count in info["types"].items())
    say(f"read {file}: GGUF version {info['version']}, {human(file.stat().st_size)}B, {info['name']!r}, a {info['architecture']} of "
        f"{info['parameters']:,} weights")
    say(f"tensors: {types}" + ("; those with blocks are written as the float32 numbers they stand for"
                               if any(kind.startswith("Q") for kind in info["types"]) else ""))
    say("not taken over: " + (", ".join(info["dropped"]) or "nothing"))
    say(f"licence, as the file says: {info['licence']}" if info["licence"] else "the file names no licence: ask whoever published it")
    say(f"{out}: {human(size)}B, {info['vocab_size']:,} tokens, a context of {info['context']:,}")
    return {"directory": str(out), "bytes": size, **info}


def _import_ctranslate2(folder: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    from myna.models.whisper_import import import_ctranslate2

    import_ctranslate2(folder, out)
    size = sum(path.stat().st_size for path in out.iterdir())
    say(f"read {folder / 'model.bin'}: CTranslate2, {human((folder / 'model.bin').stat().st_size)}B")
    say("the files name no licence: ask whoever published them")
    say(f"{out}: {human(size)}B, a Whisper")
    return {"directory": str(out), "bytes": size}


def _import_directory(folder: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Copy a directory that holds a tokenizer in another tool's files, and make its tokenizer.json."""
    from myna import __version__
    from myna.files import new_directory, sha256, write_json
    from myna.models.families import family_of
    from myna.models.pretrained import read_config
    from myna.tokenizer.tokenizer import Tokenizer

    if (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder} has a tokenizer.json", "a directory without one", f"use it as it is: myna show {folder}")
    taken = sorted({path for pattern in _COPIED for path in folder.glob(pattern) if path.is_file()})
    left = sorted(path.name for path in folder.iterdir() if path.is_file() and path not in taken)
    with new_directory(out) as made:
        for path in taken:
            target = made / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        tokenizer = Tokenizer.open(made)
        if (made / "target.spm").is_file():  # a Marian of two vocabularies
            Tokenizer.open(made, "target").save(made, part="target")
        tokenizer.save(made)
        kind = read_config(made).get("model_type") if (made / "config.json").is_file() else None
        hashes = {path.name: sha256(path) for path in sorted(made.iterdir()) if path.is_file()}
        inputs = [{"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size} for path in taken]
        lineage = {"inputs": inputs, "argv": sys.argv, "versions": {"myna": __version__}}
        write_json(made / "myna.json", {"format": 1, "version": __version__, "family": family_of(str(kind)), "golden": tokenizer.golden(),
                                        "hashes": hashes, "lineage": lineage})
    say(f"{out}: tokenizer.json of {tokenizer.vocab_size:,} tokens" + (f", beside a {kind}" if kind else "; no model is beside it"))
    if left:
        say(f"not taken over: {', '.join(left[:8])}" + (f" and {len(left) - 8} more" if len(left) > 8 else ""))
    return {"directory": str(out), "vocab_size": tokenizer.vocab_size, "model_type": kind, "dropped": left}


def _import_arpa(file: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    from myna.models.ngram_arpa import import_arpa
    from myna.tokenizer.tokenizer import Tokenizer

    if not args.tokenizer:
        raise UserError("an ARPA file without --tokenizer", "the directory of the tokenizer whose tokens are its words")
    tokenizer = Tokenizer.open(existing(args.tokenizer))
    model = import_arpa(file, tokenizer)
    _write(file, out, "ngram", model, tokenizer)
    ngrams = [len(chances) for _, chances, _ in model.levels()]
    say(f"{out}: {human(sum(ngrams))} n-grams of length 1 to {model.order} over {model.vocab_size:,} ids")
    return {"directory": str(out), "order": model.order, "ngrams": ngrams, "vocab_size": model.vocab_size}


def _import_vectors(file: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    from myna.models.vectors import import_word2vec

    vectors = import_word2vec(file)
    _write(file, out, "vectors", vectors, None)
    say(f"{out}: {vectors.vocab_size:,} words of {vectors.table.shape[1]} numbers")
    return {"directory": str(out), "words": vectors.vocab_size, "hidden_size": vectors.table.shape[1]}


def _write(file: Path, out: Path, family: str, model: Any, tokenizer: Any) -> None:
    """Write a model that was read from one file, and myna.json with what it was read from."""
    from myna import __version__
    from myna.files import new_directory, sha256, write_json

    with new_directory(out) as folder:
        model.save(folder)
        if tokenizer is not None:
            tokenizer.save(folder)
        golden = {} if tokenizer is None else {"golden": tokenizer.golden()}
        hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        lineage = {"inputs": [{"path": str(file), "sha256": sha256(file), "bytes": file.stat().st_size}], "argv": sys.argv,
                   "versions": {"myna": __version__}}
        write_json(folder / "myna.json", {"format": 1, "version": __version__, "family": family, **golden, "hashes": hashes,
                                          "lineage": lineage})
