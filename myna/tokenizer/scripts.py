"""Writing systems of characters: which parts of a text cost how many tokens, and which are written without spaces.

By ranges of code points, after the blocks of the Unicode Character Database (Blocks.txt, 16.0). Blocks are coarser than
the Script property but need no table of 160,000 characters; a block that is not listed counts as "other".

    script_ids("a中")   # array([1, 9], dtype=uint8): positions in SCRIPTS
"""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

_RANGES = {
    "other": (),
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2AF), (0x1E00, 0x1EFF),
              (0x2C60, 0x2C7F), (0xA720, 0xA7FF), (0xAB30, 0xAB6F), (0xFB00, 0xFB06), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x65F), (0x66A, 0x6EF), (0x6FA, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Indic": ((0x900, 0xDFF), (0xA8E0, 0xA8FF)),
    "Southeast Asian": ((0xE00, 0x109F), (0x1780, 0x17FF), (0x19E0, 0x19FF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xFFA0, 0xFFDC)),
    "Han": ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F)),
    "digits": ((0x30, 0x39), (0x660, 0x669), (0x6F0, 0x6F9), (0xFF10, 0xFF19)),
    "space": ((0x00, 0x20), (0x7F, 0xA0), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F), (0x3000, 0x3000)),
    "punctuation": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E), (0xA1, 0xA9), (0xAB, 0xB9), (0xBB, 0xBF), (0xD7, 0xD7),
                    (0xF7, 0xF7), (0x2010, 0x2027), (0x2030, 0x205E), (0x3001, 0x3004), (0x3008, 0x3020), (0x302A, 0x303F),
                    (0xFE10, 0xFE6F), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65)),
    "symbols": ((0x2070, 0x2BFF), (0xFE00, 0xFE0F), (0xFFE0, 0xFFEE), (0x1F000, 0x1FAFF)),
}  # a later entry wins where two overlap
SCRIPTS = tuple(_RANGES)
INSIDE, LETTER, UNSPACED_LETTER, SPACE, LINE, SIGN = range(6)  # what stands at an end of a token, see `edges`
UNSPACED = tuple(SCRIPTS.index(name) for name in ("Han", "Kana", "Southeast Asian"))


@functools.cache
def _table() -> npt.NDArray[np.uint8]:
    table = np.zeros(0x110000, dtype=np.uint8)
    for number, ranges in enumerate(_RANGES.values()):
        for first, last in ranges:
            table[first : last + 1] = number
    return table


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Give the code points of a text as an array."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def utf8_lengths(points: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Count the UTF-8 bytes of each code point: 1 to 4."""
    return 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)


def script_ids(text: str) -> npt.NDArray[np.uint8]:
    """Give the script of each character, as a position in SCRIPTS."""
    return _table()[code_points(text)]


def byte_scripts(text: str) -> npt.NDArray[np.uint8]:
    """Give the script of each UTF-8 byte: that of its character."""
    points = code_points(text)
    return np.repeat(_table()[points], utf8_lengths(points))


def unspaced_bytes(text: str) -> int:
    """Count the bytes of characters of scripts that are written without spaces between words."""
    if text.isascii():
        return 0
    return int(np.isin(byte_scripts(text), UNSPACED).sum())


def unspaced_class() -> str:
    """Give the ranges of scripts without spaces for the inside of a regular expression's brackets."""
    return "".join(f"{chr(first)}-{chr(last)}" for number in UNSPACED for first, last in _RANGES[SCRIPTS[number]])


def unspaced_points() -> npt.NDArray[np.bool_]:
    """Tell of every code point whether its script is written without spaces between words."""
    return np.isin(_table(), UNSPACED)


def edges(piece: bytes) -> tuple[int, int]:
    """Say what a token's bytes begin and end with: INSIDE a character, a LETTER (or digit), UNSPACED_LETTER, SPACE, LINE or SIGN.

    A token that begins with the first bytes of a character begins as the first such character would: E4 is Han, C3 a letter.
    """
    if not piece:
        return SIGN, SIGN
    last = next((i for i in range(len(piece) - 1, -1, -1) if piece[i] & 0xC0 != 0x80), -1)
    if last < 0:
        return INSIDE, INSIDE
    whole = len(piece) - last >= _length(piece[last])
    return _edge(piece) if piece[0] & 0xC0 != 0x80 else INSIDE, _edge(piece[last:]) if whole else INSIDE


def _length(first: int) -> int:
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _edge(piece: bytes) -> int:
    fill = {0xE0: b"\xa0", 0xF0: b"\x9f"}.get(piece[0], b"\x80") if len(piece) == 1 else b""
    character = (piece + fill + b"\x80\x80")[: _length(piece[0])].decode("utf-8", "replace")[0]
    if character in "\n\r\x85\u2028\u2029":
        return LINE
    if character.isspace():
        return SPACE
    if not character.isalnum():
        return LETTER if unicodedata.category(character).startswith("M") else SIGN  # an accent goes on with its letter
    return UNSPACED_LETTER if int(_table()[ord(character)]) in UNSPACED else LETTER
