"""`myna index` and `myna search`: what is indexed is found, by words and by the vectors of an encoder, and what is wrong is one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.cells import cell_len

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.fetch import default_folder
from myna.files import MANIFEST
from myna.retrieval.index import Hit
from myna.retrieval.options import IndexOptions
from myna.tasks.search import make_index
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
        hits = run(capsys, "search", tmp_path / "index", query)["results"][0]["hits"]
        assert Path(hits[0]["file"]).name == name and hits[0]["score"] > 0
    (texts / "c.txt").write_text("A wren in the hedge.")
    assert run(capsys, "index", texts, "--out", tmp_path / "index")["unchanged"] == 2
    assert {Path(hit["file"]).name for hit in run(capsys, "search", tmp_path / "index", "hedge")["results"][0]["hits"]} == {"b.md", "c.txt"}
    assert run(capsys, "index", "--out", tmp_path / "index", "--remove", texts / "b.md")["removed"] == 1
    assert [Path(name).name for name in run(capsys, "index", "--out", tmp_path / "index", "--list")["files"]] == ["a.txt", "c.txt"]
    assert main(["search", str(tmp_path / "index"), "hedge"]) == 0
    assert "c.txt" in capsys.readouterr().out
    assert main(["search", str(tmp_path / "index"), "xyzzy"]) == 0
    assert capsys.readouterr().out == "nothing was found\n"


def test_vectors_are_those_of_the_encoder_and_another_is_refused(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = write_topics(tmp_path / "texts", 6)
    run(capsys, "index", texts, "--out", tmp_path / "index", "--encoder", encoder, "--passage-bytes", 200)
    passage = run(capsys, "search", tmp_path / "index", "statement", "--mode", "lexical", "--k", 1)["results"][0]["hits"][0]["text"]
    found = run(capsys, "search", tmp_path / "index", passage, "--mode", "dense", "--k", 1)["results"][0]["hits"][0]
    assert found["text"] == passage and found["score"] == pytest.approx(1, abs=0.01)  # float16
    assert run(capsys, "search", tmp_path / "index", passage)["results"][0]["hits"]
    weights = (encoder / "model.safetensors").read_bytes()
    (encoder / "model.safetensors").write_bytes(weights[:-4] + b"\x00\x00\x00\x00")
    try:
        assert main(["search", str(tmp_path / "index"), "statement"]) == 2
        assert "other weights" in capsys.readouterr().err
    finally:
        (encoder / "model.safetensors").write_bytes(weights)


def test_a_recipe_and_flags_that_win(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'encoder = "{encoder}"\npassage_bytes = 300\n\n[search]\nk = 2\nmode = "lexical"\n')
    texts = write_topics(tmp_path / "texts", 6)
    run(capsys, "index", texts, "--out", tmp_path / "index", "--recipe", recipe, "--passage-bytes", 200)
    shown = run(capsys, "show", tmp_path / "index")
    assert (shown["kind"], shown["files"], shown["passage_bytes"], shown["encoder"]) == ("index", 6, 200, str(encoder))
    assert len(run(capsys, "search", tmp_path / "index", "the statement", "--recipe", recipe)["results"][0]["hits"]) == 2
    assert len(run(capsys, "search", tmp_path / "index", "the statement", "--recipe", recipe, "--k", 3)["results"][0]["hits"]) == 3
    recipe.write_text("passage_byte = 300\n")
    assert main(["index", str(texts), "--out", str(tmp_path / "other"), "--recipe", str(recipe)]) == 2
    assert "did you mean passage_bytes" in capsys.readouterr().err


def test_an_index_opens_from_another_folder(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("The heron stands in the river.")
    monkeypatch.chdir(encoder.parent)
    for _ in range(2):
        run(capsys, "index", tmp_path / "a.txt", "--out", tmp_path / "index", "--encoder", encoder.name)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "search", "index", "heron", "--mode", "dense")["results"][0]["hits"]


def test_in_python(tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "a.txt").write_text("The heron stands in the river.")
    (tmp_path / "b.txt").write_text("鸚鵡螺號潛入深海。")
    make_index(tmp_path / "index", [tmp_path / "a.txt", tmp_path / "b.txt"], IndexOptions())
    index = myna.load(tmp_path / "index")
    (hit,) = index.search("螺號", k=1)
    assert isinstance(hit, Hit) and hit.text == "鸚鵡螺號潛入深海。" and Path(hit.file).name == "b.txt"
    assert index.search("？！") == [] == index.search("")
    for wrong, said in ((lambda: index.search("x", k=0), "k is 0"), (lambda: index.search("x", mode="dense"), "has no vectors"),
                        (lambda: index.generate("x"), "does not predict"), (lambda: index.classify(["x"]), "gives no labels"),
                        (lambda: myna.load(encoder).search("x"), "finds nothing")):
        with pytest.raises(UserError, match=said):
            wrong()


def test_vectors_of_another_script_are_said(tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minilm = default_folder("minilm")
    if not (minilm / MANIFEST).is_file():
        pytest.skip("needs `myna fetch minilm`")
    (tmp_path / "a.txt").write_text("鸚鵡螺號潛入深海，饕餮盛宴。" * 3 + "\n\n" + "word " * 300)
    made = run(capsys, "index", tmp_path / "a.txt", "--out", tmp_path / "index", "--encoder", "minilm", "--passage-bytes", 4096)
    assert any("were longer than 256 tokens" in what for what in made["notes"])
    (tmp_path / "a.txt").write_text("鸚鵡螺號潛入深海，饕餮盛宴。")
    made = run(capsys, "index", tmp_path / "a.txt", "--out", tmp_path / "index")
    assert any("the tokenizer does not know" in what for what in made["notes"])


def test_hits_fit_a_terminal_and_cannot_steer_it(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("鸚鵡螺號潛入深海。" * 30 + " and English words between " * 3 + "長" * 90)
    Path("b\x1b[31m.txt").write_text("鸚鵡 \x1b[31m red")
    assert main(["index", "a.txt", "b\x1b[31m.txt", "--out", "index"]) == 0
    capsys.readouterr()
    assert main(["search", "index", "鸚鵡"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.replace("\n", "").count("鸚鵡") >= 25
    assert max(map(cell_len, out.splitlines())) <= 80 and max(map(cell_len, out.splitlines())) > 70


def test_nothing_is_left_of_an_index_that_could_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "noise.txt").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UserError, match="binary data"):
        make_index(tmp_path / "index", [tmp_path / "noise.txt"], IndexOptions())
    assert not (tmp_path / "index").exists()


def test_several_questions_from_arguments_input_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("The heron stands in the river.")
    (tmp_path / "b.txt").write_text("鸚鵡螺號潛入深海。")
    make_index(tmp_path / "index", [tmp_path / "a.txt", tmp_path / "b.txt"], IndexOptions())
    (tmp_path / "q.txt").write_text("螺號\n\nheron\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("river\n \n深海\r\n"))
    found = run(capsys, "search", tmp_path / "index", "xyzzy", "-", "--file", tmp_path / "q.txt")
    assert [(row["query"], [Path(hit["file"]).name for hit in row["hits"]]) for row in found["results"]] == [
        ("xyzzy", []), ("river", ["a.txt"]), ("深海", ["b.txt"]), ("螺號", ["b.txt"]), ("heron", ["a.txt"])]
    assert main(["search", str(tmp_path / "index"), "heron", "螺號"]) == 0
    assert capsys.readouterr().out.startswith("== heron\n1. ")
    assert main(["search", str(tmp_path / "index")]) == 2
    assert "no question was given" in capsys.readouterr().err


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
