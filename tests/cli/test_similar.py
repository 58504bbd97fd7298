"""`myna similar`: nearest words in lines and JSON, analogies, and one line for what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from myna.cli.main import main
from myna.models.vectors import Vectors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = np.array([[1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 1], [-1, -1, 0]], np.float32)
    Vectors(["man", "king", "woman", "queen", "stone"], table).save(tmp_path)
    return tmp_path


def test_nearest_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", str(folder), "king", "--n", "2"]) == 0
    assert capsys.readouterr().out == "  0.707  man\n  0.500  queen\n"


def test_an_analogy_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", str(folder), "man", "--analogy", "king", "woman", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nearest"][0]["word"] == "queen"
    assert found["analogy"] == ["king", "woman"]
    assert len(found["nearest"]) == 2


def test_a_word_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", str(folder), "quen"]) == 2
    assert capsys.readouterr().err == "myna: no vector for 'quen' (did you mean queen?); expected one of 5 words\n"


def test_what_cannot_be_asked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", str(folder), "king", "--n", "0"]) == 2
    assert main(["similar", str(tmp_path / "none"), "king"]) == 2
    assert "no such model directory" in capsys.readouterr().err


def test_out_to_the_word2vec_format_and_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--to", "word2vec", "--out", str(tmp_path / "v.vec"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == 5
    assert main(["import", str(tmp_path / "v.vec"), str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 3
    assert main(["similar", str(tmp_path / "again"), "king", "--n", "1"]) == 0
    assert capsys.readouterr().out == "  0.707  man\n"
    assert main(["show", str(tmp_path / "again")]) == 0
    assert "word vectors" in capsys.readouterr().out


def test_what_cannot_be_exported_or_imported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--to", "word2vec", "--out", str(tmp_path / "v.vec"), "--quantize", "f16"]) == 2
    (tmp_path / "bad.vec").write_text("2 2\na 1 2\n")
    assert main(["import", str(tmp_path / "bad.vec"), str(tmp_path / "new")]) == 2
    assert "ends after 1" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "bad.vec"), str(tmp_path / "new"), "--tokenizer", str(folder)]) == 2
    (tmp_path / "bad.arpa").write_text("\\data\\\n")
    assert main(["import", str(tmp_path / "bad.arpa"), str(tmp_path / "new")]) == 2
    assert "without --tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
