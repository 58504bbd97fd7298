"""The inside of the sandbox: renders one chat template, in a process of its own that can open nothing and ends soon.

`myna/tokenizer/sandbox.py` starts this file as a script. A chat template is somebody else's program, so three walls stand around it:
Jinja's immutable sandbox; a process that has no files, no network and a limited memory; and a clock that ends it after a
second of processor time, in the middle of a native call too. What a template may use is what `transformers` gives it:
`trim_blocks`, `lstrip_blocks`, `break` and `continue`, `{% generation %}`, `raise_exception`, `strftime_now`, and a `tojson` that leaves
HTML characters alone.

One JSON object a line, in and out:

    {"template": "...", "variables": {"bos_token": "<s>"}}                     -> {"ready": true}
    [{"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true}, ...]
                                                                              -> {"texts": ["..."]} or {"error": "...", "kind": "..."}
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

SECONDS = 0.9  # of processor time for one rendering, so that it ends within a second; the longest published template takes 20 ms
MEMORY = 64 << 20  # bytes above what the process holds when it starts
MOST_TEXT = 1 << 21  # characters of one rendered conversation: four times the longest context (128k tokens) of English text
_ERROR = 500  # characters of an error that are passed on


def main() -> None:
    """Read a template, then render conversations until standard input ends."""
    sys.path.append(sys.argv[1])  # where the starting process found jinja2, which -I may hide
    import textwrap  # noqa: F401 - the filter wordwrap imports it late, when no file can be opened any more

    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    environment = _environment(jinja2)
    _warm(environment)
    _close()
    _write({"started": True})
    template, variables = None, dict[str, str]()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _begin_second()
        answer: dict[str, Any]
        try:
            if "template" in request:
                template, variables = _open(jinja2, environment, request["template"]), request["variables"]
                answer = {"ready": True}
            else:
                texts = []
                for conversation in request:
                    _begin_second()
                    texts.append(_render(template, variables | conversation))
                answer = {"texts": texts}
        except MemoryError:
            answer = {"error": f"more than {MEMORY >> 20} MiB of memory", "kind": "memory"}
        except jinja2.TemplateError as error:
            refused = type(error) is jinja2.TemplateError  # by its own raise_exception
            answer = {"error": _first(error), "kind": "refused" if refused else "template"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {_first(error)}", "kind": "template"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answer)
        if answer.get("kind") == "memory":
            return  # what filled the memory may still be there


def _begin_second() -> None:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal has no handler, so the process ends


def _open(jinja2: Any, environment: Any, text: str) -> Any:
    tree = environment.parse(text)
    if any(node.attr.startswith("_") for node in tree.find_all(jinja2.nodes.NSRef)):
        raise jinja2.sandbox.SecurityError("an attribute of a namespace that begins with an underscore")
    return environment.from_string(tree)


def _render(template: Any, values: dict[str, Any]) -> str:
    pieces, length = [], 0
    for piece in template.generate(values | {"tools": None, "documents": None}):
        length += len(piece)
        if length > MOST_TEXT:
            raise ValueError(f"more than {MOST_TEXT:,} characters of text")
        pieces.append(piece)
    return "".join(pieces)


def _environment(jinja2: Any) -> Any:
    """Make the environment of `transformers`, without Jinja's `lipsum`, which no template needs and every attack begins with."""
    class Generation(jinja2.ext.Extension):  # type: ignore[misc]
        """`{% generation %}` marks an answer; it adds nothing to the text."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def refuse(message: object = "") -> None:
        raise jinja2.TemplateError(str(message))

    def make_namespace(*given: Any, **named: Any) -> Any:
        values = dict(*given, **named)
        if any(str(name).startswith("_") for name in values):
            raise jinja2.sandbox.SecurityError("an attribute of a namespace that begins with an underscore")
        return jinja2.utils.Namespace(values)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": refuse, "strftime_now": _now, "namespace": make_namespace, "dict": _make_dict}
    del environment.globals["lipsum"]
    return environment


def _warm(environment: Any) -> None:
    """Use what opens a file when it is first used: codecs, the time zone, the text of an error."""
    environment.from_string("{{ strftime_now('\\n%Y %B') }}{{ [1]|pprint }}{{ [1]|tojson(indent=1) }}").render()
    with contextlib.suppress(Exception):
        environment.from_string("{{ raise_exception('') }}").render()


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _make_dict(*given: Any, **named: Any) -> dict[Any, Any]:
    return dict(*given, **named)


def _close() -> None:
    """Give up files, sockets, children and most memory. A limit that a system does not have is left out; the others stand."""
    try:
        held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        held = 1 << 29  # a system without /proc: more than the process maps there
    limits = {"RLIMIT_AS": held + MEMORY, "RLIMIT_NOFILE": 0, "RLIMIT_FSIZE": 0, "RLIMIT_NPROC": 0, "RLIMIT_CORE": 0}
    for name, limit in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (AttributeError, ValueError, OSError):
            continue


def _write(answer: dict[str, Any]) -> None:
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + 3, resource.RLIM_INFINITY))  # should the timer ever fail
    sys.stdout.buffer.write(json.dumps(answer).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


def _first(error: Exception) -> str:
    return " ".join(str(error)[:_ERROR].split())


if __name__ == "__main__":
    main()
