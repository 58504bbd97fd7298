"""`myna build INPUT... --out DIR`: the whole road, from a folder of text to a measured model.

    myna build my-texts/ --minutes 10 --out my-model
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from myna.cli.main import Parser, add_options, existing, read_options
from myna.config import read_recipe
from myna.recipe import SECTIONS, BuildOptions, Recipe


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna build`."""
    add_road_arguments(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="the model directory to make")
    parser.add_argument("--resume", action="store_true", help="go on with what DIR holds; starts when it holds nothing")


def add_road_arguments(parser: Parser, family: bool = True) -> None:
    """Add what `build`, `plan` and `compare` share: inputs, overrides of the split, the recipe and every stage's options."""
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help="files and folders of text")
    parser.add_argument("--valid", metavar="FILE", action="append", default=[], help="validate on this file instead of a part of INPUT")
    parser.add_argument("--test", metavar="FILE", action="append", default=[], help="test on this file instead of a part of INPUT")
    parser.add_argument("--recipe", metavar="FILE", help="a TOML file with options: top-level keys, and a table for every stage")
    add_options(parser, BuildOptions, leave_out=() if family else ("family",))
    for section, cls in SECTIONS.items():
        add_options(parser, cls, section)


def read_road(args: argparse.Namespace) -> Recipe:
    """Put the recipe together from defaults, the TOML file and flags."""
    layers = read_recipe(Path(args.recipe), SECTIONS, BuildOptions) if args.recipe else {}
    stages: dict[str, Any] = {name: read_options(args, cls, name, layers) for name, cls in SECTIONS.items()}
    return Recipe(build=read_options(args, BuildOptions, "", layers), **stages)


def run(args: argparse.Namespace) -> int:
    """Build, then print the scores."""
    recipe = read_road(args)
    inputs, valid, test = ([existing(path) for path in paths] for paths in (args.inputs, args.valid, args.test))

    from myna.roads.build import build

    try:
        report = build(inputs, Path(args.out), recipe, args.resume, valid, test)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(str(error) or "interrupted; the stages that are done are kept: go on with --resume") from None
    if args.json:
        print(json.dumps({"out": args.out, "report": report.to_json()}, ensure_ascii=False))
    else:
        from rich.console import Console

        from myna.models.record import read_record

        console, record = Console(width=80), read_record(Path(args.out))
        console.print(report.table())
        if record.alone:
            console.print(record.alone, markup=False, highlight=False)
        used = {"encoder": f'myna fill {args.out} "It was a ___ day"', "vectors": f"myna similar {args.out} day"}
        print("next: " + used.get(recipe.build.family, f'myna generate {args.out} "Once upon a time"'))
    return 0
