"""`myna chat MODEL`: talk with a model in the terminal, or answer one message a line from a pipe.

    myna chat my-model --system "Answer briefly." --max-tokens 200
    echo "Who are you?" | myna chat my-model --greedy
    cat questions.txt | myna chat my-model --json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from myna.cli.generate import add_sampling, read_sampling, take_suggested
from myna.cli.main import add_member, add_precision
from myna.console import say
from myna.errors import UserError, nearest
from myna.files import write_atomic
from myna.generate.options import SampleOptions

if TYPE_CHECKING:
    from myna.generate.chat import Conversation

_ONE_TEXT = ("n", "num_beams", "length_penalty", "penalty_alpha", "max_tokens")  # an answer is one text, of a length of its own
_MAX_TOKENS = 512  # own choice: about 400 words of English, so that few answers are cut
_MAX_FILE = 64 << 20  # bytes of a conversation to load: far more than any model can see
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a model says must not move the cursor or ring the bell
_COMMANDS = {
    "/help": "this list",
    "/system": "TEXT: set the system prompt; without a text, show it",
    "/undo": "take back the last message and its answer",
    "/regenerate": "draw another answer to the last message",
    "/reset": "forget the conversation, keep the system prompt",
    "/save": "FILE: write the conversation as JSON lines, which `myna tune` can read",
    "/load": "FILE: go on with a saved conversation",
    "/quit": "end, as Ctrl-D does",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `myna chat`."""
    parser.add_argument("model", metavar="MODEL", help="model directory, or the name of a fetched model")
    parser.add_argument("--system", metavar="TEXT", default="", help="what the model is told before the first message")
    parser.add_argument("--max-tokens", dest=".max_tokens", metavar="N", default=str(_MAX_TOKENS),
                        help=f"draw at most this many tokens for an answer (default {_MAX_TOKENS})")
    parser.add_argument("--index", metavar="DIR", help="read the best passages of an index before an answer, and name their files")
    parser.add_argument("--passages", metavar="N", type=int, default=3, help="--index: passages read for an answer at most (default 3)")
    add_sampling(parser, leave_out=_ONE_TEXT)
    add_member(parser)
    add_precision(parser)


def run(args: argparse.Namespace) -> int:
    """Talk: with a person in a terminal, else an answer for every line of standard input."""
    given = ".seed" in vars(args)
    options = read_sampling(args)
    from myna.api import load

    model = load(args.model, args.member, args.precision)
    options = take_suggested(args, options, model.rules)
    talk = model.conversation(**_sampling(options))
    talk.system = args.system
    if args.index:
        from myna.tasks.chat import Background
        from myna.tasks.search import Searcher

        talk.background = Background(Searcher.open(Path(args.index)), model.tokenizer, talk.longest, args.passages)
    if talk.template.is_default:
        say(f"{model.folder} never learned from conversations, so expect little: "
            f"`myna tune {model.folder} CONVERSATIONS --out DIR` teaches it, `myna generate` continues a text")
    with _Interrupts() as interrupts:
        if args.json or not sys.stdin.isatty():
            _answer_lines(talk, interrupts, args.json)
        else:
            say(f"{model.folder.name} · /help lists what else can be said, Ctrl-C stops an answer, Ctrl-D ends"
                + (f" · seed {options.seed}" if given else ""))
            _Dialogue(talk, interrupts).hold()
    return 0


def _sampling(options: SampleOptions) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name != "n"}


class _Interrupts:
    """Ctrl-C: while an answer is written the first one only asks for its end; elsewhere, and the second, it ends the command."""

    def __init__(self) -> None:
        self.answering = self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        self._old = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.answering and not self.asked:
            self.asked = True
            return
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        """Take the next Ctrl-C as the end of an answer."""
        self.answering, self.asked = True, False
        try:
            yield
        finally:
            self.answering = False


def _answer_lines(talk: Conversation, interrupts: _Interrupts, as_json: bool) -> None:
    """Answer every line of standard input, in one conversation; empty lines are none. Ctrl-C ends all."""
    for line in _lines():
        talk.ask(line)
        began = time.monotonic()
        with interrupts.answer():
            for piece in talk.answer(lambda: interrupts.asked):
                if not as_json:
                    print(piece, end="", flush=True)
        last = talk.last
        if as_json:
            result = {"message": line, "answer": talk.messages[-1]["content"], "finish_reason": last.finish_reason,
                      "tokens": len(last.tokens), "prompt_tokens": talk.prompt_tokens, "tokens_read": talk.read, "left_out": talk.left_out,
                      "dropped_bytes": last.dropped_bytes, "seed": talk.options.seed, "seconds": time.monotonic() - began}
            if talk.background is not None:
                result["sources"] = [{"file": hit.file, "offset": hit.offset, "text": hit.text} for hit in talk.background.hits]
            print(json.dumps(result, ensure_ascii=False, allow_nan=False), flush=True)
        else:
            print(flush=True)
        _say_end(talk)
        if interrupts.asked:
            raise KeyboardInterrupt


