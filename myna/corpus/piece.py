"""A piece of text whose every character knows how many source bytes it came from, and where.

Cleaning is a series of edits on pieces. Because an edit keeps the map, two promises cost nothing more: bytes in =
bytes kept + bytes dropped, exactly, and any cleaned character leads back to its source bytes.

    piece = Piece.verbatim("caf\\u00e9\\r\\n", offset=100, codec="cp1252")
    dropped = Counter()
    piece = edit(piece, [(4, 6, "\\n", "")], dropped)     # one character from two bytes; nothing dropped
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

VERBATIM = -1  # width of a segment whose characters have the length that the codec gives them
BAD_BYTES = "myna-bad-bytes"  # the codec error handler that turns each undecodable byte b into U+DC00 + b
_BAD = re.compile("[\udc00-\udcff]")


class Segment(NamedTuple):
    """The characters from `start` to the next segment: the first lies at source byte `offset`, each is `width` bytes long."""

    start: int
    offset: int
    width: int


class Edit(NamedTuple):
    """Replace characters [start, end). With a reason, the characters' bytes are dropped; without, they are rewritten."""

    start: int
    end: int
    text: str
    reason: str


_segment = Segment._make  # half the time of the constructor


@dataclass(slots=True)
class Piece:
    """Text with its segments, in order, the first starting at 0. An empty text has no segments that matter."""

    text: str
    codec: str
    segments: list[Segment]

    @classmethod
    def verbatim(cls, text: str, offset: int, codec: str) -> Piece:
        """Wrap text exactly as `codec` reads it at `offset`."""
        return cls(text, codec, [Segment(0, offset, VERBATIM)])

    def size(self) -> int:
        """Count the source bytes of all characters."""
        ends = [s.start for s in self.segments[1:]] + [len(self.text)]
        return sum(self.length(s, s.start, end) for s, end in zip(self.segments, ends, strict=True))

    def length(self, segment: Segment, start: int, end: int) -> int:
        """Count the source bytes of characters [start, end) of one segment."""
        return width(self.text[start:end], self.codec) if segment.width == VERBATIM else segment.width * (end - start)


@dataclass(slots=True)
class Drop:
    """Source bytes that give no text at all."""

    size: int
    reason: str


class End:
    """The end of a document."""


END = End()


def _bad_bytes(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start:error.end]), error.end
    raise error


codecs.register_error(BAD_BYTES, _bad_bytes)


def width(text: str, codec: str) -> int:
    """Count the bytes of `text` in `codec`; a character that stands for an undecodable byte counts one."""
    if text.isascii() and not codec.startswith("utf-16"):
        return len(text)
    try:
        return len(text.encode(codec))
    except UnicodeEncodeError:
        good = _BAD.sub("", text)
        return len(text) - len(good) + len(good.encode(codec, "replace"))


def edit(piece: Piece, edits: Iterable[Edit], dropped: Counter[str]) -> Piece:
    """Apply edits, which are in order and do not overlap; add dropped bytes to `dropped` by reason.

    The first character of a rewritten stretch takes the bytes of the whole stretch.
    """
    if len(piece.segments) == 1 and piece.segments[0].width == VERBATIM:
        return _edit_verbatim(piece, edits, dropped)
    parts: list[str] = []
    segments: list[Segment] = []
    walk = _Walk(piece)
    made = 0  # characters written
    done = 0  # characters read
    for start, end, text, reason in edits:
        if start > done:
            made = walk.copy(start, segments, made)
            parts.append(piece.text[done:start])
        offset, size = walk.skip(end)
        if reason:
            dropped[reason] += size
            size = 0
        if text:
            segments.append(Segment(made, offset, size))
            if len(text) > 1:
                segments.append(Segment(made + 1, offset + size, 0))
            parts.append(text)
            made += len(text)
        elif size:
            raise ValueError("an edit that removes text needs a reason")
        done = end
    if done < len(piece.text):
        walk.copy(len(piece.text), segments, made)
        parts.append(piece.text[done:])
    return Piece("".join(parts), piece.codec, segments or [Segment(0, piece.segments[0].offset, VERBATIM)])


def _edit_verbatim(piece: Piece, edits: Iterable[Edit], dropped: Counter[str]) -> Piece:
    """Do what `edit` does where the piece is one verbatim segment, the usual case, in a third of the time."""
    source, codec = piece.text, piece.codec
    plain = source.isascii() and not codec.startswith("utf-16")
    parts: list[str] = []
    segments: list[Segment] = []
    made = done = 0
    offset = piece.segments[0].offset
    for start, end, text, reason in edits:
        if start > done:
            segments.append(_segment((made, offset, VERBATIM)))
            parts.append(source[done:start])
            made += start - done
            offset += start - done if plain else width(source[done:start], codec)
        size = end - start if plain else width(source[start:end], codec)
        if reason:
            dropped[reason] += size
        if text:
            segments.append(_segment((made, offset, 0 if reason else size)))
            if len(text) > 1:
                segments.append(_segment((made + 1, offset + size, 0)))
            parts.append(text)
            made += len(text)
        elif not reason:
            raise ValueError("an edit that removes text needs a reason")
        offset += size
        done = end
    if done < len(source):
        segments.append(_segment((made, offset, VERBATIM)))
        parts.append(source[done:])
    return Piece("".join(parts), codec, segments or [_segment((0, piece.segments[0].offset, VERBATIM))])


class _Walk:
    """Steps through a piece's segments once, however many edits there are."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.row = 0
        self.at = 0
        self.offset = piece.segments[0].offset

    def copy(self, until: int, segments: list[Segment], made: int) -> int:
        """Append the segments of [at, until) as they are, starting at output character `made`; returns the next one."""
        while self.at < until:
            segment = self.piece.segments[self.row]
            end = min(until, self._end())
            segments.append(Segment(made, self.offset, segment.width))
            made += end - self.at
            self._step(end)
        return made

    def skip(self, until: int) -> tuple[int, int]:
        """Pass over [at, until); returns its source offset and size."""
        self._enter()
        first, size = self.offset, 0
        while self.at < until:
            before = self.offset
            end = min(until, self._end())
            size += self._step(end) - before
            self._enter()
        return first, size

    def _end(self) -> int:
        after = self.row + 1
        return self.piece.segments[after].start if after < len(self.piece.segments) else len(self.piece.text)

    def _step(self, end: int) -> int:
        """Advance to character `end` of this segment; returns the source offset just after what was passed."""
        segment = self.piece.segments[self.row]
        self.offset += self.piece.length(segment, self.at, end)
        self.at = end
        passed = self.offset
        self._enter()
        return passed

    def _enter(self) -> None:
        while self.row + 1 < len(self.piece.segments) and self.at >= self.piece.segments[self.row + 1].start:
            self.row += 1
            self.offset = self.piece.segments[self.row].offset
