"""Write a recurrent language model as a `.keras` file, which TensorFlow and Keras 3 load without any code of Myna's.

A `.keras` file is a zip of `metadata.json`, `config.json` (the layers) and `model.weights.h5` (their numbers). The model goes from ids
(B, T) to logits (B, T, V): an Embedding, a layer for each layer, a Dense without bias. It loads in safe mode, as every layer is
Keras' own. What differs between the two: Keras multiplies from the left, so matrices are transposed; torch has two biases, which an
LSTM and an Elman network add up and a GRU with `reset_after` keeps apart; torch's GRU has its gates as r, z, n, Keras as z, r, h. A
table that is both read and scored with is written twice, since a plain Dense cannot share it. Dropout is for training and left out.

`tokenizer.json` lies in the zip beside these, where Keras does not look: `zipfile.ZipFile(path).read("tokenizer.json")` is what
the `tokenizers` library opens. Format: `keras/src/saving/saving_lib.py` of Keras 3.15; `keras.layers` `LSTM`, `GRU`, `SimpleRNN`.

    report = export_keras(Path("my-lstm"), Path("my-lstm.keras"))
    keras.models.load_model("my-lstm.keras")(ids)       # (B, T, V)

V vocabulary · E embedding size · H hidden size
"""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import fsync, read_json
from myna.formats.weights import StoredTensor, open_weights

Array = npt.NDArray[np.float32]

LAYERS = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}  # model_type to Keras' class
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_FOLDERS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}  # in the weights file: the class, numbered from the second
_VERSION = "3.15.1"  # of the Keras whose layout this is


def export_keras(folder: Path, out: Path) -> dict[str, Any]:
    """Write the recurrent model of a directory to `out`; returns {file, bytes, model_type, layers, parameters, vocabulary, notes}.

    Raises UserError when it is no recurrent language model, its tensors do not fit each other, or the package h5py is not installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise UserError("the package h5py is not installed", "it, to write the weights of a .keras file", "pip install 'myna[keras]'")
    if out.suffix != ".keras":
        raise UserError(f"--out {out}", "a name that ends in .keras, the only one that Keras loads",
                        f"try --out {out.with_suffix('.keras')}")
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in LAYERS:
        raise UserError(f"{folder} holds a model of type {kind!r}", "an lstm, a gru or an rnn, which Keras has layers for",
                        "myna build --family lstm makes one; --to gguf or hf takes a Transformer")
    if config.get("bidirectional"):
        raise UserError(f"{folder} reads from both ends", "a language model, which reads from the beginning")
    stored = open_weights(folder)
    table = _matrix(folder, stored, "embed_tokens.weight")
    cells = _read_cells(folder, stored, kind, table.shape[1])
    tied = "lm_head.weight" not in stored
    head = table if tied else _matrix(folder, stored, "lm_head.weight")
    width = cells[-1][1].shape[0]
    if head.shape != (len(table), width):
        raise UserError(f"{folder} scores with a table of {head.shape[0]} x {head.shape[1]}", f"{len(table)} x {width}",
                        "restore the directory")
    layers = _describe(LAYERS[kind], table.shape, [cell[1].shape[0] for cell in cells])
    weights = _pack(LAYERS[kind], table, cells, head)
    tokenizer = folder / "tokenizer.json"
    _write(out, layers, weights, tokenizer.read_bytes() if tokenizer.is_file() else b"")
    notes = ["the table of embeddings is written twice, as it also scores"] if tied else []
    if not tokenizer.is_file():
        notes.append("the directory has no tokenizer.json, so the file has none")
    count = sum(tensor.elements for tensor in stored.values())
    return {"file": str(out), "bytes": out.stat().st_size, "model_type": kind, "layers": len(cells), "parameters": count,
            "vocabulary": len(table), "notes": notes}


def compare_keras(path: Path) -> tuple[Any, Any]:
    """Open a `.keras` file with the package keras: (text to ids by the tokenizer inside, ids (T,) to logits (T, V))."""
    import tokenizers

    if importlib.util.find_spec("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    model = importlib.import_module("keras").models.load_model(path, compile=False)
    with zipfile.ZipFile(path) as archive:
        reader = tokenizers.Tokenizer.from_str(archive.read("tokenizer.json").decode("utf-8"))
    reader.encode_special_tokens = True

    def encode(text: str) -> list[int]:
        return list(reader.encode(text, add_special_tokens=False).ids)

    def score(ids: Any) -> Array:
        logits = model.predict_on_batch(np.array([list(ids)], dtype=np.int32))
        first: Array = np.asarray(logits, dtype=np.float32)[0]
        return first

    return encode, score


def _matrix(folder: Path, stored: dict[str, StoredTensor], name: str) -> Array:
    if name not in stored or len(stored[name].shape) != 2 or 0 in stored[name].shape:
        raise UserError(f"{folder} has no matrix {name}", "the weights of a recurrent model", "restore the directory")
    return stored[name].read()


def _read_cells(folder: Path, stored: dict[str, StoredTensor], kind: str, width: int) -> list[tuple[Array, Array, Array]]:
    """Read every layer as Keras has it: kernel (in, G H), recurrent kernel (H, G H), bias (G H,), of a GRU (2, G H)."""
    cells: list[tuple[Array, Array, Array]] = []
    while f"weight_ih_l{len(cells)}" in stored:
        layer = len(cells)
        names = [f"{part}_l{layer}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        hidden = _matrix(folder, stored, names[1]).shape[1]
        rows = _GATES[kind] * hidden
        for name, shape in zip(names, ((rows, width), (rows, hidden), (rows,), (rows,)), strict=True):
            if name not in stored or stored[name].shape != shape:
                raise UserError(f"{name} in {folder} is {stored[name].shape if name in stored else 'missing'}", str(shape),
                                "restore the directory")
        kernel, recurrent, first, second = (_order(kind, stored[name].read()) for name in names)
        bias = np.stack([first, second]) if kind == "gru" else first + second
        cells.append((np.ascontiguousarray(kernel.T), np.ascontiguousarray(recurrent.T), bias))
        width = hidden
    if not cells:
        raise UserError(f"{folder} has no weight_ih_l0", "the weights of a recurrent model", "restore the directory")
    return cells


def _order(kind: str, gates: Array) -> Array:
    """Put the gates, one after the other in the first axis, into Keras' order."""
    if kind != "gru":
        return gates
    reset, update, new = np.split(gates, 3)
    return np.concatenate([update, reset, new])


