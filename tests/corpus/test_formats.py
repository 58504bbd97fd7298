"""Each format gives its text and nothing else, and accounts for every byte."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from myna.corpus.html import read_html
from myna.corpus.piece import Drop, End, Piece
from myna.corpus.tables import Item, Notes, read_csv, read_jsonl, read_parquet
from myna.corpus.wiki import read_wiki
from myna.files import BrokenFileError


def account(items: list[Item], source: bytes, extra: Counter[str]) -> list[str]:
    """Check bytes and verbatim offsets against the source; returns the documents."""
    total, documents, open_text = sum(extra.values()), [], ""
    for item in items:
        if isinstance(item, Drop):
            total += item.size
        elif isinstance(item, End):
            documents.append(open_text)
            open_text = ""
        else:
            total += item.size()
            open_text += item.text
            ends = [s.start for s in item.segments[1:]] + [len(item.text)]
            for segment, end in zip(item.segments, ends, strict=True):
                expected = item.text[segment.start:end].encode()
                assert segment.width != -1 or source[segment.offset:segment.offset + len(expected)] == expected
    assert total == len(source)
    return documents


def test_jsonl() -> None:
    """Escapes, other fields, broken rows, blank lines, no final newline."""
    source = ('{"id": 1, "text": "a\\nb\\u4e2d\\ud83d\\ude00x\\ud800\\\\"}\nbad\n{"text":"中文","m":{"text":[1,2]}}\n\n{"x":1}\n[1]\n'
              + '{"text": "' + "[" * 5000 + '"}\n{"text": ' + "[" * 200000 + '\n{"text": "tail')
    notes = Notes()
    documents = account(list(read_jsonl(iter([Piece.verbatim(source, 0, "utf-8")]), "", notes)), source.encode(), Counter())
    assert documents == ["a\nb中\U0001f600x\ufffd\\", "中文", "[" * 5000]
    assert (notes.column, notes.bad_rows, notes.first_bad_line) == ("text", 5, 2)


def test_jsonl_key() -> None:
    """A given key wins; without usual names the widest string is the text."""
    source = '{"a": "short", "b": "a longer string"}\n'
    for key, expected in (("", "a longer string"), ("a", "short")):
        items = list(read_jsonl(iter([Piece.verbatim(source, 0, "utf-8")]), key, Notes()))
        assert account(items, source.encode(), Counter()) == [expected]


@pytest.mark.parametrize(("source", "tab", "column", "expected"), [
    ('id,note,body\n1,x,"hello, ""you""\nb"\n3,y,中文\n', False, "body", ['hello, "you"\nb', "中文"]),
    ("1;a long enough text here\n2;another long one\n", False, "column 2", ["a long enough text here", "another long one"]),
    ('id\ttext\n1\tsays "no\n2\tb\n', True, "text", ['says "no', "b"]),
    ("id,remark\n1,this is certainly the text column\n", False, "remark", ["this is certainly the text column"]),
])
def test_csv(source: str, tab: bool, column: str, expected: list[str]) -> None:
    """The text column is found, with or without a header; only its bytes are counted."""
    notes = Notes()
    items = list(read_csv(iter([Piece.verbatim(source, 0, "utf-8")]), "", notes, tab=tab))
    assert account(items, "".join(expected).encode(), Counter()) == expected
    assert notes.column == column


def test_csv_bad_rows() -> None:
    """A row without the text column is dropped, counted, with its line."""
    notes = Notes()
    items = list(read_csv(iter([Piece.verbatim("id,text\n1,a\nlonely\n2,b\n", 0, "utf-8")]), "", notes))
    assert [item.text for item in items if isinstance(item, Piece)] == ["a", "b"]
    assert (notes.bad_rows, notes.first_bad_line) == (1, 3)
    assert notes.bytes == 2 + len("lonely\n")


def test_parquet(tmp_path: Path) -> None:
    """String columns by batches; nulls are skipped; a file without strings or with damage is refused."""
    path, notes = tmp_path / "a.parquet", Notes()
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["one", None, "三"]}), path, row_group_size=2)
    assert account(list(read_parquet(path, "", notes)), "one三".encode(), Counter()) == ["one", "三"]
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(BrokenFileError, match="strings"):
        list(read_parquet(path, "", Notes()))
    path.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(BrokenFileError, match="damaged"):
        list(read_parquet(path, "", Notes()))


PAGE = """<!DOCTYPE html><html><head><title>t</title><style>p{}</style></head><body><nav><a href="/">home</a></nav>
<h1>Title  of &lt;it&gt;</h1>
<p>Hello   <b>world</b> &amp; you, <a href="x>y">link</a> in text, 3 < 4 <中>.
Next line</p><p><a href=a>only</a> <a href=b>links</a></p><ul><li>one<li>two</ul><pre>a
  b</pre><script>if(a<b){"</p>"}</script><article><header>Head</header></article><footer>foot</footer><p>中文。</p></body></html>"""


def test_html() -> None:
    """Paragraphs in, boilerplate out."""
    dropped = Counter[str]()
    pieces = list(read_html(Piece.verbatim(PAGE, 0, "utf-8"), dropped))
    text = "".join(piece.text for piece in pieces)
    assert text == ("Title of <it>\n\nHello world & you, link in text, 3 < 4 <中>. Next line\n\none\ntwo\n\na\n  b\n\nHead\n\n中文。\n\n")
    account([*pieces], PAGE.encode(), dropped)
    assert set(dropped) == {"markup", "boilerplate"}


@pytest.mark.parametrize("unit", ["<a b='", "<!--", "<a \"", "<", "<p", "</", "<script>", "&#", "<!", "<nav>", "</nav>", "&amp", "<a <"])
def test_hostile_html_is_accounted_for(unit: str) -> None:
    """Unfinished constructs, many times over: all bytes accounted for (a quadratic parser would take an hour here)."""
    source, dropped = unit * 100_000, Counter[str]()
    pieces = list(read_html(Piece.verbatim(source, 0, "utf-8"), dropped))
    assert sum(piece.size() for piece in pieces) + sum(dropped.values()) == len(source)


WIKITEXT = """{{Infobox|a=[[b]]}}
'''Anarchism''' is a [[political philosophy|philosophy]] &amp; [[movement]]s.&lt;ref name="x"&gt;cite&lt;/ref&gt; See [http://x.org a link].
* item [[File:x.jpg|thumb|cap [[a]]]] one
== History ==
{| class=x
|cell
|}
中文''斜体''文字。&lt;small&gt;小&lt;/small&gt; [[分类:x]]
"""
DUMP = ('<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><page><title>A</title><ns>0</ns><revision><text bytes="5">' + WIKITEXT
        + "</text></revision></page><page><title>T</title><ns>1</ns><revision><text>talk</text></revision></page>"
        '<page><ns>0</ns><redirect title="x"/><revision><text>#REDIRECT [[x]]</text></revision></page></mediawiki>\n')


@pytest.mark.parametrize("step", [7, 50, 100000])
def test_wiki(step: int) -> None:
    """Articles without markup; talk pages and redirects dropped under their names; offsets point into the dump."""
    source, dropped = DUMP.encode(), Counter[str]()
    items = list(read_wiki((source[i:i + step] for i in range(0, len(source), step)), dropped))
    assert account(items, source, dropped) == [
        "Anarchism is a philosophy & movements. See a link.\n item  one\n History \n\n中文斜体文字。小 \n"]
    assert {item.reason for item in items if isinstance(item, Drop)} == {"markup", "other namespace", "redirect"}


def test_wiki_broken_and_hostile() -> None:
    """A cut dump keeps its whole pages; entity declarations and other XML are refused."""
    items: list[Item] = []
    with pytest.raises(BrokenFileError, match="well-formed"):
        for item in read_wiki([DUMP[:len(DUMP) // 2 + 200].encode()], Counter()):
            items.append(item)
    assert sum(isinstance(item, Piece) for item in items) == 1
    with pytest.raises(BrokenFileError, match="document type"):
        list(read_wiki([b'<!DOCTYPE a [<!ENTITY b "c">]><mediawiki>&b;</mediawiki>'], Counter()))
    with pytest.raises(BrokenFileError, match="not a MediaWiki"):
        list(read_wiki([b"<rss></rss>"], Counter()))
    with pytest.raises(BrokenFileError, match="megabyte"):
        list(read_wiki([b"<mediawiki a='" + b"x" * 3_000_000], Counter()))
