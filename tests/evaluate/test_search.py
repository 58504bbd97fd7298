"""How well an index finds: what counts as found, the numbers, the baseline beside, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from myna.cli.main import main
from myna.data.relevance import Query
from myna.errors import UserError
from myna.evaluate.options import EvaluateOptions
from myna.evaluate.search import find_relevant, measure_search
from myna.retrieval.index import Index
from myna.retrieval.options import IndexOptions

TEXTS = {"heron.txt": "The heron stands in the river. " * 3, "wren.txt": "The wren sings in the hedge.",
         "sub/tower.md": "塔建于1889年，在巴黎。", "sub/wren.txt": "A wren is small.", "noise.txt": "the the the river hedge stands sings"}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    for name, text in TEXTS.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    made = Index.create(tmp_path / "index", IndexOptions(passage_bytes=64))
    made.add([tmp_path / "texts"])
    return made


def names(index: Index, query: Query) -> set[str]:
    (kept, *_), _ = find_relevant(index, [query])
    return {Path(name).name if not name.isdigit() else index.hit(int(name)).text for name in kept[1]}


def test_files_are_named_by_as_much_of_the_path_as_tells_them_apart(index: Index, tmp_path: Path) -> None:
    assert names(index, Query("x", ("heron.txt",))) == names(index, Query("x", ("heron",))) == {"heron.txt"}
    assert names(index, Query("x", ("sub/wren.txt", "heron.txt"))) == {"wren.txt", "heron.txt"}
    assert names(index, Query("x", (str(tmp_path / "texts" / "sub" / "tower.md"),))) == {"tower.md"}
    wrong = [Query("x", (name,)) for name in ("wren.txt", "nowhere.txt", "../heron.txt", "/")]
    kept, left = find_relevant(index, [*wrong, Query("x", ("heron.txt",), "not there")])
    assert not kept
    assert left == {"name what several files are called": 1, "name a file that is not in the index": 3, "quote what is in no passage": 1}


def test_a_quotation_means_the_passages_that_hold_it(index: Index) -> None:
    assert names(index, Query("x", (), "建于 1889 年")) == {"塔建于1889年，在巴黎。"}
    assert names(index, Query("x", ("heron.txt",), "in the\nRIVER")) == names(index, Query("x", (), "heron stands in"))
    assert len(names(index, Query("x", (), "river. The heron stands in the river. The heron"))) == 2  # over the border of two
    _, left = find_relevant(index, [Query("x", ("wren.txt", ), "heron"), Query("x", ("noise.txt",), "heron")])
    assert left["quote what is in no passage"] == 1


def test_the_numbers_are_those_counted_by_hand(index: Index) -> None:
    queries = [Query("heron river", ("heron.txt",)), Query("巴黎的塔", ("tower.md",)), Query("wren hedge", ("sub/wren.txt",)),
               Query("unheard", ("noise.txt",))]
    measured = measure_search(index, queries, EvaluateOptions(resamples=50))
    value = measured.to_json()
    # found at 1, 1, 2 (after the other wren, or 3 after noise) and never
    ranks = [row["rank"] for row in sorted(measured.details["best"], key=lambda row: [one.text for one in queries].index(row["question"]))]
    assert ranks[:2] == [1, 1] and ranks[2] in (2, 3) and ranks[3] is None
    assert value["recall_at_1"]["value"] == 0.5 and value["recall_at_5"]["value"] == value["recall_at_10"]["value"] == 0.75
    assert value["mrr_at_10"]["value"] == pytest.approx((2 + 1 / ranks[2]) / 4)
    assert value["ndcg_at_10"]["value"] == pytest.approx((2 + 1 / np.log2(ranks[2] + 1)) / 4)
    assert value["baseline"]["name"] == "shared words" and value["details"]["mode"] == "lexical"
    assert measured.details["worst"][0]["question"] == "unheard" and measured.details["worst"][0]["first"] == ""
    assert any("unheard" in line for line in measured.lines)


def test_vectors_stand_beside_bm25(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("apple pie")
    (tmp_path / "b.txt").write_text("banana bread and apple")

    def letters(texts: list[str]) -> np.ndarray:
        return np.eye(26, dtype=np.float32)[[ord(text[0]) - 97 for text in texts]]

    made = Index.create(tmp_path / "index", IndexOptions(encoder="letters"), encoder="hash")
    made.add([tmp_path], letters)
    queries = [Query("art of baking", ("a.txt",)), Query("apple bread", ("b.txt",))]
    dense = measure_search(made, queries, EvaluateOptions(resamples=50), "dense", letters).to_json()
    assert dense["baseline"]["name"] == "BM25"
    assert dense["recall_at_1"]["value"] == 0.5 and dense["recall_at_1_difference"]["value"] == 0.0
    assert [row["question"] for row in dense["details"]["gained"]] == ["art of baking"]
    assert [row["question"] for row in dense["details"]["lost"]] == ["apple bread"]
    with pytest.raises(UserError, match="has no vectors"):
        measure_search(made, queries, EvaluateOptions(), "hybrid")


def test_the_command(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "q.csv"
    sheet.write_text("question,relevant\nwho stands in the river?,heron.txt\n塔在哪里,tower.md\nwho is lost,lost.txt\n", encoding="utf-8")
    argv = ["evaluate", str(index.folder), str(sheet), "--task", "search", "--resamples", "50"]
    assert main([*argv, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["recall_at_1"]["value"] == 1.0 and value["details"]["left_out"] == {"name a file that is not in the index": 1}
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "recall at 1" in out and "1 questions left out" in out
    assert main([*argv, "--mode", "dense"]) == 2 and "has no vectors" in capsys.readouterr().err
    sheet.write_text("question,relevant\nwho,lost.txt\n")
    assert main(argv) == 2
    err = capsys.readouterr().err.splitlines()
    assert "0 questions are left (1 name a file that is not in the index)" in err[-1]
