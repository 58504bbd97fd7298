"""`myna generate DIR [PROMPT]`: continue a prompt with any model, or answer it with one that learned from pairs (T5, Marian, BART).

    myna generate my-model "Once upon a time" --max-tokens 64 --seed 1
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from myna.cli.main import add_member, add_options, add_precision, read_options
from myna.config import make
from myna.console import say
from myna.errors import UserError
from myna.generate.options import SampleOptions

if TYPE_CHECKING:
    from myna.generate.rules import Rules
    from myna.generate.text import Stream

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna generate`."""
    parser.add_argument("model", metavar="DIR", help="model directory, or the name of a fetched model")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", default="",
                        help="text to continue; - reads standard input (less one final newline); none begins a new document")
    add_sampling(parser)
    add_member(parser)
    add_precision(parser)
    parser.add_argument("--no-echo", action="store_true", help="print the continuation without the prompt")


def add_sampling(parser: argparse.ArgumentParser, leave_out: tuple[str, ...] = ()) -> None:
    """Add the flags of `SampleOptions`, less those left out, with --stop, --greedy and --use-suggested."""
    # a stop string may hold a comma, so each is a flag of its own in the place of one flag with a list
    sampling: Any = parser.add_argument_group("sampling", conflict_handler="resolve")
    add_options(sampling, SampleOptions, leave_out=leave_out)
    sampling.add_argument("--stop", dest=".stop", action="append", default=argparse.SUPPRESS, metavar="TEXT",
                          help=r"end before this text; may be given several times; \n, \t and \\ are understood")
    sampling.add_argument("--greedy", action="store_true", help="always take the likeliest token (the same as --temperature 0)")
    sampling.add_argument("--use-suggested", action="store_true",
                          help="take what the directory's generation_config.json suggests where no flag says otherwise")


def run(args: argparse.Namespace) -> int:
    """Generate: text on standard output as it comes, a line with the speed on standard error."""
    options = read_sampling(args)
    prompt = read_prompt(args.prompt)
    from myna.api import load

    model = load(args.model, args.member, args.precision)
    options = take_suggested(args, options, model.rules)
    stream = model.stream(prompt, **asdict(options))
    shown = "" if args.no_echo or model.rules.source else prompt
    began = time.monotonic()
    interrupted = False
    try:
        _stream(stream, shown, live=options.n == 1 and not args.json)
    except KeyboardInterrupt:
        interrupted = True
        for generation in stream.generations:
            generation.finish_reason = generation.finish_reason or "interrupted"
    seconds = time.monotonic() - began
    if args.json:
        print(json.dumps(_result(prompt, options, stream, seconds), ensure_ascii=False, allow_nan=False))
    elif options.n == 1:
        print()
    else:
        for number, generation in enumerate(stream.generations, 1):
            print(f"--- {number} of {options.n} ({generation.finish_reason})\n{shown}{generation}")
    _say_speed(options, stream, seconds)
    return 130 if interrupted else 0


def read_sampling(args: argparse.Namespace) -> SampleOptions:
    """Read the flags of `add_sampling`; a seed that is not given is drawn."""
    flags = vars(args)
    if ".stop" in flags:
        flags[".stop"] = [re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], text) for text in flags[".stop"]]
    options = read_options(args, SampleOptions)
    if args.greedy:
        if ".temperature" in flags and options.temperature != 0:
            raise UserError(f"--greedy with --temperature {options.temperature:g}", "one of the two")
        options = replace(options, temperature=0.0)
    # the seed is drawn here, so that it can be said and the text be had again
    return replace(options, seed=secrets.randbits(32)) if options.seed is None else options


def take_suggested(args: argparse.Namespace, options: SampleOptions, rules: Rules) -> SampleOptions:
    """Take what the directory suggests, on request; say what it suggests otherwise, and what is not done."""
    given = {name.removeprefix(".") for name in vars(args)} | ({"temperature", "top_p", "top_k", "min_p"} if args.greedy else set())
    wanted = {name: value for name, value in rules.suggested.items() if name not in given}
    for line in (replace(rules, suggested={}) if args.use_suggested else replace(rules, suggested=wanted)).say():
        say(line)
    if not args.use_suggested or not wanted:
        return options
    say("as generation_config.json suggests: " + ", ".join(f"{name} {value:g}" for name, value in wanted.items()))
    return make(SampleOptions, {**asdict(options), **wanted})


def read_prompt(prompt: str) -> str:
    """Return a text given on the command line; - reads standard input. Raises UserError when that is not UTF-8."""
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 ({error.reason} at byte {error.start})", "a text in UTF-8") from None


def _stream(stream: Stream, shown: str, live: bool) -> None:
    if live:
        print(shown, end="", flush=True)
    for _, piece in stream:
        if live:
            print(piece, end="", flush=True)


def _result(prompt: str, options: SampleOptions, stream: Stream, seconds: float) -> dict[str, Any]:
    tokens = sum(len(generation.tokens) for generation in stream.generations)
    return {"prompt": prompt, "options": asdict(options), "generations": [asdict(generation) for generation in stream.generations],
            "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / max(seconds, 1e-9)}


def _say_speed(options: SampleOptions, stream: Stream, seconds: float) -> None:
    tokens = sum(len(generation.tokens) for generation in stream.generations)
    ended = ", ".join(sorted({generation.finish_reason for generation in stream.generations}))
    say(f"{tokens:,} tokens in {seconds:.1f} s ({tokens / max(seconds, 1e-9):,.0f} tokens/s) · ended by {ended} · seed {options.seed}")
    dropped = sum(generation.dropped_bytes for generation in stream.generations)
    if dropped:
        say(f"{dropped:,} bytes that are no UTF-8 were generated and left out")
