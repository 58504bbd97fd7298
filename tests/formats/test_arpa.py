r"""ARPA files: every token keeps a word of its own, KenLM reads what is written, and what is broken is one line with its place.

The files tests/models/golden/lmplz*.arpa were written by KenLM's lmplz (commit 4cb443e6) from `corpus(0)` of tests/models/test_ngram.py, a
document a line, id i written as w<i>:

    lmplz -o 4 --discount_fallback < corpus.txt > lmplz.arpa
    lmplz -o 4 --discount_fallback --prune 0 0 1 < corpus.txt > lmplz_pruned.arpa
"""

from __future__ import annotations

import gzip
import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.formats.arpa import Arpa, read_arpa, spell, spell_words, unspell, write_arpa

GOLDEN = Path(__file__).parent.parent / "models" / "golden"
SMALL = """\\data\\
ngram 1=4
ngram 2=3
ngram 3=1

\\1-grams:
-99\t<s>\t-0.3
-0.6\t</s>
-0.5\ta\t-0.25
-0.4\tb\t0.1

\\2-grams:
-0.2\t<s> a\t-0.5
-0.3\ta b\t0
-0.7\ta </s>

\\3-grams:
-0.1\t<s> a b

\\end\\
"""


def grams(arpa: Arpa) -> dict[tuple[str, ...], tuple[float, float]]:
    """Every n-gram as words: (log10 probability, log10 back-off)."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    above: list[tuple[str, ...]] = [()]
    for level in arpa.levels:
        names = [(*above[context], arpa.words[word]) for context, word in zip(level.contexts, level.words, strict=True)]
        found |= dict(zip(names, zip(level.log10.tolist(), level.backoffs.tolist(), strict=True), strict=True))
        above = names
    return found


def read(tmp_path: Path, text: str | bytes) -> Arpa:
    path = tmp_path / "x.arpa"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_arpa(path)


def test_every_byte_and_many_characters_survive_the_spelling() -> None:
    pieces = [bytes([byte]) for byte in range(256)] + [" the", "你好", "▁", "\\x20", "\\", " ", "é\u0301", "\u3000", "\u2028", "a b", "🐦",
              "\\#3"]
    for piece in [p if isinstance(p, bytes) else p.encode() for p in pieces] + ["鸟".encode()[:2], b"\xff \\\xe2\x96"]:
        word = spell(piece)
        assert unspell(word) == piece
        assert len(word.split()) == 1 and len(word.encode().split()) == 1
    assert spell(b" the") == "▁the" and spell("鸟".encode()[:2]) == "\\xe9\\xb8" and spell("你".encode()) == "你"
    assert unspell("a▁\\\\b") == b"a \\b"


def test_every_id_has_a_word_of_its_own() -> None:
    pieces = [b"", b"a", b"a", b"<s>", b"</s>", b"<unk>", b"<|pad|>", b"", b"", b"\\#2", b"<UNK>", b" "]
    words = spell_words(pieces, {0: "<|pad|>", 8: "<s>"})
    assert len(set(words)) == len(words) and not {"", "<s>", "</s>", "<unk>", "<UNK>"} & set(words)
    assert words[0] == "<|pad|>" and words[1] == "a" and words[2] == "\\x61" and words[3].startswith("\\x3cs>")
    assert words[6] == "\\x3c|pad|>" and words[7] == "\\#7" and words[9] == "\\\\#2"


def test_a_file_is_read_as_it_says(tmp_path: Path) -> None:
    wanted = {("<s>",): (-99, -0.3), ("</s>",): (-0.6, 0), ("a",): (-0.5, -0.25), ("b",): (-0.4, 0.1), ("<s>", "a"): (-0.2, -0.5),
              ("a", "b"): (-0.3, 0), ("a", "</s>"): (-0.7, 0), ("<s>", "a", "b"): (-0.1, 0)}
    assert grams(read(tmp_path, SMALL)) == wanted
    assert grams(read(tmp_path, SMALL.replace("\n", "\r\n"))) == wanted
    assert grams(read(tmp_path, "made by hand\n\n" + SMALL.replace("\t", "  "))) == wanted
    assert grams(read(tmp_path, gzip.compress(SMALL.encode()))) == wanted


@pytest.mark.parametrize("old, new, line, said", [
    ("ngram 2=3", "ngram 2=4", 16, "3 2-grams; expected 4"),
    ("ngram 2=3", "ngram 2=2", 15, "more than 2 2-grams"),
    ("ngram 2=3", "ngram 2=x", 3, "expected 'ngram 2='"),
    ("ngram 2=3", "ngram 3=3", 3, "expected 'ngram 2='"),
    ("ngram 1=4\nngram 2=3\nngram 3=1\n", "", 3, "order is 0"),
    ("\\2-grams:", "\\3-grams:", 12, "expected \\2-grams:"),
    ("a\t-0.25", "a", 9, "no back-off"),
    ("<s> a\t-0.5", "<s> a", 13, "no back-off"),
    ("<s> a b", "b a b", 18, "b a b: its beginning is no n-gram"),
    ("<s> a b", "a <s> b", 18, "<s> after its beginning"),
    ("a b\t0", "</s> b\t0", 14, "</s> before its end"),
    ("a b\t0", "a c\t0", 14, "the word 'c' is no 1-gram"),
    ("a </s>", "a b", 15, "is there twice"),
    ("-0.4\tb", "-0.4\ta", 10, "the word 'a' is there twice"),
    ("-0.4\tb", "0.4\tb", 10, "log-probability of 0.4"),
    ("-0.4\tb", "nan\tb", 10, "log-probability of nan"),
    ("-0.4\tb", "-inf\tb", 10, "log-probability of -inf"),
    ("-0.4\tb", "x\tb", 10, "expected a logarithm first"),
    ("-0.4\tb\t0.1", "-0.4\tb\tinf", 10, "back-off of inf"),
    ("-0.1\t<s> a b", "-0.1\t<s> a b\t-0.5", 18, "expected none at the longest length"),
    ("-0.1\t<s> a b", "-0.1\t<s> a", 18, "expected a logarithm, 3 words"),
    ("\\end\\", "", 21, "the file ends here"),
    ("\\end\\", "more", 20, "expected \\end\\"),
    ("\n\\2-grams:", "\\2-grams:", 11, "expected a blank line"),
    ("\\data\\", "\\date\\", 21, "no line \\data\\"),
])
def test_what_is_broken_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in SMALL
    with pytest.raises(UserError) as error:
        read(tmp_path, SMALL.replace(old, new, 1))
    assert str(error.value).startswith(f"{tmp_path / 'x.arpa'}:{line}: ") and said in str(error.value), str(error.value)


@pytest.mark.parametrize("garbage", [
    b"", b"\x00" * 3_000_000, bytes(range(256)) * 50, b"\x1f\x8b\x08garbage", b"\\data\\\n", b"\\data\\\nngram 1=2",
    b"\\data\\\nngram 1=0\n\n\\1-grams:\n\n\\end",
    "\\data\\\nngram 1=1\n\n\\1-grams:\n-1\t\xe9\n".encode("latin-1")])
def test_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    with pytest.raises(UserError, match=r"x\.arpa:\d+: "):
        read(tmp_path, garbage)


def test_sizes_that_a_file_claims_take_no_memory(tmp_path: Path) -> None:
    text = SMALL.replace("ngram 1=4", "ngram 1=1000000000000").replace("ngram 3=1", "ngram 3=999999999999")
    tracemalloc.start()
    with pytest.raises(UserError, match="4 1-grams; expected 1,000,000,000,000"):
        read(tmp_path, text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_an_empty_last_section_is_read(tmp_path: Path) -> None:
    text = SMALL.replace("ngram 3=1", "ngram 3=0").replace("-0.1\t<s> a b\n", "")
    assert len(read(tmp_path, text).levels[2].words) == 0


def test_writing_gives_the_same_bits_again_and_is_whole_or_absent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chances = -rng.exponential(3, 500).astype(np.float32)
    ids = np.arange(500)[:, None]
    words = [f"w{i}" for i in range(500)]
    write_arpa(tmp_path / "x.arpa", words, 7, [500], [(ids, chances, None)])
    found = grams(read_arpa(tmp_path / "x.arpa"))
    again = np.array([found[(word if i != 7 else "</s>",)][0] for i, word in enumerate(words)]) * np.log(10)
    assert (again.astype(np.float32) == chances).all()
    with pytest.raises(RuntimeError):
        write_arpa(tmp_path / "y.arpa", words, 7, [500], (_fail() for _ in range(1)))
    assert [path.name for path in tmp_path.iterdir()] == ["x.arpa"]


def _fail() -> tuple[np.ndarray, np.ndarray, None]:
    raise RuntimeError


@pytest.mark.skipif(importlib.util.find_spec("kenlm") is None, reason="needs kenlm")
def test_kenlm_reads_the_small_file_as_it_is_meant(tmp_path: Path) -> None:
    import kenlm

    read(tmp_path, SMALL)
    model = kenlm.Model(str(tmp_path / "x.arpa"))
    scores = [score for score, _, _ in model.full_scores("a b a")]
    assert scores == pytest.approx([-0.2, -0.1, 0.0 - 0.5 + 0.1, -0.7])
