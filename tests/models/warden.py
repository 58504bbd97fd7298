"""Open directories in child processes of one warm process, each with little memory and time; nothing they do gets out unseen.

Started as `python -m tests.models.warden`; a line of JSON in ({"folder", "prompt", "bytes"}), a line out ({"code", "said", "printed",
"seen", "seconds"}). A code below 0 is a signal, 124 a time-out.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

SECONDS = 5.0
SPARE = 512 << 20
_WATCHED = ("exec", "compile", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.__new__",
            "socket.bind", "ctypes.dlopen", "shutil.rmtree", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.chmod", "os.putenv")
_OWN = tuple(str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, Path(__file__).parents[2]))


def main() -> None:
    """Serve until the input ends."""
    sys.dont_write_bytecode = True  # a first import in a fresh checkout would write beside the source

    import myna.api
    import myna.cli.generate
    import myna.cli.show
    import myna.models.decoder_files
    import myna.models.encoder_decoder_files
    import myna.models.encoder_files
    import myna.models.record  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        sys.__stdout__.write(json.dumps(_watch(request)) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


def _watch(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait, and tell what became of it."""
    out, into = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(out)
        _run(request, into)
    os.close(into)
    answer, ended = b"", False
    while not ended and time.monotonic() - began < 3 * SECONDS:  # CPU time is what is limited; a machine may be busy
        if select.select([out], [], [], 0.5)[0]:
            piece = os.read(out, 1 << 16)
            answer, ended = answer + piece, not piece
    if not ended:
        os.kill(child, signal.SIGKILL)
    os.close(out)
    status = os.waitpid(child, 0)[1]
    seconds = time.monotonic() - began
    if not ended:
        return {"code": 124, "said": "", "printed": "", "seen": [], "seconds": seconds}
    try:
        return {**json.loads(answer), "seconds": seconds}
    except ValueError:
        return {"code": -os.WTERMSIG(status) or 1, "said": answer.decode("utf-8", "replace")[-300:], "printed": "", "seen": [],
                "seconds": seconds}


def _run(request: dict[str, Any], into: int) -> None:
    """Be the child: limits, the audit hook, the commands; never returns."""
    import io

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2 * int(request["bytes"]) + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS), int(SECONDS) + 1))
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            seen.append(f"writes {arguments[0]}")
        elif event in ("exec", "compile"):
            code = arguments[0]
            name = getattr(code, "co_filename", None) or str(arguments[1] if len(arguments) > 1 else "")
            if not name.startswith(_OWN) and not name.startswith("<"):
                seen.append(f"{event} {name}")
        elif event == "import" and str(arguments[0]).split(".")[0].endswith("_trap"):
            seen.append(f"import {arguments[0]}")
        elif event in _WATCHED:
            seen.append(f"{event} {str(arguments)[:80]}")

    sys.addaudithook(hook)
    try:
        code = _use(request["folder"], request["prompt"])
    except BaseException:  # what a person would see as a traceback
        code = 1
        traceback.print_exc()
    answer = {"code": code, "said": sys.stderr.getvalue(), "printed": sys.stdout.getvalue(), "seen": seen}
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(into, data):]
    os._exit(0)


def _use(folder: str, prompt: str) -> int:
    """Generate four tokens and show the directory; the first refusal ends it. (Templates have tests of their own: their sandbox.)"""
    from myna.cli.main import main as myna

    return myna(["generate", folder, prompt, "--max-tokens", "4", "--greedy", "--seed", "1", "--json"]) or myna(["show", folder])


if __name__ == "__main__":
    main()