def _describe(kind: str, table: tuple[int, ...], hidden: list[int]) -> dict[str, Any]:
    """Write config.json: only what every Keras 3 reads; the rest has the layers' defaults."""
    layers: list[dict[str, Any]] = [{"module": "keras.layers", "class_name": "InputLayer", "name": "input_ids",
                                     "inbound_nodes": [], "config": {"batch_shape": [None, None], "dtype": "int32", "name": "input_ids"},
                                     "registered_name": None}]
    before, dtype = "input_ids", "int32"
    shape: list[int | None] = [None, None]

    def add(name: str, made: str, width: int, values: dict[str, Any]) -> None:
        nonlocal before, shape, dtype
        reads = {"class_name": "__keras_tensor__", "config": {"shape": shape, "dtype": dtype, "keras_history": [before, 0, 0]}}
        layers.append({"module": "keras.layers", "class_name": made, "name": name, "registered_name": None,
                       "config": {"name": name, "trainable": True, "dtype": "float32", **values}, "build_config": {"input_shape": shape},
                       "inbound_nodes": [{"args": [reads], "kwargs": {}}]})
        before, shape, dtype = name, [None, None, width], "float32"

    add("embed_tokens", "Embedding", table[1], {"input_dim": table[0], "output_dim": table[1]})
    for layer, units in enumerate(hidden):
        sigmoid: dict[str, Any] = {} if kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
        apart = {"reset_after": True} if kind == "GRU" else {}
        add(f"layer_{layer}", kind, units, {"units": units, "return_sequences": True, "activation": "tanh", **sigmoid, **apart})
    add("lm_head", "Dense", table[0], {"units": table[0], "use_bias": False})
    return {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional",
            "config": {"name": "myna", "trainable": True, "layers": layers,
                       "input_layers": ["input_ids", 0, 0], "output_layers": ["lm_head", 0, 0]}}


def _pack(kind: str, table: Array, cells: list[tuple[Array, Array, Array]], head: Array) -> bytes:
    """Write model.weights.h5: a group for every layer, its arrays numbered in the order in which Keras makes them."""
    h5py = importlib.import_module("h5py")
    folder = _FOLDERS[kind]
    arrays: dict[str, tuple[Array, ...]] = {"embedding": (table,), "dense": (head.T,)}
    for layer, cell in enumerate(cells):
        arrays[f"{folder}_{layer}/cell" if layer else f"{folder}/cell"] = cell
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for name, parts in arrays.items():
            group = file.create_group(f"layers/{name}/vars")
            for place, part in enumerate(parts):
                group.create_dataset(str(place), data=np.ascontiguousarray(part, dtype=np.float32))
    return memory.getvalue()


def _write(out: Path, layers: dict[str, Any], weights: bytes, tokenizer: bytes) -> None:
    """Write the zip whole or not at all. Nothing is compressed, as in Keras: weights do not shrink."""
    temporary = out.with_name(f".{out.name}.tmp")
    said = {"keras_version": _VERSION, "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S")}
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("metadata.json", json.dumps(said))
            archive.writestr("config.json", json.dumps(layers))
            archive.writestr("model.weights.h5", weights)
            if tokenizer:
                archive.writestr("tokenizer.json", tokenizer)
        fsync(temporary)
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
