"""An index: BM25 is the formula's, an index that grew is one made at once, a kill loses nothing, what is damaged is said."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.retrieval import index as module
from myna.retrieval.index import Index
from myna.retrieval.lexical import Block, join_blocks, score_blocks, write_block
from myna.retrieval.options import IndexOptions, SearchOptions
from myna.retrieval.terms import count_terms
from tests.conftest import write_topics

WORDS = ["bird", "tower", "river", "build", "king", "鳥", "塔", "and", "the", "of"]


def counted(seed: int, passages: int) -> list[Counter[str]]:
    chosen = random.Random(seed)
    return [Counter(chosen.choices(WORDS, range(1, 11), k=chosen.randint(0, 30))) for _ in range(passages)]


def slow_bm25(passages: list[Counter[str]], query: Counter[str], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """The formula, passage by passage."""
    N, mean = len(passages), sum(p.total() for p in passages) / len(passages)
    scores = []
    for passage in passages:
        score = 0.0
        for term, times in query.items():
            n = sum(term in other for other in passages)
            weight = math.log(1 + (N - n + 0.5) / (n + 0.5))
            c = passage[term]
            score += times * weight * c * (k1 + 1) / (c + k1 * (1 - b + b * passage.total() / mean)) if c else 0.0
        scores.append(score)
    return scores


def make_block(folder: Path, first: int, passages: list[Counter[str]]) -> Block:
    folder.mkdir()
    write_block(folder, first, passages)
    return Block(folder)


def test_scores_are_those_of_the_formula_in_one_block_in_several_and_joined(tmp_path: Path) -> None:
    passages, query = counted(1, 60), Counter(["bird", "塔", "bird", "never", "the"])
    wanted = slow_bm25(passages, query)
    one = make_block(tmp_path / "one", 0, passages)
    np.testing.assert_allclose(score_blocks([one], query), wanted, rtol=1e-5)
    parts = [make_block(tmp_path / f"part{at}", at, passages[at : at + 25]) for at in (0, 25, 50)]
    np.testing.assert_allclose(score_blocks(parts, query), wanted, rtol=1e-5)
    (tmp_path / "joined").mkdir()
    join_blocks(tmp_path / "joined", parts)
    for name in ("terms.utf8", "ends.npy", "starts.npy", "passages.npy", "counts.npy", "lengths.npy", "block.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


def test_deleted_passages_count_for_nothing(tmp_path: Path) -> None:
    passages, query = counted(2, 40), Counter(["river", "鳥"])
    deleted = np.zeros(40, dtype=bool)
    deleted[10:20] = True
    scores = score_blocks([make_block(tmp_path / "b", 0, passages)], query, deleted)
    np.testing.assert_allclose(np.delete(scores, range(10, 20)), slow_bm25(passages[:10] + passages[20:], query), rtol=1e-5)
    assert not scores[10:20].any()


def search(index: Index, query: str, **options: object) -> list[tuple[float, str, str]]:
    return [(round(hit.score, 4), Path(hit.file).name, hit.text) for hit in index.search(query, SearchOptions(**options))]  # type: ignore[arg-type]


def test_an_index_that_grew_finds_what_one_made_at_once_finds(tmp_path: Path) -> None:
    texts = write_topics(tmp_path / "texts", 30)
    whole = Index.create(tmp_path / "whole", IndexOptions(passage_bytes=400))
    whole.add([texts])
    grown = Index.create(tmp_path / "grown", IndexOptions(passage_bytes=400))
    for path in sorted(texts.iterdir()):
        added = grown.add([path])
        assert (added.files, added.unchanged) == (1, 0)
    assert len(Index.open(tmp_path / "grown").blocks) < 6  # few, whatever the number of segments
    assert grown.add([texts]).unchanged == 30
    for query in ("how is a lambda expression evaluated?", "import statement", "the", "class definition bases"):
        assert search(Index.open(tmp_path / "grown"), query, k=8) == search(whole, query, k=8) != []
    assert search(whole, "xyzzy") == []


def test_a_hit_says_where_it_is(tmp_path: Path) -> None:
    text = "Zeile eins, ä.\n\n" + "滕王高阁临江渚，佩玉鸣鸾罢歌舞。" * 8 + "\n\nThe nightingale sings at night."
    (tmp_path / "a.txt").write_bytes(text.encode())
    index = Index.create(tmp_path / "i", IndexOptions(passage_bytes=200))
    index.add([tmp_path / "a.txt"])
    (hit,) = index.search("a nightingale's song at night", SearchOptions(k=1))
    assert hit.text.endswith("The nightingale sings at night.") and hit.file == str(tmp_path / "a.txt")
    assert text.encode()[hit.offset :].decode() == hit.text
    assert "滕王高阁" in index.search("王高")[0].text


def test_changed_and_removed_files_are_found_no_more(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in {"a.txt": "the heron stands", "b.txt": "the sparrow hops", "c.txt": "the sparrow flies"}.items():
        (texts / name).write_text(text)
    index = Index.create(tmp_path / "i", IndexOptions())
    index.add([texts])
    (texts / "a.txt").write_text("the stork stands")
    added = index.add([texts])
    assert (added.replaced, added.unchanged) == (1, 2)
    assert search(index, "heron") == [] and [hit[1] for hit in search(index, "stork")] == ["a.txt"]
    assert index.remove([texts / "b.txt"]) == 1
    assert [hit[1] for hit in search(Index.open(tmp_path / "i"), "sparrow")] == ["c.txt"]
    fresh = Index.create(tmp_path / "fresh", IndexOptions())
    fresh.add([texts / "a.txt", texts / "c.txt"])
    assert sorted(search(index, "the stork flies")) == sorted(search(fresh, "the stork flies"))  # equal scores may stand in another order
    with pytest.raises(UserError, match="is not in the index"):
        index.remove([texts / "z.txt"])


def test_a_run_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_topics(tmp_path / "texts", 12)
    monkeypatch.setattr(module, "_SEGMENT_BYTES", 4096)
    index = Index.create(tmp_path / "i", IndexOptions())
    before, calls = Index._write_blocks, []

    def killed(self: Index, *arguments: object) -> list[str]:
        calls.append(1)
        names = before(self, *arguments)  # type: ignore[arg-type]
        if len(calls) == 3:
            raise KeyboardInterrupt
        return names

    monkeypatch.setattr(Index, "_write_blocks", killed)
    with pytest.raises(KeyboardInterrupt):
        index.add([texts])
    left = Index.open(tmp_path / "i")
    assert 0 < len(left.files) < 12 and search(left, "the")
    added = left.add([texts])
    assert added.files + added.unchanged == 12
    whole = Index.create(tmp_path / "whole", IndexOptions())
    whole.add([texts])
    assert search(left, "slice expression") == search(whole, "slice expression")
    named = {segment["name"] for segment in left._segments}
    assert {path.name for path in (tmp_path / "i" / "segments").iterdir()} == named


def test_a_run_that_is_killed_at_once_goes_on(tmp_path: Path) -> None:
    texts = write_topics(tmp_path / "texts", 12)
    code = ("import os, pathlib, signal, sys\n"
            "from myna.retrieval import index as module\n"
            "module._SEGMENT_BYTES, before, calls = 4096, module.write_block, []\n"
            "def killed(*arguments):\n"
            "    before(*arguments)\n"
            "    calls.append(1)\n"
            "    if len(calls) == 3:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "module.write_block = killed\n"
            "module.Index.create(pathlib.Path(sys.argv[1]), module.IndexOptions()).add([pathlib.Path(sys.argv[2])])\n")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "i"), str(texts)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    left = Index.open(tmp_path / "i")
    assert 0 < len(left.files) < 12
    added = left.add([texts])
    assert added.unchanged > 0 and added.files + added.unchanged == 12
    whole = Index.create(tmp_path / "whole", IndexOptions())
    whole.add([texts])
    assert search(Index.open(tmp_path / "i"), "slice expression") == search(whole, "slice expression") != []


def test_what_was_not_read_and_what_is_gone_is_counted(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "good.txt").write_text("好的文字 a heron")
    (texts / "rows.jsonl").write_text('{"text": "a wren"}\n{"text": bro\n')
    (texts / "bad.parquet").write_bytes(b"PAR1 and no more")
    (texts / "noise.txt").write_bytes(bytes(range(256)) * 8)
    index = Index.create(tmp_path / "i", IndexOptions())
    added = index.add([texts])
    assert (added.files, added.documents, sum(added.rejected.values()), len(added.partial)) == (4, 2, 2, 1)
    assert "rows.jsonl (1 bad rows" in added.said() and "binary data" in added.said()
    (texts / "good.txt").unlink()
    again = index.add([texts])
    assert (again.unchanged, again.missing) == (3, 1) and "1 no longer there" in again.said()
    assert search(index, "heron")  # until it is taken out


def vectors(texts: list[str]) -> np.ndarray:
    """Vectors of length 1 that look at the first letter alone."""
    made = np.zeros((len(texts), 26), dtype=np.float32)
    made[np.arange(len(texts)), [(ord(text[0].lower()) - 97) % 26 for text in texts]] = 1
    return made


def test_dense_and_hybrid_search(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "apple pie"}\n{"text": "banana bread"}\n{"text": "avocado and banana"}\n')
    index = Index.create(tmp_path / "i", IndexOptions(encoder="letters"), encoder="hash")
    index.add([tmp_path / "rows.jsonl"], vectors)
    dense = [hit.text for hit in index.search("any banana", SearchOptions(k=2, mode="dense"), vectors)]
    assert dense == ["apple pie", "avocado and banana"]
    lexical = [hit.text for hit in index.search("any banana", SearchOptions(k=2, mode="lexical"))]
    assert lexical == ["banana bread", "avocado and banana"]
    fused = index.search("any banana", SearchOptions(k=3), vectors)
    assert [(hit.text, hit.score) for hit in fused] == [("banana bread", pytest.approx(1 / 61 + 1 / 63)),
                                                        ("avocado and banana", pytest.approx(2 / 62)), ("apple pie", pytest.approx(1 / 61))]
    plain = Index.create(tmp_path / "plain", IndexOptions())
    plain.add([tmp_path / "rows.jsonl"])
    with pytest.raises(UserError, match="has no vectors"):
        plain.search("x", SearchOptions(mode="dense"), vectors)


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no text was found"):
        Index.create(tmp_path / "i", IndexOptions()).add([tmp_path / "empty"])
    with pytest.raises(UserError, match="is no index"):
        Index.open(tmp_path / "empty")
    with pytest.raises(UserError, match="is not empty"):
        Index.create(tmp_path / "i", IndexOptions())
    with pytest.raises(UserError, match="passage_bytes"):
        IndexOptions(passage_bytes=1)
    with pytest.raises(UserError, match="k is 0"):
        SearchOptions(k=0)


@pytest.mark.parametrize("name", ["terms.utf8", "starts.npy", "passages.npy", "block.json"])
def test_a_damaged_index_is_said(tmp_path: Path, name: str) -> None:
    index = Index.create(tmp_path / "i", IndexOptions())
    index.add([write_topics(tmp_path / "texts", 5)])
    (path,) = (tmp_path / "i" / "blocks").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError):
        Index.open(tmp_path / "i")
    shutil.rmtree(path.parent)
    with pytest.raises(UserError):
        Index.open(tmp_path / "i")


@pytest.mark.parametrize(("key", "value"), [
    ("segments", [{"name": "../segments/000001", "first": 0, "passages": 5}]),
    ("segments", [{"name": "000001", "first": 0, "passages": 1 << 60}]), ("segments", [{"name": "000001", "first": -3, "passages": 5}]),
    ("segments", [{}]), ("segments", 3), ("blocks", ["/etc"]), ("blocks", []), ("blocks", ["../blocks"]),
    ("files", {"a": {"first": 0}}), ("files", []), ("deleted", [[0]]), ("deleted", None), ("options", {"a": 1})])
def test_an_index_of_somebody_else_is_not_trusted(key: str, value: object, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", IndexOptions())
    index.add([write_topics(tmp_path / "texts", 5)])
    described = json.loads((tmp_path / "i" / "index.json").read_text())
    (tmp_path / "i" / "index.json").write_text(json.dumps(described | {key: value}))
    with pytest.raises(UserError):
        Index.open(tmp_path / "i").search("statement")


def test_broken_arrays_are_said_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("apple pie 蘋果 " * 40)
    index = Index.create(tmp_path / "i", IndexOptions(passage_bytes=100, encoder="letters"), encoder="hash")
    index.add([tmp_path / "a.txt"], vectors)
    files = sorted(path for path in (tmp_path / "i").rglob("*") if path.suffix in (".npy", ".utf8") or path.name == "report.json")
    assert len(files) > 8
    chosen = random.Random(0)
    refused = 0
    for path in files:
        whole = path.read_bytes()
        for _ in range(8):
            broken = bytearray(whole)
            for _ in range(3):
                broken[chosen.randrange(len(broken))] = chosen.randrange(256)
            path.write_bytes(broken if chosen.random() < 0.7 else broken[: chosen.randrange(len(broken))])
            try:
                Index.open(tmp_path / "i").search("apple 果", SearchOptions(), vectors)
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
        path.write_bytes(whole)
    assert refused > len(files)
    assert Index.open(tmp_path / "i").search("apple 果", SearchOptions(), vectors)


def test_equal_passages_are_shown_once_and_queries_may_be_anything(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("the same words" + (" " if name == "b" else ""))
    index = Index.create(tmp_path / "i", IndexOptions())
    index.add([tmp_path / "a.txt"])
    index.add([tmp_path / "b.txt"])
    assert len(index.search("same")) == 1
    for query in ("", "\x00", "\ud800", "a" * 100_000, "🐦"):
        index.search(query)
    assert count_terms("\ud800") == Counter()
