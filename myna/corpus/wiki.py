"""Read a MediaWiki XML dump as a stream: the articles, without markup, each character with its place in the dump.

expat goes through the XML without ever holding it and refuses document type declarations, so entities cannot expand.
`mwparserfromhell` parses the wikitext; what a reader of the page would see is kept, templates, tables, references, files
and categories are dropped as markup, redirects and pages outside the main namespace under their own names.

    for item in read_wiki([open("dump.xml", "rb").read()], dropped):
        print(item)      # a Drop, a Piece, END
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from xml.parsers import expat

from myna.corpus.piece import END, VERBATIM, Drop, Edit, End, Piece, Segment, edit
from myna.files import BrokenFileError

_MAX_PAGE = 4 << 20  # characters; MediaWiki itself refuses pages over 2 MiB ($wgMaxArticleSize)
_MAX_TOKEN = 1 << 20  # bytes expat may hold without giving an event; real tags have a few hundred
_MAX_PARSE = 65536  # characters given to mwparserfromhell at a time, cut before a heading or after a paragraph
_FEED = 65536
_DROPPED_TAGS = frozenset((
    "ref", "references", "gallery", "math", "chem", "score", "timeline", "imagemap", "table", "syntaxhighlight", "source", "graph",
    "templatestyles", "mapframe", "maplink", "script", "style"))
_DROPPED_LINKS = frozenset((
    "file", "image", "media", "category", "文件", "檔案", "档案", "图像", "圖像", "分类", "分類", "datei", "kategorie", "fichier",
    "catégorie", "archivo", "categoría", "файл", "категория", "ファイル", "カテゴリ"))
_HEADING = re.compile(r"\n(?==)")
_BLANKS = re.compile(r"\n{3,}")


class _Pages:
    """Collects the pages of the dump from expat's events."""

    def __init__(self) -> None:
        self.parser: Any = expat.ParserCreate()
        self.parser.buffer_text = False
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.items: list[Piece | Drop | End] = []
        self.counted = 0  # source bytes given away so far
        self.path: list[str] = []
        self.values: dict[str, str] = {}
        self.redirect = False
        self.parts: list[tuple[str, int]] = []
        self.length = 0

    def _doctype(self, *_: object) -> None:
        raise BrokenFileError("XML with a document type declaration, which is not a MediaWiki dump")

    def _start(self, name: str, _: dict[str, str]) -> None:
        name = name.rsplit("}", 1)[-1]
        self.path.append(name)
        if len(self.path) == 1 and name != "mediawiki":
            raise BrokenFileError("XML that is not a MediaWiki dump")
        if name == "page":
            self.values, self.redirect = {}, False
        elif name == "redirect":
            self.redirect = True
        elif name == "text":
            self.parts, self.length = [], 0

    def _data(self, data: str) -> None:
        if self.path and self.path[-1] == "text":
            self.length += len(data)
            if self.length <= _MAX_PAGE:
                self.parts.append((data, self.parser.CurrentByteIndex))
        elif self.path and self.path[-1] in ("ns", "title"):
            self.values[self.path[-1]] = (self.values.get(self.path[-1], "") + data)[:1000]

    def _end(self, _: str) -> None:
        name = self.path.pop()
        if name != "text" or "page" not in self.path:
            return
        at = self.parser.CurrentByteIndex
        start = self.parts[0][1] if self.parts else at
        reason = ("page too long" if self.length > _MAX_PAGE else "redirect" if self.redirect
                  else "other namespace" if self.values.get("ns", "0").strip() != "0" else "")
        self.items.append(Drop(start - self.counted, "markup"))
        if reason:
            self.items.append(Drop(at - start, reason))
        elif self.parts:
            self.items += [_page(self.parts, at), END]
        self.counted = at
        self.parts = []


def _page(parts: list[tuple[str, int]], end: int) -> Piece:
    """Join expat's events; one whose source is longer than its text was an entity or a Windows line end."""
    segments: list[Segment] = []
    made = 0
    for (text, at), (_, after) in zip(parts, [*parts[1:], ("", end)], strict=True):
        verbatim = after - at == len(text.encode("utf-8"))
        joined = verbatim and segments and segments[-1].width == VERBATIM
        if not joined:
            segments.append(Segment(made, at, VERBATIM if verbatim else after - at))
            if not verbatim and len(text) > 1:
                segments.append(Segment(made + 1, after, 0))
        made += len(text)
    return Piece("".join(text for text, _ in parts), "utf-8", segments)


