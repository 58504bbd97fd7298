"""Run pip in a process that can start no other: what pip downloads, it can unpack, but nothing of it can run.

A source archive is a programme that pip would run to ask what it holds; it does so in a process of its own, always, and that is refused
here (PEP 578: an audit hook cannot be taken off again). pip then fails, after the download and the check of the hash.

    python -P pip_alone.py download --no-deps --no-binary=:all: --require-hashes -r wanted.txt
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn")


def refuse_processes(event: str, _: tuple[Any, ...]) -> None:
    """Raise PermissionError where a process would be started: pip takes it for a command that is not there."""
    if event.startswith(_STARTS):
        raise PermissionError(f"{event}: nothing of a package runs")


if __name__ == "__main__":
    sys.addaudithook(refuse_processes)
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
