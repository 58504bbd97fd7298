"""The smallest parts of a text that a word may begin or end at, and how words are put together to a text again.

A character of a script without spaces (Han, Kana, Thai and the like) is an atom; so is a run of other letters and digits, with an
apostrophe or hyphen inside it (don't, e-mail); so is any other sign. In text with spaces atoms are words already; in Chinese a word is
one atom or several.

    [text[start:end] for start, end in find_atoms("佢send咗e-mail!")]      # ["佢", "send", "咗", "e-mail", "!"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from myna.tokenizer.scripts import unspaced_class

# Wide forms of ASCII, and the stop, as what they are forms of: data has "," where a text has "，", or the other way round.
WIDTHS: dict[int, int | str] = {**{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}, ord("。"): "."}
_RUN = rf"(?:(?![{unspaced_class()}])[\w\u0300-\u036f])+"
_ATOM = re.compile(rf"{_RUN}(?:['’-]{_RUN})*|\S")
_RUNNING = re.compile(rf"(?![{unspaced_class()}])[\w\u0300-\u036f'’-]")


def find_atoms(text: str) -> list[tuple[int, int]]:
    """List the (start, end) of a text's atoms, in characters; spaces are none."""
    return [match.span() for match in _ATOM.finditer(text)]


def join_words(words: Sequence[str], spaced: bool) -> tuple[str, list[int]]:
    """Write words as a text, and say where each begins: with a space between any two, or only where two would run together."""
    starts, parts, at, before = [], [], 0, ""
    for word in words:
        if before and (spaced or (_RUNNING.match(before[-1:]) and _RUNNING.match(word[:1]))):
            parts.append(" ")
            at += 1
        starts.append(at)
        parts.append(word)
        at += len(word)
        before = word
    return "".join(parts), starts
