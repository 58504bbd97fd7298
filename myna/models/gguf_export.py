"""Export a model directory for llama.cpp: weights and sizes under GGUF's names, tokenizer and chat template.

Names are those of `gguf_names.py`, shared with the import; the tokenizer is `gguf_tokenizer.py`'s.

    export_gguf(Path("my-model"), Path("my-model.gguf"), Tokenizer.open(Path("my-model")), dtype="q8_0")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import read_json
from myna.formats.gguf import ALIGNMENT, Tensor, Value, write_gguf
from myna.formats.gguf_quants import BLOCK
from myna.formats.weights import StoredTensor, open_weights
from myna.models.decoder import DecoderConfig
from myna.models.decoder_files import read_decoder_config
from myna.models.gguf_names import ARCHITECTURES, PLAIN, ROPE_FACTORS, Weight, list_weights, rope_factors, write_sizes
from myna.models.gguf_tokenizer import describe_tokenizer
from myna.tokenizer.tokenizer import Tokenizer

FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7}  # llama_ftype of llama.h
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of ggml.h
_TABLES = ("token_embd.weight", "output.weight")  # kept in 8 bits where matrices have 4: each of their errors reaches every logit
_UNROUNDED = ("position_embd.weight",)  # which ggml adds, and never multiplies
_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # causal masks and frequencies, which older files hold


def export_gguf(folder: Path, out: Path, tokenizer: Tokenizer, dtype: str = "f16", name: str = "") -> dict[str, Any]:
    """Write a decoder's directory as one GGUF file; dtype is f32, f16, q8_0, q4_0 or q4_1; `name` is the model's, else the folder's.

    Vectors stay F32; a matrix whose rows do not divide into blocks of 32 stays F16; with 4 bits the tables of embeddings have 8.
    Returns {file, bytes, dtype, architecture, pattern, tensors, types, kept_f16, notes}. Raises UserError when llama.cpp could
    not run the model as it is: another model type, an option of the architecture that it lacks, missing or surplus tensors.
    """
    if dtype not in FILE_TYPES:
        raise UserError(f"dtype is {dtype!r}", "one of " + ", ".join(FILE_TYPES))
    config, described = _read_config(folder), read_json(folder / "config.json")
    tensors, kept = _tensors(folder, config, dtype)
    pattern, words = describe_tokenizer(folder, tokenizer, config.vocab_size, config.eos_token_id, described.get("bos_token_id"))
    metadata: dict[str, Value] = {
        "general.architecture": ARCHITECTURES[config.model_type],
        "general.type": "model",
        "general.name": name or folder.resolve().name,
        "general.alignment": ALIGNMENT,
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": _QUANTIZATION_VERSION,
        **write_sizes(config),
        **words,
    }
    template = folder / "chat_template.jinja"
    if template.is_file():
        metadata["tokenizer.chat_template"] = template.read_text(encoding="utf-8")
    write_gguf(out, metadata, tensors)
    notes = []
    if words.get(PLAIN) is False:
        notes.append("llama.cpp does not bring text to NFC as this tokenizer does: text that is not NFC gets other ids there")
    kinds = [tensor.dtype for tensor in tensors]
    return {"file": str(out), "bytes": out.stat().st_size, "dtype": dtype, "architecture": ARCHITECTURES[config.model_type],
            "pattern": pattern, "tensors": len(tensors), "types": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "kept_f16": kept, "notes": notes}


def _read_config(folder: Path) -> DecoderConfig:
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in ARCHITECTURES:
        raise UserError(f"{folder} holds a model of type {kind!r}", "one of " + ", ".join(ARCHITECTURES) + ", those that llama.cpp has too",
                        "export another model")
    return read_decoder_config(folder / "config.json", config)


def _tensors(folder: Path, config: DecoderConfig, dtype: str) -> tuple[list[Tensor], list[str]]:
    """List the file's tensors, and the names of those that a type with blocks leaves in F16."""
    stored = _stored(folder, config)
    weights = list_weights(config)
    wanted = {weight.name for weight in weights}
    missing, surplus = sorted(wanted - stored.keys()), sorted(stored.keys() - wanted)
    if missing or surplus:
        said = f"has no {missing[0]}" if missing else f"has {surplus[0]}, which {config.model_type} does not"
        raise UserError(f"{folder} {said} ({len(missing)} missing, {len(surplus)} surplus)", f"the {len(wanted)} tensors of config.json")
    tensors, kept = [], []
    for weight in weights:
        found = stored[weight.name]
        if found.shape != weight.shape:
            raise UserError(f"{weight.name} in {folder} is {found.shape}", f"{weight.shape}, as config.json says")
        kind = _kind(weight, dtype)
        if kind == "F16" and dtype.startswith("q"):
            kept.append(weight.gguf)
        tensors.append(Tensor(weight.gguf, weight.gguf_shape, kind, _reading(weight, found)))
    factors = rope_factors(config)
    if factors is not None:
        tensors.append(Tensor(ROPE_FACTORS, factors.shape, "F32", lambda: factors))
    return tensors, kept


def _reading(weight: Weight, found: StoredTensor) -> Callable[[], npt.NDArray[np.float32]]:
    return lambda: weight.to_gguf(found.read())


def _stored(folder: Path, config: DecoderConfig) -> dict[str, StoredTensor]:
    """List the weights by the names that `transformers` writes, whatever published file they come from."""
    stored = open_weights(folder, lambda name: name.endswith(_BUFFERS))
    if config.tie_word_embeddings:
        stored.pop("lm_head.weight", None)  # some published models keep a copy of the embedding here; transformers drops it too
    root = "transformer." if config.model_type == "gpt2" else "model."
    return {name if name.startswith((root, "lm_head.")) else root + name: tensor for name, tensor in stored.items()}


def _kind(weight: Weight, dtype: str) -> str:
    if len(weight.shape) == 1 or dtype == "f32" or weight.gguf in _UNROUNDED:
        return "F32"
    if dtype == "f16" or weight.gguf_shape[-1] % BLOCK:
        return "F16"
    return "Q8_0" if weight.gguf in _TABLES else dtype.upper()
