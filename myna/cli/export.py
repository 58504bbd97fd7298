r"""`myna export MODEL --to gguf --out FILE`: write the model for other programs: GGUF, Hugging Face, Keras, ARPA, word2vec's text.

    myna export my-model --to gguf --out my-model.gguf --quantize q8_0
    myna export my-adapter --to hf --out my-merged-model --dtype bfloat16
    myna export my-model/ngram --to arpa --out my-model.arpa
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from myna.cli.main import existing
from myna.console import human, say
from myna.errors import UserError

if TYPE_CHECKING:
    from myna.tokenizer.tokenizer import Tokenizer

_FORMATS = ("gguf", "hf", "keras", "arpa", "word2vec")
_QUANTIZE = ("f32", "f16", "q8_0", "q4_0", "q4_1")
_DTYPES = ("float32", "float16", "bfloat16")
_PROMPTS = 5  # of the tokenizer's golden texts: English, Chinese, both mixed, many scripts, emoji
_TOKENS = 32  # greedy ones that follow each, at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna export`."""
    parser.add_argument("model", metavar="MODEL", help="model directory, or the name of a fetched model")
    parser.add_argument("--to", choices=_FORMATS, default="gguf",
                        help="the format: gguf (default), hf (a directory for transformers), keras (of a recurrent model), "
                             "arpa (of an n-gram), word2vec (of word vectors, or a neural model's table)")
    parser.add_argument("--out", metavar="PATH", required=True, help="file to write; of hf the directory")
    parser.add_argument("--quantize", choices=_QUANTIZE, help="how GGUF stores matrices (default f16)")
    parser.add_argument("--dtype", choices=_DTYPES, help="how a Hugging Face directory stores weights (default float32)")


def run(args: argparse.Namespace) -> int:
    """Export; what other runtimes read is then replayed in them if they are installed: 1 when one gives other ids."""
    from myna.models.fetched import resolve_model

    folder, out = existing(str(resolve_model(args.model))), Path(args.out)
    if args.quantize and args.to != "gguf":
        raise UserError(f"--quantize with --to {args.to}", "--to gguf, the one format with quantised weights", "leave --quantize out")
    if args.dtype and args.to != "hf":
        raise UserError(f"--dtype with --to {args.to}", "--to hf", "leave --dtype out; of a GGUF file --quantize says it")
    if args.to == "hf":
        return _export_directory(folder, out, args)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", "a file to write", f"try --out {out / (folder.resolve().name + '.' + args.to)}")
    match args.to:
        case "word2vec":
            return _export_word2vec(folder, out, args)
        case "arpa":
            return _export_arpa(folder, out, args)
        case "keras":
            return _export_keras(folder, out, args)
        case _:
            return _export_gguf(folder, out, args)


