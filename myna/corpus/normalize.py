"""Normalise text: mojibake repaired, line ends made \\n, invisible and control characters dropped, NFC.

Every step is a list of edits on a piece, so the map to source bytes stays exact. Clean text, the usual case, passes on
three regular-expression searches. Mojibake is `ftfy`'s heuristic (Robyn Speer, 2015), with everything switched off that
rewrites text which is not broken: full-width forms, curly quotes, ligatures and HTML entities stay as they are.

    dropped, rewritten = Counter(), Counter()
    normalize(Piece.verbatim("schÃ¶n\\r\\n", 0, "utf-8"), dropped, rewritten).text     # 'schön\\n'
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

from myna.corpus.piece import Edit, Piece, edit

# Line ends beside \n; C0 and C1 controls except tab and newline; soft hyphen; zero-width space and word joiner (joiners that
# shape words, U+200C and U+200D, stay); byte-order mark; interlinear marks and U+FFFD; noncharacters; stand-ins for bad bytes.
_REMOVED = re.compile(
    "(?P<line>\r\n?|[\v\f\x85\u2028\u2029])|(?P<bad>[\ud800-\udfff]+)|(?P<lost>\ufffd+)"
    "|(?P<control>[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]+)|(?P<hidden>[\xad\u200b\u2060\ufeff]+)")
# One class for all of them: a search for it runs ten times faster than one for the alternatives above.
_ANY_REMOVED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2028\u2029\u2060\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff9-\uffff]+")
_REASONS = {"lost": "replacement characters", "control": "control characters", "hidden": "zero-width characters"}
_LINE = re.compile("[^\n]+")
_LONG_LINE = 4096  # characters given to ftfy at a time; it takes several passes over what it is given


def normalize(piece: Piece, dropped: Counter[str], rewritten: Counter[str]) -> Piece:
    """Return the normalised piece; adds dropped bytes and rewritten characters by kind.

    Mojibake goes first, because its characters include controls.
    """
    if not piece.text.isascii() and _mojibake_filter().search(piece.text):
        piece = _rewrite(piece, _mojibake_edits(piece.text), "mojibake", dropped, rewritten)
    if _ANY_REMOVED.search(piece.text):
        edits = list(_removals(piece.text, piece.codec))
        rewritten["line endings"] += sum(1 for e in edits if not e.reason)
        piece = edit(piece, edits, dropped)
    if not unicodedata.is_normalized("NFC", piece.text):
        piece = _rewrite(piece, _composition_edits(piece.text), "NFC", dropped, rewritten)
    if not rewritten["line endings"]:
        del rewritten["line endings"]
    return piece


def _rewrite(piece: Piece, edits: Iterator[Edit], kind: str, dropped: Counter[str], rewritten: Counter[str]) -> Piece:
    found = list(edits)
    if not found:
        return piece
    rewritten[kind] += sum(e.end - e.start for e in found)
    return edit(piece, found, dropped)


def _removals(text: str, codec: str) -> Iterator[Edit]:
    for run in _ANY_REMOVED.finditer(text):
        start, end = run.span()
        if text[start:end + 1] == "\r\n":  # by far the most frequent
            yield Edit(start, end + 1, "\n", "")
            continue
        for match in _REMOVED.finditer(text, start, end + (text[end - 1:end + 1] == "\r\n")):
            kind = match.lastgroup
            if kind == "line":
                yield Edit(match.start(), match.end(), "\n", "")
            elif kind == "bad":
                yield Edit(match.start(), match.end(), "", f"invalid {codec.replace('big5hkscs', 'big5')}")
            else:
                yield Edit(match.start(), match.end(), "", _REASONS[kind or ""])


@functools.cache
def _mojibake_filter() -> re.Pattern[str]:
    """Match a place where UTF-8 may have been read as a single-byte encoding: a lead byte's character, then continuations'.

    ftfy's own test costs 100 times more, so it sees only the lines that pass this one.
    """
    from ftfy.chardata import CHARMAP_ENCODINGS

    leads, follows, patterns = set("ÂÃ"), {" "}, ["(?<=[ÂÃ]) "]  # a no-break space (0xA0) has often become a space
    for codec in CHARMAP_ENCODINGS:
        two, three, four, follow = (
            {c for byte in range(first, last) if (c := bytes([byte]).decode(codec, "ignore")) >= "\x80"}
            for first, last in ((0xC2, 0xE0), (0xE0, 0xF0), (0xF0, 0xF5), (0x80, 0xC0)))
        leads |= two | three | four
        follows |= follow
        one, loose = _character_class(follow), _character_class(follow | {" "})
        patterns += [f"(?<={_character_class(two)}){one}", f"(?<={_character_class(three)}){one}{loose}",
                     f"(?<={_character_class(four)}){one}{loose}{loose}"]
    # One class in front and one ahead let the search skip quickly over everything else.
    return re.compile(f"{_character_class(leads)}(?={_character_class(follows)})(?:{'|'.join(patterns)})")


def _character_class(characters: set[str]) -> str:
    return "[" + "".join(re.escape(c) for c in sorted(characters)) + "]"


def _mojibake_edits(text: str) -> Iterator[Edit]:
    from ftfy import TextFixerConfig, fix_encoding
    from ftfy.badness import is_bad

    config = TextFixerConfig(unescape_html=False, replace_lossy_sequences=False, explain=False, normalization=None)
    suspect = _mojibake_filter()
    for line in _LINE.finditer(text):
        for start in range(line.start(), line.end(), _LONG_LINE):
            old = text[start:min(start + _LONG_LINE, line.end())]
            if not suspect.search(old) or not is_bad(old):
                continue
            new = fix_encoding(old, config)
            if new != old and "\n" not in new:
                yield _smallest(start, old, new)


def _smallest(start: int, old: str, new: str) -> Edit:
    """Leave out what is equal at both ends."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    if head == len(new) - tail:  # nothing is left of the new text: take in an equal neighbour, as an edit needs a character
        head, tail = (head - 1, tail) if head else (head, tail - 1)
    return Edit(start + head, start + len(old) - tail, new[head:len(new) - tail], "")


@functools.cache
def _joining() -> tuple[set[str], set[str]]:
    """List the characters that may join the one before (marks, second halves of compositions) and those NFC replaces alone."""
    marks, singles = {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}, set()
    for code in range(0x80, 0x110000):
        character = chr(code)
        if unicodedata.combining(character):
            marks.add(character)
        elif unicodedata.normalize("NFC", character) != character:
            singles.add(character)
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            marks.add(chr(int(parts[1], 16)))
    return marks, singles


@functools.cache
def _clusters() -> re.Pattern[str]:
    marks, singles = _joining()
    return re.compile(f"{_character_class(marks | singles)}+")


def _composition_edits(text: str) -> Iterator[Edit]:
    for line in _LINE.finditer(text):
        old = line.group()
        if unicodedata.is_normalized("NFC", old):
            continue
        new = unicodedata.normalize("NFC", old)
        edits = []
        for match in _clusters().finditer(old):
            start = max(0, match.start() - 1)  # with the character that the marks belong to
            composed = unicodedata.normalize("NFC", old[start:match.end()])
            if composed != old[start:match.end()]:
                edits.append(Edit(line.start() + start, line.start() + match.end(), composed, ""))
        yield from edits if _applied(old, line.start(), edits) == new else [_smallest(line.start(), old, new)]


def _applied(text: str, start: int, edits: list[Edit]) -> str:
    parts, done = [], 0
    for e in edits:
        parts += [text[done:e.start - start], e.text]
        done = e.end - start
    return "".join([*parts, text[done:]])
