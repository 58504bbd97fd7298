r"""`myna export DIR --to gguf --out FILE`: write the model for llama.cpp and the programs built on it.

    myna export my-model --to gguf --out my-model.gguf --quantize q8_0
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from myna.cli.main import existing
from myna.console import human, say
from myna.errors import UserError

_QUANTIZE = ("f32", "f16", "q8_0")
_PROMPTS = 5  # of the tokenizer's golden texts: English, Chinese, both mixed, many scripts, emoji


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna export`."""
    parser.add_argument("model", metavar="DIR", help="model directory")
    parser.add_argument("--to", choices=("gguf",), default="gguf", help="the format (default gguf)")
    parser.add_argument("--out", metavar="FILE", required=True, help="file to write")
    parser.add_argument("--quantize", choices=_QUANTIZE, default="f16", help="how matrices are stored (default f16; q8_0 is half of it)")


def run(args: argparse.Namespace) -> int:
    """Export, then replay five prompts in llama.cpp if it is installed; 1 when it gives other ids."""
    from myna.formats.gguf_export import export_gguf
    from myna.tokenizer.tokenizer import Tokenizer

    folder, out = existing(args.model), Path(args.out)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder", "a file to write", f"try --out {out / (folder.resolve().name + '.gguf')}")
    tokenizer = Tokenizer.open(folder)
    report = export_gguf(folder, out, tokenizer, args.quantize)
    say(f"{out}: {human(report['bytes'])}B, {report['tensors']} tensors as {args.quantize}, pre-tokenizer {report['pattern']}")
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
