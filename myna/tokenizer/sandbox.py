"""Render a chat template in a process of its own, which has no files, no network, little memory and one second.

The process stays for the next conversation; one that a template has brought to an end is replaced. What happens inside is in
`myna/tokenizer/render.py`.

    sandbox = Sandbox("{% for message in messages %}{{ message.content }}{% endfor %}", {}, "chat_template.jinja")
    sandbox.render([{"role": "user", "content": "hi"}])       # "hi"
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from myna.errors import UserError
from myna.tokenizer.render import MEMORY, MOST_TEXT

_MAX_TEMPLATE = 1 << 20  # characters; the longest published one has about 20,000
_PATIENCE = 30.0  # seconds of waiting: a crowded machine may take long over one second of work
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")  # what Python may need to start, and the time zone
_MOST_BYTES = 6 * MOST_TEXT + 1000  # of an answer: JSON writes a character in at most 12 bytes, most in one
_MOST_TOGETHER = 1 << 19  # characters of conversations in one exchange: in the process they are held four times, in up to 4 bytes each
_ACTION = "use another chat_template.jinja"


class Sandbox:
    """A template and the process that renders it. Safe for several threads."""

    def __init__(self, template: str, variables: Mapping[str, str], where: str) -> None:
        """Keep a template; `variables` are what it may name, such as bos_token, `where` is its file, for messages."""
        if len(template) > _MAX_TEMPLATE:
            raise UserError(f"{where} is {len(template):,} characters long", f"a chat template of at most {_MAX_TEMPLATE:,}")
        self._template, self._variables, self._where = template, dict(variables), where
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: one made by a fork needs its own
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool = False) -> str:
        """Render a conversation. Raises UserError when the template is wrong, refuses it, or wants too much time or memory."""
        return self.render_each([(messages, add_generation_prompt)])[0]

    def render_each(self, conversations: Sequence[tuple[Sequence[Mapping[str, object]], bool]]) -> list[str]:
        """Render several conversations, (messages, add_generation_prompt) each, in few exchanges, which are what takes the time."""
        texts: list[str] = []
        with self._lock:
            for group in _groups(conversations):
                if self._process is None or self._owner != os.getpid():
                    self._start()
                request = [{"messages": list(messages), "add_generation_prompt": asks} for messages, asks in group]
                answer = self._ask(json.dumps(request).encode("ascii") + b"\n").get("texts")
                if not isinstance(answer, list) or len(answer) != len(group) or not all(isinstance(text, str) for text in answer):
                    raise UserError(f"{self._where} gave no text", "", _ACTION)
                texts += answer
        return texts

    def _start(self) -> None:
        found = importlib.util.find_spec("jinja2")
        site = str(Path(found.origin).parent.parent) if found is not None and found.origin else ""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(Path(__file__).with_name("render.py")), site], cwd="/", start_new_session=True,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # start_new_session: Ctrl-C is not for it
        self._owner = os.getpid()
        weakref.finalize(self, _end, self._process, self._owner)
        self._ask(b"")
        self._ask(json.dumps({"template": self._template, "variables": self._variables}).encode("ascii") + b"\n")

    def _ask(self, line: bytes) -> dict[str, Any]:
        """Send a line and read the answer; a process that gives none is ended."""
        process = self._process
        assert process is not None
        try:
            answer = self._exchange(process, line)
        except BaseException:  # an answer still to come must not be taken for the next one
            self._stop(process)
            raise
        if "error" in answer:
            if answer.get("kind") == "memory":  # it ends by itself
                self._stop(process)
            self._fail(str(answer["error"]), str(answer.get("kind")))
        return answer

    def _exchange(self, process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        received = bytearray()
        deadline = time.monotonic() + _PATIENCE
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        with contextlib.suppress(BrokenPipeError):  # it has ended; why is read below
            process.stdin.write(line)
            process.stdin.flush()
        while not received.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or len(received) > _MOST_BYTES:
                self._stop(process)
                self._fail("more than its share of time", "time")
            if poll.poll(left * 1000):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    self._fail_ended(process)
                received += data
        answer = json.loads(received)
        return answer if isinstance(answer, dict) else {}

    def _fail_ended(self, process: subprocess.Popen[bytes]) -> NoReturn:
        code = process.wait()
        if code in (-signal.SIGPROF, -signal.SIGXCPU):
            self._fail("more than one second of work", "time")
        self._fail(f"the process that renders it ended with code {code}", "end")

    def _fail(self, reason: str, kind: str) -> NoReturn:
        if kind == "refused":
            raise UserError(f"the chat template ({self._where}) refuses this conversation: {reason}")
        if kind in ("time", "memory"):
            raise UserError(f"the chat template ({self._where}) was stopped: {reason}",
                            f"one that needs less than a second and {MEMORY >> 20} MiB", _ACTION)
        raise UserError(f"the chat template ({self._where}) cannot be rendered: {reason}", "", _ACTION)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        _end(process, self._owner)
        self._process = None


def _groups(conversations: Sequence[tuple[Sequence[Mapping[str, object]], bool]],
            ) -> Iterator[list[tuple[Sequence[Mapping[str, object]], bool]]]:
    """Put conversations into groups that together fit the process's memory; a long one is a group of its own."""
    group: list[tuple[Sequence[Mapping[str, object]], bool]] = []
    size = 0
    for messages, asks in conversations:
        length = sum(len(str(message.get("content"))) for message in messages)
        if group and size + length > _MOST_TOGETHER:
            yield group
            group, size = [], 0
        group.append((messages, asks))
        size += length
    if group:
        yield group


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a process and take its exit code; one that belongs to another process is left alone."""
    if owner != os.getpid():
        return
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
