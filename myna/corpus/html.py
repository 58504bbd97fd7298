"""Take the text out of an HTML page: paragraphs kept, markup and boilerplate dropped, every byte accounted for.

A tokenizer that goes through the page once (the standard library's parser takes quadratic time on hostile pages) finds
tags; block elements become paragraphs; navigation, forms, scripts and the like are boilerplate, and so is a block whose
characters are mostly links (Kohlschütter, Fankhauser, Nejdl, "Boilerplate Detection using Shallow Text Features",
WSDM 2010, algorithm 2: link density above 1/3).

    for item in read_html(Piece.verbatim("<p>Hello&amp;<b>you</b></p>", 0, "utf-8"), dropped):
        print(item.text)     # 'Hello&you\\n\\n'
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from myna.corpus.piece import Edit, Piece, edit

MAX_HTML = 8 << 20  # bytes of one page; the largest real articles have about 2 MB, and a page is held in memory
_LINK_DENSITY = 1 / 3
_MAX_DEPTH = 512  # open boilerplate elements that are told apart, as in browsers
_MAX_BLOCK = 65536  # characters of one block that are held before it is decided
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html",
    "legend", "li", "main", "menu", "nav", "ol", "option", "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot",
    "th", "thead", "tr", "ul"))
_LINES = frozenset(("li", "td", "th", "tr", "dt", "dd", "br", "option"))  # blocks that end a line, not a paragraph
_SKIPPED = frozenset(("nav", "header", "footer", "aside", "form", "button", "select", "svg", "template", "dialog", "menu", "noscript",
                      "iframe", "object"))
_RAW = frozenset(("script", "style", "title", "textarea", "xmp", "noembed", "noframes", "math"))  # dropped with what they hold
_TAG = re.compile(r"""[^>"']*+(?:"[^"]*+"[^>"']*+|'[^']*+'[^>"']*+)*+>""")
_NAME = re.compile(r"/?[A-Za-z][^\s/>]*")
_OPEN = re.compile(r"<(?=/?[A-Za-z]|[!?])")  # any other '<' is text
_DATA = re.compile(r"(?P<space>[ \t\r\n\f]+)|(?P<entity>&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]{1,31});?)")
_TAG_FAILURES = 16  # quotes left open; afterwards a tag simply ends at the next '>', which keeps the time linear


@dataclass
class _Block:
    """The edits of one block, undecided until it ends."""

    start: int
    edits: list[Edit] = field(default_factory=list)
    characters: int = 0
    linked: int = 0
    spaced: bool = True  # the text so far ends in a space or is empty


class _Page:
    """Where we are in a page: open boilerplate elements, links, preformatted text."""

    def __init__(self, page: Piece, dropped: Counter[str]) -> None:
        self.page, self.dropped = page, dropped
        self.block = _Block(0)
        self.skipping: list[str] = []
        self.articles = self.links = self.preformatted = 0

    def flush(self, at: int, ending: str) -> Iterator[Piece]:
        """End the block at character `at`."""
        block, self.block = self.block, _Block(at)
        if at == block.start:
            return
        piece = _part(self.page, block.start, at)
        if self.skipping or block.linked > _LINK_DENSITY * block.characters:
            yield edit(piece, [Edit(0, at - block.start, "", "boilerplate")], self.dropped)
            return
        piece = edit(piece, [Edit(e.start - block.start, e.end - block.start, e.text, e.reason) for e in block.edits], self.dropped)
        if ending:
            end = len(piece.text.rstrip(" ")) if not self.preformatted else len(piece.text)
            piece = edit(piece, [Edit(end, len(piece.text), ending if block.characters else "", "markup")], self.dropped)
        yield piece

    def data(self, start: int, end: int) -> None:
        """Take in text: runs of white space become one space, entities their character."""
        text, block = self.page.text, self.block
        visible = end - start
        for match in _DATA.finditer(text, start, end):
            a, b = match.span()
            if match.lastgroup == "space":
                visible -= b - a
                if self.preformatted:
                    continue
                lone = block.spaced if a == start else False
                if lone:
                    block.edits.append(Edit(a, b, "", "markup"))
                elif b - a > 1 or text[a] != " ":
                    block.edits.append(Edit(a, a + 1, " ", ""))
                    if b - a > 1:
                        block.edits.append(Edit(a + 1, b, "", "markup"))
            else:
                value = html.unescape(match.group())
                if value != match.group():
                    block.edits.append(Edit(a, b, value, ""))
        if end > start:
            block.spaced = text[end - 1] in " \t\r\n\f"
        block.characters += visible
        block.linked += visible if self.links else 0


def read_html(page: Piece, dropped: Counter[str]) -> Iterator[Piece]:
    """Yield the paragraphs of a page in order; dropped bytes are added to `dropped` by reason.

    page: the whole page as one verbatim piece. Each piece ends in a blank line, a table cell or list item in a newline.
    """
    state = _Page(page, dropped)
    for kind, start, end, name in _tokens(page.text):
        if kind == "data":
            for part in range(start, end, _MAX_BLOCK):
                stop = min(part + _MAX_BLOCK, end)
                state.data(part, stop)
                if stop - state.block.start >= _MAX_BLOCK:
                    yield from state.flush(stop, "")
            continue
        closing = name.startswith("/")
        name = name.lstrip("/").lower()
        if name in _BLOCKS or name in _SKIPPED:
            yield from state.flush(start, "\n" if name in _LINES else "\n\n")
            _enter(state, name, closing)
        elif name == "a":
            state.links = 0 if closing else 1
        reason = "boilerplate" if name in _RAW or state.skipping else "markup"
        state.block.edits.append(Edit(start, end, "", reason))
    yield from state.flush(len(page.text), "\n")


def _enter(state: _Page, name: str, closing: bool) -> None:
    if name in ("article", "main"):
        state.articles = max(0, state.articles + (-1 if closing else 1))
    elif name == "pre":
        state.preformatted = max(0, state.preformatted + (-1 if closing else 1))
    elif name in _SKIPPED:
        titled = name in ("header", "footer") and state.articles  # an article's own header holds its title
        if not closing and not titled and len(state.skipping) < _MAX_DEPTH:
            state.skipping.append(name)
        elif closing and name in state.skipping:
            while state.skipping.pop() != name:
                pass
    elif name == "body" and not closing:
        state.skipping.clear()


def _tokens(text: str) -> Iterator[tuple[str, int, int, str]]:
    """Yield ('data' or 'tag', start, end, name) covering the whole text once, in order."""
    at = failures = 0
    size = len(text)
    while at < size:
        opening = _OPEN.search(text, at)
        if opening is None:
            yield "data", at, size, ""
            return
        begin = opening.start()
        if begin > at:
            yield "data", at, begin, ""
        if text.startswith("<!--", begin):
            end, name = _after(text, "-->", begin + 4), "!"
        elif text[begin + 1] in "!?" or not (match := _NAME.match(text, begin + 1)):
            end, name = _after(text, ">", begin + 1), "!"
        else:
            name = match.group()
            found = _TAG.match(text, match.end()) if failures < _TAG_FAILURES else None
            failures += found is None
            end = found.end() if found else _after(text, ">", match.end())
            if name.lower() in _RAW:
                close = re.compile(f"</{name}", re.IGNORECASE).search(text, end)
                end = close.start() if close else size
        yield "tag", begin, end, name
        at = end


def _after(text: str, mark: str, at: int) -> int:
    found = text.find(mark, at)
    return found + len(mark) if found >= 0 else len(text)


def _part(page: Piece, start: int, end: int) -> Piece:
    """Cut characters [start, end) out of a page that is read from front to back; its first segment moves along."""
    offset = page.segments[0].offset
    piece = Piece.verbatim(page.text[start:end], offset, page.codec)
    page.segments[0] = page.segments[0]._replace(offset=offset + piece.size())
    return piece
