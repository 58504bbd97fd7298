"""The `myna` command: finds the command's module, parses its flags, and turns every UserError into one line and exit code 2.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; it is imported only when it is called, so
`myna --help` stays fast.

    main(["generate", "my-model", "Once", "--max-tokens", "64"])     # what the shell's `myna generate ...` calls
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from myna import __version__
from myna.cli.stop import stop_on_signals
from myna.config import Option, make, options_of
from myna.errors import UserError, nearest

T = TypeVar("T")
_LONGEST_CHOICES = 40  # characters of a list of choices that leave room for its flag in 80 columns

COMMANDS = {  # in the order a person meets them
    "fetch": "get a text or a model by name, hash-checked",
    "build": "make a language model from text: the whole road in one command",
    "plan": "say what build would train here, how long, how much memory",
    "tune": "teach a model from conversations or text, or a task from examples",
    "show": "say what a model is, from what it was made and how good it is",
    "generate": "continue a prompt",
    "chat": "talk with a model",
    "evaluate": "measure a model on a file, beside its baseline",
    "compare": "make several families from one text in the same time: one table",
    "clean": "read and clean text, every byte kept or dropped with a reason",
    "tokenize": "make a tokenizer and turn a cleaned corpus into ids",
    "import": "read a GGUF, Whisper, ARPA or vectors file of another tool",
    "export": "write the model for other tools (GGUF, Hugging Face, ARPA)",
    "embed": "turn texts into vectors, by an encoder",
    "similar": "list the words or texts nearest to one, by vectors",
    "index": "make an index of documents, or add to it",
    "search": "find the passages of an index that a question is about",
    "answer": "answer a question from your documents, with the sentence quoted",
    "fill": "fill the blanks of a text, by an encoder",
    "classify": "give texts labels: sentiment, topic, intent",
    "tag": "label words: part of speech, names; find Chinese words",
    "complete": "write the body of a Python function",
    "translate": "translate texts, placeholders kept, by a model of your own pairs",
    "summarize": "make short texts of long ones, of any length",
    "transcribe": "write down what is said in a recording, by Whisper",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors and whose unknown flags name the nearest right one."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}", "", f"see {self.prog} --help")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse flags (dashes and underscores alike, before, between or after the rest); raise UserError on any that is not known."""
        end = argv.index("--") if "--" in argv else len(argv)
        argv = [_with_dashes(a) for a in argv[:end]] + argv[end:]
        if {"-h", "--help"} & set(argv[:end]):  # before argparse hides the positional arguments, which it does to mix them with flags
            self.print_help()
            self.exit()
        known = [flag for action in self._actions for flag in action.option_strings]
        for name in (a.split("=")[0] for a in argv[:end] if a.startswith("--") and " " not in a):
            if name not in known:  # argparse would complain of what is missing before it named this
                raise UserError(f"{self.prog}: unknown argument {name}{nearest(name, known)}", "", f"see {self.prog} --help")
        args, extra = self.parse_known_intermixed_args(argv)
        if extra:
            raise UserError(f"{self.prog}: unknown argument {extra[0]}", "", f"see {self.prog} --help")
        return args

    def format_usage(self) -> str:
        """Name what must be given, in one line; the options are listed below it."""
        needed = [f"{a.option_strings[-1]} {a.metavar or a.dest}" for a in self._actions if a.option_strings and a.required]
        return " ".join(["usage:", self.prog, *(_place(a) for a in self._actions if not a.option_strings), *needed, "[OPTIONS]\n"])

    def format_help(self) -> str:
        """Put the one-line usage over argparse's listing."""
        listing = super().format_help()
        return self.format_usage() + "\n" + listing[listing.index("\n\n") + 2:]


def _place(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)


def _with_dashes(argument: str) -> str:
    match = re.match(r"--[A-Za-z][\w.-]*", argument)
    return match.group().replace("_", "-") + argument[match.end():] if match else argument


