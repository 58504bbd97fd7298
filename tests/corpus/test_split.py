"""The split depends only on content, and no text is on both sides."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from myna.corpus.clean import prepare_corpus
from myna.corpus.options import CleanOptions, SplitOptions
from myna.corpus.store import Corpus
from myna.errors import UserError


def make(folder: Path, texts: dict[str, str], **options: object) -> Corpus:
    """Write files and prepare a corpus from them."""
    source = folder / "in"
    source.mkdir(parents=True)
    for name, text in texts.items():
        (source / name).write_text(text, encoding="utf-8")
    return prepare_corpus([source], folder / "out", CleanOptions(), SplitOptions(), **options)  # type: ignore[arg-type]


def part_texts(corpus: Corpus) -> dict[str, set[str]]:
    """The texts of each part."""
    return {name: {corpus.text(r["start"], r["end"]) for r in corpus.part(name)} for name in ("train", "valid", "test")}


def test_documents_by_hash(tmp_path: Path) -> None:
    """Names and order of files do not matter; each held-out part has at most 5 % of the bytes; the parts make the whole."""
    texts = [f"document {i} " + "word " * (50 + i % 7) for i in range(100)]
    one = make(tmp_path / "a", {f"{i}.txt": text for i, text in enumerate(texts)})
    two = make(tmp_path / "b", {f"{99 - i}.txt": text for i, text in enumerate(texts)})
    assert part_texts(one) == part_texts(two)
    total = sum(one.part_bytes(name) for name in ("train", "valid", "test"))
    assert total == int((one.documents["end"] - one.documents["start"]).sum())
    assert 0 < one.part_bytes("test") <= 0.05 * total and 0 < one.part_bytes("valid") <= 0.05 * total


def test_one_long_text_is_cut_at_paragraphs(tmp_path: Path) -> None:
    """Sections end at paragraph ends, neighbours in train are joined, and this is said."""
    text = "".join(f"Paragraph {i}. " + "The same words again. " * 5 + "\n\n" for i in range(2000))
    corpus = make(tmp_path, {"a.txt": text})
    parts = part_texts(corpus)
    assert all(part.endswith("\n\n") for name in parts for part in parts[name])
    assert sum(len(part) for name in parts for part in parts[name]) == len(text)
    assert len(parts["train"]) <= len(parts["valid"]) + len(parts["test"]) + 1
    assert 0.02 < corpus.part_bytes("valid") / len(text) <= 0.06
    from myna.files import read_json
    assert "cut into sections" in read_json(tmp_path / "out" / "split.json")["said"][0]


def test_sections_without_any_break(tmp_path: Path) -> None:
    """Chinese without a space or a newline is cut between characters."""
    corpus = make(tmp_path, {"a.txt": "".join(chr(0x4E00 + i * 7919 % 20000) for i in range(20000))})
    assert sum(len(t) for part in part_texts(corpus).values() for t in part) == 20000


def test_equal_sections_stay_together(tmp_path: Path) -> None:
    """A section that comes again and again is in one part only, whichever text surrounds it."""
    block = "This block comes again and again. ".ljust(698, ".") + "\n\n"
    for seed in range(8):
        other = "".join(f"Unique paragraph {i} of text {seed}. ".ljust(400, "-") + "\n\n" for i in range(25))
        corpus = make(tmp_path / str(seed), {"a.txt": block * 30 + other})
        holding = [name for name, texts in part_texts(corpus).items() if any(block in text for text in texts)]
        assert len(holding) == 1


def test_given_files_are_the_parts(tmp_path: Path) -> None:
    """--valid and --test are used whole, and training copies of them are what is dropped."""
    held = {"v": "validation text " * 50, "t": "test text " * 50}
    for name, text in held.items():
        (tmp_path / f"{name}.txt").write_text(text)
    corpus = make(tmp_path, {"copy.txt": held["v"], "main.txt": "".join(f"training line {i}\n" for i in range(500))},
                  valid=[tmp_path / "v.txt"], test=[tmp_path / "t.txt"])
    parts = part_texts(corpus)
    assert parts["valid"] == {held["v"]} and parts["test"] == {held["t"]}
    assert not any("validation" in text for text in parts["train"])
    assert next(f for f in corpus.files if f["path"].endswith("copy.txt"))["reason"] == "duplicate"


def test_too_small(tmp_path: Path) -> None:
    """One line, with numbers; nothing is left behind."""
    with pytest.raises(UserError, match=r"too small for the split: 5 bytes in 1 piece"):
        make(tmp_path, {"a.txt": "hello"})
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_pieces(tmp_path: Path) -> None:
    """Pieces are bounded, lossless and end after a newline before a non-space where they can."""
    text = "".join(f"第{i}行 of the text\n  indented\n\n" for i in range(500))
    corpus = make(tmp_path, {"a.txt": text, "b.txt": "x" * 3000})
    row = corpus.documents[0]
    for size in (5, 64, 1000, 10**6):
        pieces = list(corpus.pieces(row["start"], row["end"], size))
        assert "".join(pieces) == text and max(len(p.encode()) for p in pieces) <= size
        if size == 1000:
            assert all(p.endswith("\n") and after[0] == "第" for p, after in itertools.pairwise(pieces))
