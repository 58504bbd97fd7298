"""Placeholders of a text: what must stand in its translation as it is, because a program puts something in its place.

    {name} {} {0:d} ${HOME} {{ x }} {% if %}     braces: Python, ICU, shells, Jinja
    %s %(count)d %1 %1$s                         printf and Qt
    <b> </a> <br/>  https://...  $VAR            tags, addresses, variables

    masked = mask("{count} files of <b>{name}</b>")
    masked.parts                          # (0, " files of ", 1, 2, 3)
    masked.found                          # ("{count}", "<b>", "{name}", "</b>")
    mask("<b>{name}</b>", masked.found).parts      # (1, 2, 3): the same numbers
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_FORMS = (
    r"\{\{[^{}\n]{0,200}\}\}", r"\{%[^{}\n]{0,200}%\}",  # Jinja
    r"\$?\{[^{}\s]{0,60}\}",  # a name, a number, a format, or nothing, in braces
    r"%\([A-Za-z_][\w.]{0,60}\)[-#0+ ]?[0-9.]{0,6}[A-Za-z]",  # printf with a name
    r"%[0-9]{1,2}(?:\$[a-z])?", r"%[sdifuxXgeEcr](?![A-Za-z])",  # Qt and printf; no letter after it, or "5 %share" would hold one
    r"</?[A-Za-z][^<>\n]{0,200}>",  # tags
    r"https?://[^\s<>()\[\]{}\"'\u3000-\u303f\uff00-\uffef]{0,400}[^\s<>()\[\]{}\"'.,:;!?\u3000-\u303f\uff00-\uffef]",
    r"\$[A-Za-z_]\w{0,60}")
_PATTERN = re.compile("|".join(_FORMS), re.ASCII)


class Masked(NamedTuple):
    """A text in parts: its stretches, and the numbers of the placeholders between them."""

    parts: tuple[str | int, ...]
    found: tuple[str, ...]
    "The placeholders by their numbers."
    strange: tuple[str, ...] = ()
    "Those that are not among the given ones; they stand in the stretches."

    @property
    def used(self) -> frozenset[int]:
        """The numbers that stand in the text."""
        return frozenset(part for part in self.parts if isinstance(part, int))


def find_placeholders(text: str) -> list[str]:
    """List the placeholders of a text in their order."""
    return [match.group() for match in _PATTERN.finditer(text)]


def mask(text: str, given: Sequence[str] | None = None, most: int | None = None) -> Masked:
    """Number the placeholders of a text in their order; of a translation, as the source has them.

    given: the source's, of which each is taken once; others stay text and are listed as strange. most: how many are numbered; the rest
    stays text.
    """
    parts: list[str | int] = []
    found: list[str] = list(given or ())
    strange: list[str] = []
    free = list(range(len(found)))
    end = 0
    for match in _PATTERN.finditer(text):
        spelled = match.group()
        if given is None:
            number = len(found) if most is None or len(found) < most else None
            found += [] if number is None else [spelled]
        else:
            number = next((one for one in free if found[one] == spelled), None)
        if number is None:
            strange.append(spelled)
            continue
        if given is not None:
            free.remove(number)
        parts += [text[end : match.start()], number] if match.start() > end else [number]
        end = match.end()
    if end < len(text):
        parts.append(text[end:])
    return Masked(tuple(parts), tuple(found), tuple(strange))


def keeps_placeholders(source: str, target: str) -> bool:
    """Tell whether a translation holds the source's placeholders, each as often, and no other."""
    return sorted(find_placeholders(source)) == sorted(find_placeholders(target))
