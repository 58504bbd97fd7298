"""Documents cut into passages: as long as allowed, ending where a paragraph does, else a sentence, else a word.

    for start, end in cut_passages(data, 1200):
        print(data[start:end].decode())
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_WHITE = b" \t\r\n\x0b\x0c"
_ENDS = (  # where to cut, the best first: after a blank line, a line, a sentence, a space
    re.compile(rb"\n[ \t\r]*\n+"),
    re.compile(rb"\n+"),
    # alternatives, not classes: these are bytes
    re.compile("(?:[.!?][\"')\\]]*(?=\\s)|(?:。|！|？|；|…)(?:”|’|」|』|）)*)\\s*".encode()),
    re.compile(rb"\s+"),
)
_LEAST_SHARE = 0.5  # of the allowed length: an earlier paragraph's end would make many short passages


def cut_passages(data: bytes, longest: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each passage in the UTF-8 bytes of a document, without white space around; `longest` in bytes."""
    start = 0
    while start < len(data):
        if data[start] in _WHITE:
            start += 1
            continue
        end = len(data) if len(data) - start <= longest else _cut(data, start, longest)
        kept = len(data[start:end].rstrip(_WHITE))
        if kept:
            yield start, start + kept
        start = end


def _cut(data: bytes, start: int, longest: int) -> int:
    """Choose where a passage that begins at `start` ends, at most `longest` bytes later and never inside a character."""
    limit = start + longest
    for pattern in _ENDS:
        last = max((found.end() for found in pattern.finditer(data, start, limit)), default=0)
        if last >= start + _LEAST_SHARE * longest:
            return last
    while data[limit] & 0xC0 == 0x80:  # inside a character
        limit -= 1
    return limit
