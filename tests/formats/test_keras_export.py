"""A recurrent model as a .keras file: Keras loads it in safe mode and gives the same logits."""

from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from myna.errors import UserError
from myna.formats.keras_export import compare_keras, export_keras
from myna.models.recurrent import Recurrent, RecurrentConfig
from myna.models.recurrent_files import write_recurrent_config
from myna.tokenizer.tokenizer import Tokenizer
from tests.formats.models import write_tokenizer

pytest.importorskip("h5py")
if importlib.util.find_spec("tensorflow") is None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
needs_keras = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="the package keras is not installed")

SHAPES = [("lstm", 1, 0, True), ("lstm", 2, 24, False), ("gru", 1, 0, True), ("gru", 3, 8, False), ("rnn", 2, 0, True),
          ("lstm", 1, 0, False)]


def write_model(folder: Path, kind: str, layers: int, width: int, tied: bool) -> Recurrent:
    """A random model with a real tokenizer, as Myna writes one."""
    write_tokenizer(folder)
    tokenizer = Tokenizer.open(folder)
    config = RecurrentConfig(kind, vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=layers, embedding_size=width,
                             tie_word_embeddings=tied, eos_token_id=tokenizer.separator_id)
    model = Recurrent(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            # an Elman network of larger weights is chaotic: rounding grows with every step
            parameter.normal_(0, 0.15 if kind == "rnn" else 0.4, generator=generator)
    save_file({name: part.detach().numpy() for name, part in model.named_parameters()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(write_recurrent_config(config) | {"eos_token_id": config.eos_token_id}))
    return model.eval()


@needs_keras
@pytest.mark.parametrize(("kind", "layers", "width", "tied"), SHAPES)
def test_keras_gives_the_same_logits(kind: str, layers: int, width: int, tied: bool, tmp_path: Path) -> None:
    import keras

    model = write_model(tmp_path, kind, layers, width, tied)
    report = export_keras(tmp_path, tmp_path / "m.keras")
    assert report["layers"] == layers
    assert report["bytes"] == (tmp_path / "m.keras").stat().st_size
    assert bool(report["notes"]) == tied
    theirs = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    ids = np.random.default_rng(1).integers(0, model.vocab_size, (3, 40))
    with torch.no_grad():
        hidden = model.encode(torch.as_tensor(ids))
        ours = (hidden @ model.head().T).numpy()
    found = np.asarray(theirs.predict_on_batch(ids.astype(np.int32)))
    assert found.shape == (3, 40, model.vocab_size)
    assert np.abs(found - ours).max() < 1e-4
    assert np.abs(ours).max() > 0.5  # numbers that could differ


@needs_keras
def test_the_tokenizer_is_inside(tmp_path: Path) -> None:
    model = write_model(tmp_path, "lstm", 1, 0, True)
    export_keras(tmp_path, tmp_path / "m.keras")
    encode, score = compare_keras(tmp_path / "m.keras")
    tokenizer = Tokenizer.open(tmp_path)
    for text in ("Once upon", "从前有一只鸟", "<|endoftext|>x"):
        ids = tokenizer.encode(text)
        assert encode(text) == ids
        ours = model.step([ids], model.start(), last=False)[0]
        logits = score(ids)
        theirs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        assert np.abs(theirs - ours).max() < 1e-4


def test_the_file_is_a_zip_that_holds_what_keras_reads(tmp_path: Path) -> None:
    write_model(tmp_path, "gru", 2, 0, True)
    export_keras(tmp_path, tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5", "tokenizer.json"]
        classes = [layer["class_name"] for layer in json.loads(archive.read("config.json"))["config"]["layers"]]
        assert archive.read("tokenizer.json") == (tmp_path / "tokenizer.json").read_bytes()
    assert classes == ["InputLayer", "Embedding", "GRU", "GRU", "Dense"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(("change", "words"), [
    ({"model_type": "qwen3"}, "a model of type 'qwen3'"), ({"bidirectional": True}, "reads from both ends"),
    ({"model_type": "gru"}, "restore"), ({"model_type": None}, "of type None")])
def test_what_keras_cannot_hold_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_model(tmp_path, "lstm", 1, 0, True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        export_keras(tmp_path, tmp_path / "m.keras")
    assert not (tmp_path / "m.keras").exists()


def test_a_name_that_keras_would_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.keras"):
        export_keras(tmp_path, tmp_path / "m.h5")


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path, "lstm", 1, 0, True)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, other in (("bias_hh_l0", np.zeros(3, np.float32)), ("embed_tokens.weight", np.zeros((5, 7), np.float32)),
                        ("weight_hh_l0", np.zeros((4, 2, 2), np.float32))):
        save_file(tensors | {name: other}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="restore the directory"):
            export_keras(tmp_path, tmp_path / "m.keras")


def test_without_h5py_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="h5py is not installed"):
        export_keras(tmp_path, tmp_path / "m.keras")


@needs_keras
def test_the_command_replays_five_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from myna.cli.main import main

    write_model(tmp_path, "lstm", 1, 0, False)
    assert main(["export", str(tmp_path), "--to", "keras", "--out", str(tmp_path / "m.keras"), "--json"]) == 0
    out, err = capsys.readouterr()
    check = json.loads(out)["check"]
    assert (check["prompts"], check["same_ids"]) == (5, 5)
    assert check["same_tokens"] == check["tokens"] > 100
    assert check["largest_difference"] < 1e-3
    assert "checked in Keras: ids equal in 5 of 5 prompts" in err
