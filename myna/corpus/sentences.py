"""Where sentences are: after a full stop, question or exclamation mark of Chinese, or one of other scripts before white space.

A full stop after a single letter or a usual abbreviation, or before a small letter, ends nothing; a blank line, and a line that is an
item of a list, does.

    [text[start:end] for start, end in cut_sentences("他来了。她走了！")]      # ["他来了。", "她走了！"]
"""

from __future__ import annotations

import re

_STOPS = re.compile("(?P<spaced>[.!?]+[\"')\\]”’]*)(?=\\s|$)|[。！？；…]+[”’」』）]*|\\n[ \\t]*\\n|\\n(?=[ \\t]*(?:[-*+•]|\\d+[.)])\\s)")
_SHORT = frozenset(("mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "e.g", "i.e", "vol", "fig", "al", "approx", "inc", "ltd", "jr",
                    "sr", "u.s", "u.k"))
_LAST_WORD = re.compile(r"(\S+?)\.+[\"')\]”’]*$")


def cut_sentences(text: str) -> list[tuple[int, int]]:
    """List (start, end) of each sentence, in characters and without white space around it."""
    found: list[tuple[int, int]] = []
    begin = 0
    for stop in _STOPS.finditer(text):
        if stop["spaced"] and _goes_on(text, begin, stop.end()):
            continue
        _append(found, text, begin, stop.end())
        begin = stop.end()
    _append(found, text, begin, len(text))
    return found


def _append(found: list[tuple[int, int]], text: str, begin: int, end: int) -> None:
    part = text[begin:end]
    if kept := part.strip():
        start = begin + len(part) - len(part.lstrip())
        found.append((start, start + len(kept)))


def _goes_on(text: str, begin: int, end: int) -> bool:
    """Tell whether a sentence goes on after a stop at `end`: after an abbreviation, or before a small letter."""
    following = text[end:end + 8].lstrip()[:1]
    if following.islower():
        return True
    word = _LAST_WORD.search(text, max(begin, end - 24), end)
    return word is not None and (word[1].lower() in _SHORT or (len(word[1]) == 1 and word[1].isalpha() and word[1].isupper()))
