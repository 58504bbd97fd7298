"""The word2vec text format: what is written comes back to the bit, and a file that claims too much is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from myna.errors import UserError
from myna.formats.word2vec import read_word2vec, write_word2vec


def _vectors(words: list[str]) -> SimpleNamespace:
    return SimpleNamespace(words=words, table=np.random.default_rng(0).normal(size=(len(words), 5)).astype(np.float32) * 1e-3)


def test_words_and_numbers_come_back_exactly(tmp_path: Path) -> None:
    vectors = _vectors(["king", "春眠", "naïve", "\u2581the", "e\u0301", "\u3000"])
    assert write_word2vec(vectors, tmp_path / "v.vec") == 6
    words, table = read_word2vec(tmp_path / "v.vec")
    assert words == vectors.words
    assert table.tobytes() == vectors.table.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v.vec"]


def test_what_others_write_is_read(tmp_path: Path) -> None:
    (tmp_path / "v.vec").write_bytes(b"2 3\r\na 1 2e-3 -3.5 \r\nb .5 0 1\r\n\n")  # a space at the end, as word2vec.c leaves it
    words, table = read_word2vec(tmp_path / "v.vec")
    assert (words, table.tolist()) == (["a", "b"], np.array([[1, 2e-3, -3.5], [0.5, 0, 1]], np.float32).tolist())


def test_what_gensim_wrote_is_read(tmp_path: Path) -> None:
    """Written by gensim 4.4.0: KeyedVectors(3), add_vectors of these three words and float32 rows, save_word2vec_format."""
    golden = "3 3\nking 0.1 -2e-05 3.0\nqueen 0.33333334 0.6666667 1e-08\n春眠 1.0 0.0 -1.0\n"
    (tmp_path / "v.vec").write_text(golden, encoding="utf-8")
    words, table = read_word2vec(tmp_path / "v.vec")
    assert words == ["king", "queen", "春眠"]
    np.testing.assert_array_equal(table, np.array([[0.1, -2e-5, 3], [1 / 3, 2 / 3, 1e-8], [1, 0, -1]], np.float32))


def test_gensim_reads_and_writes_it_alike(tmp_path: Path) -> None:
    gensim = pytest.importorskip("gensim")
    vectors = _vectors(["king", "queen", "春眠"])
    write_word2vec(vectors, tmp_path / "ours.vec")
    theirs = gensim.models.KeyedVectors.load_word2vec_format(str(tmp_path / "ours.vec"))
    assert theirs.index_to_key == vectors.words
    np.testing.assert_array_equal(theirs.vectors, vectors.table)
    theirs.save_word2vec_format(str(tmp_path / "theirs.vec"))
    words, table = read_word2vec(tmp_path / "theirs.vec")
    assert words == vectors.words
    np.testing.assert_allclose(table, vectors.table, rtol=1e-5)


@pytest.mark.parametrize(("content", "message"), [
    (b"", ":1"), (b"a 1 2\n", ":1"), (b"-1 3\n", ":1"), (b"0 3\n", ":1"), (b"2 3 4\n", ":1"),
    (b"999999999 300\na 1\n", "sizes that the file can hold"), (b"1 99999999999\na 1\n", "sizes that the file can hold"),
    (b"1 2\na 1\n\n\n\n", ":2"), (b"1 2\na 1 2 3\n", ":2"), (b"1 2\na 1 x\n", ":2"), (b"1 2\na 1 nan\n", "not finite"),
    (b"1 2\na 1 1e99\n", "not finite"), (b"2 2\na 1 2\n", "ends after 1"), (b"1 2\na 1 2\nb 1 2\n", ":3"),
    (b"1 2\n\xff 1 2\n", "not UTF-8"), (b"1 2\n 1 2\n", ":2"), (b"1 2\na\t1 2\n  \n", ":2")])
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "v.vec").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_word2vec(tmp_path / "v.vec")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_word2vec(tmp_path / "none")


@pytest.mark.parametrize("word", ["a b", "a\n", "", "\ud800"])
def test_words_that_the_format_cannot_hold(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"word"):
        write_word2vec(_vectors(["a", word]), tmp_path / "v.vec")
    assert list(tmp_path.iterdir()) == []
