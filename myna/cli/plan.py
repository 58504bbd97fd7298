"""`myna plan INPUT...`: what `build` would train here, how long it would take, how much memory it needs and what to expect.

    myna plan my-texts/ --minutes 10
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from myna.cli.build import add_road_arguments, read_road
from myna.cli.main import Parser, existing
from myna.errors import UserError
from myna.models.families import COUNTED


def add_arguments(parser: Parser) -> None:
    """Add the flags of `myna plan`."""
    add_road_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Read the text, count the baseline, time a few steps and print the plan; nothing is kept."""
    began = time.monotonic()
    recipe = read_road(args)
    inputs, valid, test = ([existing(path) for path in paths] for paths in (args.inputs, args.valid, args.test))
    if not inputs:
        raise UserError("no input was given", "files or folders of text", "myna plan my-texts/ --minutes 10")
    if recipe.build.family in COUNTED:
        raise UserError(f"--family {recipe.build.family} has no plan", "a family that is trained by gradient",
                        f"it is fitted in one go: myna build --family {recipe.build.family}")

    from myna import machine
    from myna.corpus.clean import prepare_corpus
    from myna.data.shards import Shard, prepare_tokens
    from myna.roads.build import describe_plan, plan_model, prepare_ngram, tokenizer_options

    machine.set_threads(recipe.build.threads or machine.usable_cores())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        corpus = prepare_corpus(inputs, folder / "corpus", recipe.clean, recipe.split, valid, test)
        tokenizer, tokens = prepare_tokens(corpus, folder / "tokens", tokenizer_options(recipe))
        baseline = prepare_ngram(tokens, tokenizer, folder / "ngram", recipe.ngram)
        shards = {name: Shard.open(tokens, name) for name in ("train", "valid", "test")}
        plan = plan_model(recipe, shards, tokenizer, baseline, time.monotonic() - began)
    print(json.dumps(dataclasses.asdict(plan), ensure_ascii=False) if args.json else describe_plan(plan))
    return 0