def add_options(parser: argparse.ArgumentParser, cls: type, section: str = "", leave_out: tuple[str, ...] = ()) -> None:
    """Add a flag for every field of an options dataclass: `--order`, or `--ngram.order` with section 'ngram'."""
    group = parser.add_argument_group(f"{section} options") if section else parser
    for option in (option for option in options_of(cls) if option.name not in leave_out):
        shown = "" if option.default in (None, "", ()) else f" (default {_shown(option.default)})"
        group.add_argument(_flag(section, option.name), dest=f"{section}.{option.name}", default=argparse.SUPPRESS,
                           metavar=_metavar(option), help=(option.help.removesuffix(".") + shown).replace("%", "%%"))


def add_member(parser: argparse.ArgumentParser) -> None:
    """Add the flag that takes one model out of a directory that mixes several."""
    parser.add_argument("--member", metavar="NAME", help="use one member of the directory's mixture alone: decoder, ngram, ...")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says in what numbers a model computes."""
    parser.add_argument("--precision", metavar="NAME", default="float32",
                        help="float32, bfloat16 (half the memory) or int8 (decoders: fast text on a CPU); default float32")


def read_options(args: argparse.Namespace, cls: type[T], section: str = "", recipe: dict[str, dict[str, Any]] | None = None) -> T:
    """Build the options dataclass from its defaults, the recipe's section and the flags given."""
    flags = vars(args)
    given = {option.name: flags[f"{section}.{option.name}"] for option in options_of(cls) if f"{section}.{option.name}" in flags}
    return make(cls, (recipe or {}).get(section, {}), given, where="the flags")


def _flag(section: str, name: str) -> str:
    return "--" + (f"{section}." if section else "") + name.replace("_", "-")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(option: Option) -> str:
    """Name what a flag takes by its type."""
    kind = option.type
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        choices = "|".join(map(str, typing.get_args(kind)))
        return choices if len(choices) <= _LONGEST_CHOICES else "NAME"  # the help names them
    if typing.get_origin(kind) is tuple:
        return "A,B,..."
    return {int: "N", float: "X", bool: "true|false", Path: "PATH"}.get(kind, "TEXT")


def _help() -> str:
    lines = ["myna: text and minutes in; a language model of your own out", ""]
    lines += ["usage: myna COMMAND [ARGUMENTS]   (myna COMMAND --help says more)", ""]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    example = 'example: myna build my-texts/ --minutes 10 --out my-model && myna generate my-model "Once"'
    return "\n".join([*lines, "", example])


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 a user's error, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    _print_any_character()
    try:
        with stop_on_signals():
            code = _run(argv[0], argv[1:]) if argv else _run("help", [])
            sys.stdout.flush()  # here, where a closed pipe can still be answered
            return code
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:  # a stage that has saved says so in its text
        return _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:  # the reader of our output went away (`myna show X | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):  # PyTorch's words
            raise
        return _fail("out of memory; close other programs, or give less text or a smaller model")


def _fail(message: str, code: int = 2) -> int:
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(message.split()))
    print(f"myna: {line}", file=sys.stderr)
    return code


def _print_any_character() -> None:
    """Write UTF-8 where the terminal's encoding cannot hold all text, and never fail on a file name that is no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            try:
                "é你🐦".encode(stream.encoding)
                stream.reconfigure(errors="backslashreplace")
            except UnicodeEncodeError:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _run(name: str, argv: list[str]) -> int:
    if name == "help" and argv:
        name, argv = argv[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"myna {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}{nearest(name, list(COMMANDS))}", "one of " + ", ".join(COMMANDS))
    command = importlib.import_module(f"myna.cli.{name}")
    parser = Parser(prog=f"myna {name}", description=COMMANDS[name][:1].upper() + COMMANDS[name][1:] + ".")
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    try:
        args = parser.parse(argv)
    except SystemExit:  # after --help
        return 0
    result: int = command.run(args)
    return result


def existing(path: str) -> Path:
    """Check that a path given by the user exists."""
    found = Path(path)
    if not found.exists():
        raise UserError(f"no such file or folder: {path}", "text to read or a model directory", "check the path")
    return found
