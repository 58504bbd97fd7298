"""`myna tune BASE DATA... --out DIR`: teach a trained model from conversations, questions with answers, or text.

    myna tune smollm2 my-rows.jsonl --minutes 10 --out my-model
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from myna.cli.main import Parser, add_options, existing, read_options
from myna.config import read_recipe
from myna.recipe import TUNE_SECTIONS, TuneRecipe
from myna.train.options import TuneOptions


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna tune`."""
    parser.add_argument("base", metavar="BASE", nargs="?",
                        help="the model to tune: a directory, or the name of a fetched one; with --task also new, from nothing")
    parser.add_argument("data", metavar="DATA", nargs="*", help="files and folders of rows (JSONL, JSON, CSV, TSV, Parquet), or of text")
    parser.add_argument("--out", metavar="DIR", required=True, help="the model directory to make")
    parser.add_argument("--resume", action="store_true", help="go on with what DIR holds; starts when it holds nothing")
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file with options: top-level keys, and a table for every stage")
    parser.add_argument("--valid", metavar="PATH", nargs="+", default=[], help="with --task: examples to validate on, where they are apart")
    parser.add_argument("--test", metavar="PATH", nargs="+", default=[], help="with --task: examples to measure on, where they are apart")
    parser.add_argument("--multi-label", action="store_true", help="--task classify: a text may have several labels")
    parser.add_argument("--segment", action="store_true", help="--task tag: learn to find the words themselves, not their labels")
    parser.add_argument("--merge", action="store_true", help="LoRA: write the merged whole model too, in DIR/merged")
    parser.add_argument("--skip-bad", action="store_true", help="pass over rows that cannot be read, and count them")
    add_options(parser, TuneOptions, leave_out=("merge",))
    for section, cls in TUNE_SECTIONS.items():
        add_options(parser, cls, section, leave_out=("skip_bad", "multi_label", "segment", "learning_rate", "embedding_learning_rate"))


def read_tuning(args: argparse.Namespace) -> TuneRecipe:
    """Put the recipe together from defaults, the TOML file and flags."""
    layers = read_recipe(Path(args.recipe), TUNE_SECTIONS, TuneOptions) if args.recipe else {}
    stages: dict[str, Any] = {name: read_options(args, cls, name, layers) for name, cls in TUNE_SECTIONS.items()}
    recipe = TuneRecipe(tune=read_options(args, TuneOptions, "", layers), **stages)
    merge, skip, several = (recipe.tune.merge or args.merge, recipe.rows.skip_bad or args.skip_bad,
                            recipe.rows.multi_label or args.multi_label)
    return dataclasses.replace(recipe, tune=dataclasses.replace(recipe.tune, merge=merge),
                               rows=dataclasses.replace(recipe.rows, skip_bad=skip, multi_label=several,
                                                        segment=recipe.rows.segment or args.segment))


def run(args: argparse.Namespace) -> int:
    """Tune, then print the scores before and after."""
    recipe = read_tuning(args)
    data = [existing(path) for path in args.data]

    from myna.roads.tune import tune

    try:
        report = tune(args.base, data, Path(args.out), recipe, args.resume, *([existing(path) for path in paths]
                                                                              for paths in (args.valid, args.test)))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(str(error) or "interrupted; what is done is kept: go on with --resume") from None
    if args.json:
        print(json.dumps({"out": args.out, "report": report.to_json()}, ensure_ascii=False))
    else:
        from rich.console import Console

        Console(width=80).print(report.table())
        verb = 'generate {} "Once upon a time"'
        if recipe.tune.task == "classify":
            verb = 'classify {} "a text"'
        elif recipe.tune.task == "answer":
            verb = 'answer {} "who built the tower?" --documents my-documents/'
        elif recipe.tune.task == "complete":
            verb = 'complete {} "def double(x):"'
        elif recipe.tune.task == "summarize":
            verb = "summarize {} long.txt"
        elif recipe.tune.task == "translate":
            verb = 'translate {} "a text"'
        elif recipe.tune.task == "tag":
            verb = 'tag {} "a text"'
        elif (Path(args.out) / "chat_template.jinja").is_file():
            verb = "chat {}"
        print("next: myna " + verb.format(args.out))
    return 0
