"""Broken text is mended, text that is not broken is left alone, and bytes add up."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myna.corpus.normalize import normalize
from myna.corpus.piece import Piece


def run(text: str) -> tuple[str, Counter[str], Counter[str]]:
    """Normalise UTF-8 text and check the account."""
    dropped, rewritten = Counter[str](), Counter[str]()
    piece = normalize(Piece.verbatim(text, 0, "utf-8"), dropped, rewritten)
    assert piece.size() + sum(dropped.values()) == len(text.encode("utf-8", "ignore")) + sum("\udc00" <= c <= "\udcff" for c in text)
    return piece.text, dropped, rewritten


@pytest.mark.parametrize("text", [
    "全角ＡＢＣ，“引号”——《书》…！", "‘curly’ “quotes” – ﬁ ﬂ ½ &amp; &lt;", "naïve café “é à” Ã", "Привет её ёлка", "Zażółć gęślą jaźń"])
def test_sound_text_is_untouched(text: str) -> None:
    """Full-width forms, quotes, ligatures and entities are not mojibake."""
    assert run(text) == (text, Counter(), Counter())


@pytest.mark.parametrize(("text", "codec"), [
    ("C'était à la forêt", "latin-1"), ("C'était à la forêt", "cp1252"), ("深入学习自然语言", "latin-1"), ("“quoted – it’s", "cp1252")])
def test_mojibake_is_repaired(text: str, codec: str) -> None:
    """UTF-8 read as Latin-1 or Windows-1252 comes back."""
    broken = text.encode().decode(codec)
    cleaned, dropped, rewritten = run(f"before\n{broken}\nafter")
    assert cleaned == f"before\n{text}\nafter"
    assert not dropped and set(rewritten) == {"mojibake"}


def test_controls_and_line_ends() -> None:
    """Controls go, line ends become newlines, joiners stay."""
    cleaned, dropped, rewritten = run("a\0b\r\nc\rd\u2028e\ufefff\u200dg\u200bh\x85i\ufffdj\udcffk\tl")
    assert cleaned == "ab\nc\nd\nef\u200dgh\nijk\tl"
    assert dropped == {"control characters": 1, "zero-width characters": 6, "replacement characters": 3, "invalid utf-8": 1}
    assert rewritten == {"line endings": 4}


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60))
def test_the_result_is_nfc_and_stable(text: str) -> None:
    """Any text becomes NFC without controls; bytes add up (checked in run)."""
    cleaned, _, _ = run(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(c in cleaned for c in "\0\r\ufeff\ufffd")


@settings(deadline=None)
@given(st.text(alphabet="e\u0301\u0323a\u1100\u1161\u11a8\u212b中\u09c7\u09be\n", max_size=30))
def test_composition_equals_unicodedata(text: str) -> None:
    """Cluster by cluster gives what the standard library gives for the whole text."""
    assert run(text)[0] == unicodedata.normalize("NFC", text)
