"""The `myna` command: finds the command's module, parses its flags, and turns every UserError into one line and exit code 2.

A command is a module with `add_arguments(parser)` and `run(args) -> int`; it is imported only when it is called, so
`myna --help` stays fast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from myna.config import make, options_of
from myna.errors import UserError, nearest

T = TypeVar("T")

COMMANDS = {  # in the order a person meets them
    "fetch": "get a text or a model by name, hash-checked",
    "build": "make a language model from text: the whole road in one command",
    "plan": "say what build would train here, how long, how much memory",
    "show": "say what a model is, from what it was made and how good it is",
    "generate": "continue a prompt",
    "evaluate": "measure a model on a file, beside its baseline",
    "clean": "read and clean text, every byte kept or dropped with a reason",
    "tokenize": "make a tokenizer and turn a cleaned corpus into ids",
    "export": "write the model for other tools (GGUF)",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors and whose unknown flags name the nearest right one."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}", "", f"see {self.prog} --help")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse flags (dashes and underscores alike); raise UserError on any that is not known."""
        argv = [_with_dashes(a) for a in argv]
        args, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            name = unknown[0].split("=")[0]
            raise UserError(f"{self.prog}: unknown argument {name}{nearest(name, flags)}", "", f"see {self.prog} --help")
        return args


def _with_dashes(argument: str) -> str:
    match = re.match(r"--[A-Za-z][\w.-]*", argument)
    return match.group().replace("_", "-") + argument[match.end():] if match else argument


def add_options(parser: argparse.ArgumentParser, cls: type, section: str = "") -> None:
    """Add a flag for every field of an options dataclass: `--order`, or `--ngram.order` with section 'ngram'."""
    group = parser.add_argument_group(f"{section} options") if section else parser
    for option in options_of(cls):
        shown = "" if option.default is None else f" (default {_shown(option.default)})"
        group.add_argument(_flag(section, option.name), dest=f"{section}.{option.name}", default=argparse.SUPPRESS,
                           metavar=option.name.rsplit("_", 1)[-1].upper(), help=(option.help + shown).replace("%", "%%"))


def read_options(args: argparse.Namespace, cls: type[T], section: str = "", recipe: dict[str, dict[str, Any]] | None = None) -> T:
    """Build the options dataclass from its defaults, the recipe's section and the flags given."""
    flags = vars(args)
    given = {option.name: flags[f"{section}.{option.name}"] for option in options_of(cls) if f"{section}.{option.name}" in flags}
    return make(cls, (recipe or {}).get(section, {}), given, where="the flags")


def _flag(section: str, name: str) -> str:
    return "--" + (f"{section}." if section else "") + name.replace("_", "-")


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _help() -> str:
    lines = ["myna: text and minutes in; a language model of your own out", ""]
    lines += ["usage: myna COMMAND [ARGUMENTS]   (myna COMMAND --help says more)", ""]
    lines += [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    example = 'example: myna build my-texts/ --minutes 10 --out my-model && myna generate my-model "Once"'
    return "\n".join([*lines, "", example])


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 a user's error, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] == "--version":
        from myna import __version__

        print(f"myna {__version__}")
        return 0
    try:
        return _run(argv[0], argv[1:])
    except UserError as error:
        print(f"myna: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("myna: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away (`myna show X | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"myna: {error.strerror or error}{where}", file=sys.stderr)
        return 2


def _run(name: str, argv: list[str]) -> int:
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}{nearest(name, list(COMMANDS))}", "one of " + ", ".join(COMMANDS))
    command = importlib.import_module(f"myna.cli.{name}")
    parser = Parser(prog=f"myna {name}", description=COMMANDS[name].capitalize() + ".")
    command.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    result: int = command.run(parser.parse(argv))
    return result


def existing(path: str) -> Path:
    """Check that a path given by the user exists."""
    found = Path(path)
    if not found.exists():
        raise UserError(f"no such file or folder: {path}", "text to read or a model directory", "check the path")
    return found
