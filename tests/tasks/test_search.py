"""`myna index` and `myna search`: what is indexed is found, by words and by the vectors of an encoder, and what is wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from myna.cli.main import main
from tests.conftest import tiny_flags, write_topics


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("encoder")
    texts = write_topics(place / "texts")
    made = ["build", str(texts), "--out", str(place / "model"), "--family", "encoder", "--steps", "2", "--threads", "1", *tiny_flags()]
    assert main(made) == 0
    return place / "model"


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_documents_are_indexed_found_added_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("The heron stands in the river.\n\n鸚鵡螺號潛入深海。", encoding="utf-8")
    (texts / "b.md").write_text("Sparrows hop in the hedge.", encoding="utf-8")
    added = run(capsys, "index", texts, "--out", tmp_path / "index")
    assert (added["files"], added["documents"], added["total_files"]) == (2, 2, 2)
    for query, name in (("a sparrow", "b.md"), ("螺號", "a.txt")):
        hits = run(capsys, "search", tmp_path / "index", query)["hits"]
        assert Path(hits[0]["file"]).name == name and hits[0]["score"] > 0
    (texts / "c.txt").write_text("A wren in the hedge.")
    assert run(capsys, "index", texts, "--out", tmp_path / "index")["unchanged"] == 2
    assert {Path(hit["file"]).name for hit in run(capsys, "search", tmp_path / "index", "hedge")["hits"]} == {"b.md", "c.txt"}
    assert run(capsys, "index", "--out", tmp_path / "index", "--remove", texts / "b.md")["removed"] == 1
    assert [Path(name).name for name in run(capsys, "index", "--out", tmp_path / "index", "--list")["files"]] == ["a.txt", "c.txt"]
    assert main(["search", str(tmp_path / "index"), "hedge"]) == 0
    assert "c.txt" in capsys.readouterr().out
    assert main(["search", str(tmp_path / "index"), "xyzzy"]) == 0
    assert capsys.readouterr().out == "nothing was found\n"


def test_vectors_are_those_of_the_encoder_and_another_is_refused(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = write_topics(tmp_path / "texts", 6)
    run(capsys, "index", texts, "--out", tmp_path / "index", "--encoder", encoder, "--passage-bytes", 200)
    passage = run(capsys, "search", tmp_path / "index", "statement", "--mode", "lexical", "--k", 1)["hits"][0]["text"]
    found = run(capsys, "search", tmp_path / "index", passage, "--mode", "dense", "--k", 1)["hits"][0]
    assert found["text"] == passage and found["score"] == pytest.approx(1, abs=0.01)  # float16
    assert run(capsys, "search", tmp_path / "index", passage)["hits"]
    weights = (encoder / "model.safetensors").read_bytes()
    (encoder / "model.safetensors").write_bytes(weights[:-4] + b"\x00\x00\x00\x00")
    try:
        assert main(["search", str(tmp_path / "index"), "statement"]) == 2
        assert "other weights" in capsys.readouterr().err
    finally:
        (encoder / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(("argv", "said"), [
    (["search", "INDEX", "x"], "is no index"), (["index", "--out", "INDEX"], "no document was given"),
    (["index", "EMPTY", "--out", "INDEX"], "no text was found"), (["index", "nowhere", "--out", "INDEX"], "no such file"),
    (["index", "EMPTY", "--out", "INDEX", "--passage-bytes", "3"], "passage_bytes is 3"),
    (["index", "EMPTY", "--out", "INDEX", "--encoder", "nowhere"], "no such model directory"),
])
def test_what_is_wrong_is_one_line(argv: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    places = {"INDEX": str(tmp_path / "index"), "EMPTY": str(tmp_path / "empty")}
    assert main([places.get(word, word) for word in argv]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
