"""Ctrl-C and SIGTERM end every command within seconds, also in the middle of a library's long native call.

Python runs a signal's handler only between its own instructions, and learning a vocabulary can keep it in native code for half a
minute. So a thread hears the signal too, through `signal.set_wakeup_fd`, and ends the process when it is still there after a while.
Nothing half-made is left: every stage fills a new directory and renames it last. Training has a handler of its own, which saves;
while that is in place the thread stands back.

    with stop_on_signals():
        work()      # KeyboardInterrupt on the first signal
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 6.0  # seconds; with what a command needs to clean up, an end within 10


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into KeyboardInterrupt, and see to it that the process ends. Only in the main thread; else nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(reader, done), daemon=True)
    watch.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        done.set()
        os.close(writer)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(reader: int, done: threading.Event) -> None:
    """Wait for a signal, then give the process `_PATIENCE` seconds outside of training."""
    with open(reader, "rb", buffering=0) as pipe:
        while numbers := pipe.read(64):
            if not set(numbers) & set(_SIGNALS):
                continue
            patience = _PATIENCE
            while patience > 0:
                if done.wait(0.1):
                    return
                patience = patience - 0.1 if signal.getsignal(signal.SIGTERM) is _interrupt else _PATIENCE
            sys.stderr.write("myna: interrupted\n")
            sys.stderr.flush()
            os._exit(130)
