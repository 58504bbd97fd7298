"""`myna export`: the file, the report, the replay in llama.cpp."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from myna.cli.main import main
from myna.generate import replay
from myna.models import hf_export  # noqa: F401 (before `load` below puts another function in the place of the one it takes)
from myna.tokenizer.tokenizer import Tokenizer
from tests.formats.models import write_model
from tests.generate.models import TableState

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
with_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama-cpp-python")


class Reference:
    """transformers' model as a `LanguageModel`, without a cache."""

    def __init__(self, model, separator_id: int) -> None:
        self.model, self.separator_id = model, separator_id
        self.vocab_size, self.max_length = model.config.vocab_size, model.config.max_position_embeddings

    def start(self, rows: int = 1, source=None) -> TableState:
        return TableState(rows)

    def step(self, ids, state, last: bool = True) -> np.ndarray:
        for row, new in zip(state.ids, ids, strict=True):
            row.extend(new)
        with torch.no_grad():
            scores = [self.model(torch.tensor([row])).logits[0].log_softmax(-1).numpy() for row in state.ids]
        return np.stack([row[-1] if last else row[-len(new) :] for row, new in zip(scores, ids, strict=True)])

    def log_probs(self, ids, source=None) -> np.ndarray:
        raise NotImplementedError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return folder, Reference(write_model(folder, num_hidden_layers=1), Tokenizer.open(folder).separator_id)


@pytest.fixture(autouse=True)
def load(tiny, monkeypatch):
    monkeypatch.setattr("myna.models.pretrained.load_model", lambda folder: tiny[1])


@with_llama_cpp
def test_the_file_is_written_and_checked(tiny, tmp_path, capsys):
    out = tmp_path / "x.gguf"
    assert main(["export", str(tiny[0]), "--to", "gguf", "--out", str(out), "--quantize", "f32", "--json"]) == 0
    printed, said = capsys.readouterr()
    report = json.loads(printed)
    assert report["bytes"] == out.stat().st_size
    assert (report["dtype"], report["pattern"]) == ("f32", "qwen2")
    check = report["check"]
    assert check["prompts"] == check["same_ids"] == 5
    assert check["tokens"] == check["same_tokens"] > 100
    assert check["largest_difference"] < 1e-3
    assert "ids equal in 5 of 5 prompts" in said


@with_llama_cpp
def test_the_check_sees_another_model_and_other_ids(tiny, tmp_path, monkeypatch, capsys):
    folder, model = tiny
    out = tmp_path / "x.gguf"
    with torch.no_grad():
        model.model.model.norm.weight.mul_(-1)
    try:
        assert main(["export", str(folder), "--out", str(out), "--json"]) == 0
    finally:
        with torch.no_grad():
            model.model.model.norm.weight.mul_(-1)
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["same_tokens"] < check["tokens"] / 10
    assert check["gap"] > 1
    monkeypatch.setattr("myna.models.gguf_tokenizer._pattern", lambda described, vocabulary: "gpt-2")
    assert main(["export", str(folder), "--out", str(out), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["check"]["same_ids"] < 5


def test_without_llama_cpp_it_says_that_it_could_not_check(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(replay, "can_compare", lambda: False)
    assert main(["export", str(tiny[0]), "--out", str(tmp_path / "x.gguf"), "--quantize", "q8_0"]) == 0
    out, said = capsys.readouterr()
    assert out == ""
    assert "not checked" in said
    assert "tokenizer qwen2" in said


@pytest.mark.parametrize(("arguments", "said"), [
    (["--out", "{tmp}"], "is a folder"), ([], "--out"), (["--out", "x", "--quantize", "q4"], "q4"),
    (["--out", "x", "--to", "onnx"], "onnx"), (["--out", "x", "--dtype", "float16"], "--dtype with --to gguf"),
    (["--out", "x", "--to", "hf", "--quantize", "f16"], "--quantize with --to hf"), (["--out", "{tmp}/..", "--to", "hf"], "exists"),
])
def test_wrong_use_gets_one_line(tiny, tmp_path, capsys, arguments, said):
    assert main(["export", str(tiny[0]), *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_that_is_not_there_gets_one_line(capsys):
    assert main(["export", "nowhere", "--out", "x"]) == 2
    assert "nowhere" in capsys.readouterr().err
