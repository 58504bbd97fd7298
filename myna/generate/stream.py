"""Turn token bytes into text as they come: whole characters only, and nothing of a stop string.

A byte-level token may end in the middle of a character, and a model may write bytes that are no text at all. Bytes that
may still become a character wait; bytes that cannot are dropped and counted, as is U+FFFD, the mark of a character that
was already broken in what the model learned from. A reader therefore never sees U+FFFD. (Unicode 16, section 3.9.6,
"U+FFFD substitution of maximal subparts", says where a broken sequence ends.)

    stream = TextStream(stop=["END"])
    stream.feed("你".encode()[:2])      # ""
    stream.feed("你".encode()[2:])      # "你"
    stream.feed(b"ok EN")               # "ok ": EN may become END
    stream.feed(b"D!")                  # "", and stream.stopped is True
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of one row. `stopped` tells that a stop string was met, `dropped` how many bytes were no text."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stop = tuple(stop)
        self.stopped = False
        self.dropped = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._held = ""  # text that may be the beginning of a stop string

    def feed(self, data: bytes) -> str:
        """Take a token's bytes; return the text that is now certain."""
        return self._release(self._decode(data))

    def finish(self) -> str:
        """Take the end of the text; return what was held back. Bytes of an unfinished character count as dropped."""
        text = self._release(self._decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _decode(self, data: bytes, final: bool = False) -> str:
        waiting = len(self._decoder.getstate()[0])
        decoded = self._decoder.decode(data, final)
        text = decoded.replace(_BROKEN, "")
        self.dropped += waiting + len(data) - len(text.encode()) - len(self._decoder.getstate()[0])
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        # of several stop strings the one complete first wins, so the cut does not depend on how text falls into tokens
        found = [(at + len(stop), at) for stop in self.stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        cut = len(text) - max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[cut:]
        return text[:cut]


def _overlap(text: str, stop: str) -> int:
    """Measure the longest end of `text` that is a beginning of `stop`."""
    return next((length for length in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:length])), 0)