def _lines() -> Iterator[str]:
    for number, data in enumerate(sys.stdin.buffer, 1):
        try:
            line = data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"line {number} of standard input is not UTF-8 ({error.reason} at byte {error.start})",
                            "one message a line") from None
        if line.strip():
            yield line


def _say_end(talk: Conversation) -> None:
    """Say what a reader could not see: from which files it is, that an answer was cut, that something was left out."""
    if talk.background is not None:
        places = dict.fromkeys(f"{hit.file}, byte {hit.offset:,}" for hit in talk.background.hits)
        say("(read: " + "; ".join(places) + ")" if places else "(nothing in the index was read)")
        if talk.background.cut:
            say("(of that passage only the beginning had room)")
        if talk.background.left_out:
            say(f"({talk.background.left_out} passages more were found and had no room)")
    if talk.last.finish_reason == "length":
        full = len(talk.last.tokens) < talk.options.max_tokens
        say("(cut: the model can hold no more)" if full else f"(cut after {len(talk.last.tokens):,} tokens; --max-tokens allows more)")
    if talk.last.finish_reason == "interrupted":
        say("(stopped; what was said is kept)")
    if talk.left_out:
        say(f"({talk.left_out} oldest messages were left out: the model can see {talk.longest:,} tokens)")
    if talk.last.dropped_bytes:
        say(f"({talk.last.dropped_bytes} bytes that are no UTF-8 were left out)")


class _Dialogue:
    """A conversation with a person: a line is a message, or a command that begins with a slash."""

    def __init__(self, talk: Conversation, interrupts: _Interrupts) -> None:
        self._talk, self._interrupts = talk, interrupts
        self._written: set[Path] = set()

    def hold(self) -> None:
        """Read lines until the end. A UserError is said and the dialogue goes on."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() editing and history
        while True:
            try:
                line = input("\nyou> ").strip()
                if line == "/quit":
                    return
                if line:
                    self._act(line)
            except UserError as error:
                say(f"myna: {error}")
            except (EOFError, KeyboardInterrupt):
                print()
                return

    def _act(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name, rest.strip():
            case "/help", _:
                say("\n".join(f"{command:<12} {text}" for command, text in _COMMANDS.items()))
            case "/system", text:
                if text:
                    self._talk.system = text
                say(f"system prompt: {self._talk.system or 'none'}")
            case "/undo", _:
                said = self._talk.undo()
                say(f"taken back; {len(self._talk.messages)} messages are left" if said else "nothing to take back")
            case "/regenerate", _:
                question = next((m["content"] for m in reversed(self._talk.messages) if m["role"] == "user"), None)
                if question is None:
                    raise UserError("nothing to answer yet", "a message first")
                self._talk.undo()
                self._answer(question)
            case "/reset", _:
                system, self._talk.messages = self._talk.system, []
                self._talk.system = system
                say("the conversation is forgotten" + (", the system prompt kept" if system else ""))
            case "/save", name if name:
                self._save(Path(name))
            case "/load", name if name:
                self._load(Path(name))
            case ("/save" | "/load"), _:
                raise UserError(f"{line} without a file", f"{line} FILE")
            case word, _ if word.startswith("/"):
                raise UserError(f"unknown command {word}{nearest(word, list(_COMMANDS))}", "", "/help lists them")
            case _:
                self._answer(line)

    def _answer(self, text: str) -> None:
        """Ask and print the answer as it comes. A message that has no room is taken back."""
        before = list(self._talk.messages)
        self._talk.ask(text)
        print()
        try:
            with self._interrupts.answer():
                for piece in self._talk.answer(lambda: self._interrupts.asked):
                    print(_CONTROLS.sub("", piece), end="", flush=True)
        except UserError:
            self._talk.messages = before
            raise
        print()
        _say_end(self._talk)

    def _save(self, path: Path) -> None:
        if not self._talk.messages:
            raise UserError("nothing to save yet", "a conversation")
        if path.exists() and path.resolve() not in self._written:
            raise UserError(f"{path} exists", "a new file", "choose another name")
        try:
            write_atomic(path, json.dumps({"messages": self._talk.messages}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None
        self._written.add(path.resolve())
        say(f"saved {len(self._talk.messages)} messages in {path}")

    def _load(self, path: Path) -> None:
        from myna.tokenizer.chat import check_messages

        if not path.is_file() or path.stat().st_size > _MAX_FILE:
            raise UserError(f"{path} is no file" if not path.is_file() else f"{path} is {path.stat().st_size:,} bytes long",
                            "a conversation that /save wrote")
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        try:
            messages = json.loads(lines[0])["messages"]
        except (IndexError, KeyError, TypeError, ValueError, RecursionError):
            raise UserError(f"{path} holds no conversation",
                            '{"messages": [{"role": "user", "content": "..."}, ...]} on its first line') from None
        self._talk.messages = check_messages(messages if isinstance(messages, list) else [])
        others = f"; the first of {len(lines)} conversations" if len(lines) > 1 else ""
        say(f"loaded {len(self._talk.messages)} messages{others}")
