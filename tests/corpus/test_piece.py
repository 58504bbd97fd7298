"""Edits keep every byte accounted for and every character mapped."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.corpus.piece import Edit, Piece, edit, width


@settings(deadline=None)
@given(st.text(alphabet="aé中\U0001f600 \n", max_size=40), st.data())
def test_edits_account_for_every_byte(text: str, data: st.DataObject) -> None:
    """Two rounds of random edits: kept + dropped = the source, and untouched characters still point at themselves."""
    for codec in ("utf-8", "gb18030", "utf-16-le"):
        source = text.encode(codec)
        piece, dropped = Piece.verbatim(text, 7, codec), Counter[str]()
        for _ in range(2):
            marks = sorted(data.draw(st.sets(st.integers(0, len(piece.text)), max_size=6)))
            edits = [Edit(a, b, "", "gone") if i % 2 else Edit(a, b, "XY", "") for i, (a, b) in enumerate(itertools.pairwise(marks))]
            piece = edit(piece, edits, dropped)
            assert piece.size() + sum(dropped.values()) == len(source)
        ends = [s.start for s in piece.segments[1:]] + [len(piece.text)]
        for segment, end in zip(piece.segments, ends, strict=True):
            if segment.width == -1:
                expected = piece.text[segment.start:end].encode(codec)
                assert source[segment.offset - 7:segment.offset - 7 + len(expected)] == expected


def test_an_edit_may_not_lose_bytes_silently() -> None:
    """Removing text without a reason is refused."""
    with pytest.raises(ValueError, match="reason"):
        edit(Piece.verbatim("abc", 0, "utf-8"), [Edit(0, 1, "", "")], Counter())


def test_a_bad_byte_is_one_byte_wide() -> None:
    """The stand-in of an undecodable byte counts one."""
    assert width("a\udcff中", "gb18030") == 4
    assert width("a\udcff", "utf-16-le") == 3
