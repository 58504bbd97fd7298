r"""`myna export DIR --to gguf --out FILE`: write the model for other programs: GGUF for llama.cpp, ARPA for KenLM, word2vec's text.

    myna export my-model --to gguf --out my-model.gguf --quantize q8_0
    myna export my-model/ngram --to arpa --out my-model.arpa
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from myna.cli.main import existing
from myna.console import human, say
from myna.errors import UserError

_QUANTIZE = ("f32", "f16", "q8_0", "q4_0", "q4_1")
_PROMPTS = 5  # of the tokenizer's golden texts: English, Chinese, both mixed, many scripts, emoji


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna export`."""
    parser.add_argument("model", metavar="DIR", help="model directory")
    parser.add_argument("--to", choices=("gguf", "arpa", "word2vec"), default="gguf",
                        help="the format: gguf (default), of an n-gram arpa, of word vectors (or a neural model's table) word2vec")
    parser.add_argument("--out", metavar="FILE", required=True, help="file to write")
    parser.add_argument("--quantize", choices=_QUANTIZE, help="how GGUF stores matrices (default f16; q8_0 is half of it)")


def run(args: argparse.Namespace) -> int:
    """Export; a GGUF file is then replayed in llama.cpp if that is installed: 1 when it gives other ids."""
    folder, out = existing(args.model), Path(args.out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", "a file to write", f"try --out {out / (folder.resolve().name + '.' + args.to)}")
    if args.to == "word2vec":
        return _export_word2vec(folder, out, args)
    return _export_arpa(folder, out, args) if args.to == "arpa" else _export_gguf(folder, out, args)


def _export_word2vec(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.formats.word2vec import write_word2vec
    from myna.models.pretrained import read_config
    from myna.models.vectors import open_vectors

    if args.quantize:
        raise UserError("--quantize with --to word2vec", "decimal numbers, which the format holds", "leave --quantize out")
    read_config(folder)  # says what is wrong with a path that is no model directory
    vectors = open_vectors(folder)
    words = write_word2vec(vectors, out)
    say(f"{out}: {human(out.stat().st_size)}B, {words:,} words of {vectors.table.shape[1]} numbers")
    if args.json:
        print(json.dumps({"file": str(out), "bytes": out.stat().st_size, "words": words, "hidden_size": vectors.table.shape[1]}))
    return 0


def _export_arpa(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.models.ngram import Ngram
    from myna.models.ngram_arpa import export_arpa
    from myna.models.pretrained import read_config
    from myna.tokenizer.tokenizer import Tokenizer

    if args.quantize:
        raise UserError("--quantize with --to arpa", "decimal numbers, which ARPA holds", "leave --quantize out")
    if read_config(folder).get("model_type") != "ngram":
        beside = f"{folder / 'ngram'}, its baseline, is one" if (folder / "ngram").is_dir() else "make one: myna build --family ngram"
        raise UserError(f"{folder} is no n-gram model", "an n-gram, the one family that ARPA can hold", beside)
    report = export_arpa(Ngram.open(folder), Tokenizer.open(folder), out)
    say(f"{out}: {human(report['bytes'])}B, {human(sum(report['ngrams']))} n-grams of length 1 to {len(report['ngrams'])}")
    if args.json:
        print(json.dumps(report))
    return 0


def _export_gguf(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.models.gguf_export import export_gguf
    from myna.tokenizer.tokenizer import Tokenizer

    tokenizer, quantize = Tokenizer.open(folder), args.quantize or "f16"
    report = export_gguf(folder, out, tokenizer, quantize)
    say(f"{out}: {human(report['bytes'])}B, {report['tensors']} tensors as {quantize}, pre-tokenizer {report['pattern']}")
    if report["kept_f16"]:
        say(f"{len(report['kept_f16'])} tensors stay f16, their rows are no multiple of 32: {', '.join(report['kept_f16'][:4])}"
            + (" ..." if len(report["kept_f16"]) > 4 else ""))
    for note in report["notes"]:
        say(note)
    report["check"] = _check(out, folder, tokenizer)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    return 0 if report["check"] is None or report["check"]["same_ids"] == report["check"]["prompts"] else 1


def _check(out: Path, folder: Path, tokenizer: Any) -> dict[str, Any] | None:
    from myna.generate.replay import can_compare, compare_gguf

    if not can_compare():
        say("not checked in llama.cpp: the package llama-cpp-python is not installed")
        return None
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import GOLDEN_TEXTS

    found = compare_gguf(out, load_model(folder), tokenizer, GOLDEN_TEXTS[:_PROMPTS])
    say(f"checked in llama.cpp: ids equal in {found['same_ids']} of {found['prompts']} prompts, "
        f"{found['same_tokens']} of {found['tokens']} greedy tokens equal"
        + (f" (where they part, the two candidates are {found['gap']:.3f} nats apart)" if found["same_tokens"] < found["tokens"] else ""))
    return found