def _export_word2vec(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.formats.word2vec import write_word2vec
    from myna.models.pretrained import read_config
    from myna.models.vectors import open_vectors

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

    if read_config(folder).get("model_type") != "ngram":
        beside = f"{folder / 'ngram'}, its baseline, is one" if (folder / "ngram").is_dir() else "make one: myna build --family ngram"
        raise UserError(f"{folder} is no n-gram model", "an n-gram, the one family that ARPA can hold", beside)
    report = export_arpa(Ngram.open(folder), Tokenizer.open(folder), out)
    say(f"{out}: {human(report['bytes'])}B, {human(sum(report['ngrams']))} n-grams of length 1 to {len(report['ngrams'])}")
    if args.json:
        print(json.dumps(report))
    return 0


def _export_gguf(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.models.adapter import is_adapter
    from myna.models.gguf_export import export_gguf
    from myna.models.hf_export import export_directory
    from myna.models.mixture import MIXTURE
    from myna.tokenizer.tokenizer import Tokenizer

    quantize, name = args.quantize or "f16", folder.resolve().name
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None, prefix=".myna-") as temporary:
        source = folder
        if is_adapter(folder):
            source = Path(temporary) / "merged"
            export_directory(folder, source)
            say(f"{folder}: the adapter is merged into its base")
        tokenizer = Tokenizer.open(source)
        report = export_gguf(source, out, tokenizer, quantize, name)
        if (folder / MIXTURE).is_file():
            report["notes"].append("the directory mixes several models; the file holds its Transformer alone")
        types = ", ".join(f"{count} {kind}" for kind, count in report["types"].items())
        say(f"{out}: {human(report['bytes'])}B, {report['tensors']} tensors as {quantize} ({types}), tokenizer {report['pattern']}")
        if report["kept_f16"]:
            say(f"{len(report['kept_f16'])} tensors stay f16, their rows are no multiple of 32: {', '.join(report['kept_f16'][:4])}"
                + (" ..." if len(report["kept_f16"]) > 4 else ""))
        for note in report["notes"]:
            say(note)
        report["check"] = _check(out, source, tokenizer)
    return _answer(report, args)


def _export_directory(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.models.hf_export import export_directory
    from myna.tokenizer.tokenizer import Tokenizer

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists", "a new directory", "choose another name, or delete it")
    report = export_directory(folder, out, args.dtype or "float32")
    merged = ", the adapter merged into its base" if report["merged"] else ""
    say(f"{out}: {human(report['bytes'])}B, a {report['model_type']} of {report['parameters']:,} weights as {report['dtype']}{merged}")
    report["check"] = None
    if report["family"] == "decoder":
        from myna.generate.replay import compare_models
        from myna.models.hf_export import find_whole
        from myna.models.pretrained import load_model
        from myna.tokenizer.tokenizer import GOLDEN_TEXTS

        beside = folder if (folder / "tokenizer.json").is_file() else find_whole(folder)
        report["check"] = compare_models(load_model(out), Tokenizer.open(out), load_model(folder), Tokenizer.open(beside),
                                         GOLDEN_TEXTS[:_PROMPTS])
        _say_check("Myna, which opened it again", report["check"])
    say("not replayed in transformers, which Myna never runs")
    return _answer(report, args)


def _export_keras(folder: Path, out: Path, args: argparse.Namespace) -> int:
    from myna.formats.keras_export import compare_keras, export_keras
    from myna.generate import replay
    from myna.tokenizer.tokenizer import Tokenizer

    report = export_keras(folder, out)
    say(f"{out}: {human(report['bytes'])}B, an {report['model_type']} of {report['layers']} layers and {report['parameters']:,} weights")
    for note in report["notes"]:
        say(note)
    if not replay.can_compare("keras"):
        say("not checked in Keras: the package keras is not installed")
        return _answer(report | {"check": None}, args)
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import GOLDEN_TEXTS

    encode, score = compare_keras(out)
    found = replay.compare(encode, score, load_model(folder), Tokenizer.open(folder), GOLDEN_TEXTS[:_PROMPTS], _TOKENS)
    _say_check("Keras", found)
    return _answer(report | {"check": found}, args)


def _answer(report: dict[str, Any], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    return 0 if report["check"] is None or report["check"]["same_ids"] == report["check"]["prompts"] else 1


def _check(out: Path, folder: Path, tokenizer: Tokenizer) -> dict[str, Any] | None:
    from myna.generate.replay import can_compare, compare_gguf

    if not can_compare():
        say("not checked in llama.cpp: the package llama-cpp-python is not installed")
        return None
    from myna.models.pretrained import load_model
    from myna.tokenizer.tokenizer import GOLDEN_TEXTS

    found = compare_gguf(out, load_model(folder), tokenizer, GOLDEN_TEXTS[:_PROMPTS])
    _say_check("llama.cpp", found)
    return found


def _say_check(name: str, found: dict[str, Any]) -> None:
    say(f"checked in {name}: ids equal in {found['same_ids']} of {found['prompts']} prompts, "
        f"{found['same_tokens']} of {found['tokens']} greedy tokens equal"
        + (f" (where they part, the two candidates are {found['gap']:.3f} nats apart)" if found["same_tokens"] < found["tokens"] else "")
        + f"; log-probabilities differ by at most {found['largest_difference']:.2g}")