def read_wiki(chunks: Iterable[bytes], dropped: Counter[str]) -> Iterator[Piece | Drop | End]:
    """Yield the articles of a dump; bytes dropped inside articles are added to `dropped`.

    Raises BrokenFileError after the last whole page when the XML is not well formed.
    """
    pages = _Pages()
    read = 0
    broken: BrokenFileError | None = None
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), _FEED):
                part = chunk[start:start + _FEED]
                read += len(part)
                pages.parser.Parse(part, False)
                if read - max(0, pages.parser.CurrentByteIndex) > _MAX_TOKEN:
                    raise BrokenFileError("a tag of more than a megabyte")
                yield from _cleaned(pages, dropped)
        pages.parser.Parse(b"", True)
    except expat.ExpatError as error:
        broken = BrokenFileError(f"not well-formed XML at line {error.lineno} ({expat.errors.messages.get(error.code, 'error')})")
    except BrokenFileError as error:
        broken = error
    yield from _cleaned(pages, dropped)
    yield Drop(read - pages.counted, "unreadable" if broken else "markup")
    if broken:
        raise broken


def _cleaned(pages: _Pages, dropped: Counter[str]) -> Iterator[Piece | Drop | End]:
    items, pages.items = pages.items, []
    for item in items:
        if isinstance(item, Piece):
            yield strip_markup(item, dropped)
        else:
            yield item


def strip_markup(page: Piece, dropped: Counter[str]) -> Piece:
    """Return a page's wikitext as plain text; the bytes of markup are added to `dropped`."""
    edits: list[Edit] = []
    at = 0
    while at < len(page.text):
        end = _section_end(page.text, at)
        _strip_section(page.text, at, end, edits)
        at = end
    page = edit(page, edits, dropped)
    start = len(page.text) - len(page.text.lstrip("\n"))
    blanks = [Edit(m.start() + 2, m.end(), "", "markup") for m in _BLANKS.finditer(page.text, start)]
    return edit(page, [Edit(0, start, "", "markup"), *blanks] if start else blanks, dropped)


def _section_end(text: str, at: int) -> int:
    if len(text) - at <= _MAX_PARSE:
        return len(text)
    cut = max((m.end() for m in _HEADING.finditer(text, at + 1, at + _MAX_PARSE)), default=0)
    cut = cut or text.rfind("\n\n", at + 1, at + _MAX_PARSE) + 2
    return cut if cut > at + 2 else at + _MAX_PARSE


def _strip_section(text: str, start: int, end: int, edits: list[Edit]) -> None:
    import mwparserfromhell

    source = text[start:end]
    try:
        code = mwparserfromhell.parse(source)
    except (mwparserfromhell.parser.ParserError, RecursionError):
        return  # hopeless markup: the section stays as it is
    if str(code) == source:
        _walk(code, start, edits)


def _walk(code: Any, at: int, edits: list[Edit]) -> None:
    """Add the edits that leave of each node only what a reader sees. str(node) is the node's exact source."""
    from mwparserfromhell import nodes

    for node in code.nodes:
        size = len(str(node))
        inner: Any = None
        offset = 0
        if isinstance(node, nodes.Text):
            at += size
            continue
        if isinstance(node, nodes.HTMLEntity):
            try:
                edits.append(Edit(at, at + size, node.normalize(), ""))
            except (ValueError, KeyError):
                edits.append(Edit(at, at + size, "", "markup"))
        else:
            if isinstance(node, nodes.Wikilink):
                if node.title.split(":", 1)[0].strip().lower() not in _DROPPED_LINKS or ":" not in node.title:
                    inner = node.title if node.text is None else node.text
                    offset = size - 2 - len(str(inner))
            elif isinstance(node, nodes.ExternalLink):
                inner = node.title if node.brackets else node.url
                offset = size - 1 - len(str(inner)) if node.brackets else 0
            elif isinstance(node, nodes.Heading):
                inner, offset = node.title, node.level
            elif isinstance(node, nodes.Tag) and str(node.tag).strip().lower() not in _DROPPED_TAGS and not node.self_closing:
                inner = node.contents
                offset = len(node.wiki_markup) if node.wiki_markup else size - len(str(inner)) - len(str(node.closing_tag)) - 3
            _keep(node, inner, at, offset, size, edits)
        at += size


def _keep(node: Any, inner: Any, at: int, offset: int, size: int, edits: list[Edit]) -> None:
    """Drop a node but for `inner`, which lies `offset` characters into it."""
    kept = "" if inner is None else str(inner)
    if not kept or not str(node).startswith(kept, offset):
        edits.append(Edit(at, at + size, "", "markup"))
        return
    if offset:
        edits.append(Edit(at, at + offset, "", "markup"))
    _walk(inner, at + offset, edits)
    if offset + len(kept) < size:
        edits.append(Edit(at + offset + len(kept), at + size, "", "markup"))
