"""Export a model directory for llama.cpp: Hugging Face names to GGUF names, the tokenizer with its known pattern.

llama.cpp cuts words by a pattern that it knows by name (`tokenizer.ggml.pre`); a tokenizer with another one cannot be
exported. Names: `MODEL_TENSORS` and `Keys` of ggml's gguf-py/constants.py, architecture "qwen3".

    export_gguf(Path("my-model"), Path("my-model.gguf"), Tokenizer.open(Path("my-model")), dtype="q8_0")
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from myna.errors import UserError
from myna.files import read_json
from myna.formats.gguf import ALIGNMENT, Tensor, Value, write_gguf
from myna.formats.gguf_quants import BLOCK
from myna.formats.weights import StoredTensor, open_weights

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # llama_ftype of llama.h
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of ggml.h
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # llama_token_type
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
_TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


class Vocabulary(Protocol):
    """What the export needs of a tokenizer (`myna.tokenizer.tokenizer.Tokenizer` has it)."""

    pre_tokenizer_name: str
    special_ids: frozenset[int]
    token_bytes: list[bytes]
    vocab_size: int

    @property
    def separator_id(self) -> int: ...
    @property
    def pad_id(self) -> int | None: ...
    @property
    def merges(self) -> list[tuple[str, str]]: ...
    def token_names(self) -> list[str]: ...


def export_gguf(folder: Path, out: Path, vocabulary: Vocabulary, dtype: str = "f16") -> dict[str, Any]:
    """Write a qwen3 model directory as one GGUF file; dtype is f32, f16 or q8_0.

    Vectors stay F32, and with q8_0 a matrix whose rows do not divide into blocks of 32 stays F16.
    Returns {file, bytes, dtype, pattern, tensors, kept_f16, notes}. Raises UserError when llama.cpp could not run the
    model as it is: another model type, an option of the architecture that it lacks, missing or surplus tensors.
    """
    if dtype not in FILE_TYPES:
        raise UserError(f"dtype is {dtype!r}", "one of " + ", ".join(FILE_TYPES))
    config = _read_config(folder)
    tensors, kept = _tensors(folder, config, dtype)
    described = read_json(folder / "tokenizer.json")
    pattern = _pattern(described, vocabulary)
    metadata: dict[str, Value] = {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": folder.resolve().name,
        "general.alignment": ALIGNMENT,
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": _QUANTIZATION_VERSION,
        **_shape(config),
        **_tokenizer(described, vocabulary, pattern, config),
    }
    template = folder / "chat_template.jinja"
    if template.is_file():
        metadata["tokenizer.chat_template"] = template.read_text(encoding="utf-8")
    write_gguf(out, metadata, tensors)
    notes = []
    if described.get("normalizer"):
        notes.append("llama.cpp does not bring text to NFC as this tokenizer does: text that is not NFC gets other ids there")
    return {"file": str(out), "bytes": out.stat().st_size, "dtype": dtype, "pattern": pattern, "tensors": len(tensors),
            "kept_f16": kept, "notes": notes}


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "qwen3":
        raise UserError(f"{folder} holds a model of type {kind!r}", "qwen3, the type that build makes; llama.cpp has no n-gram models",
                        "export another model")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for name, value, plain in (
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("attention_bias", config.get("attention_bias", False), False),
        ("use_sliding_window", config.get("use_sliding_window", False), False),
        ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
    ):
        if value != plain:
            raise UserError(f"{name} is {value!r} in {folder / 'config.json'}", f"{plain!r}, all that the export writes")
    wanted = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "head_dim", "max_position_embeddings")
    for name in wanted:
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise UserError(f"{name} is {config.get(name)!r} in {folder / 'config.json'}", "a whole number, at least 1")
    return {**config, "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0))}  # Qwen3Config's default


def _shape(config: dict[str, Any]) -> dict[str, Value]:
    return {
        "qwen3.block_count": config["num_hidden_layers"],
        "qwen3.context_length": config["max_position_embeddings"],
        "qwen3.embedding_length": config["hidden_size"],
        "qwen3.feed_forward_length": config["intermediate_size"],
        "qwen3.vocab_size": config["vocab_size"],
        "qwen3.attention.head_count": config["num_attention_heads"],
        "qwen3.attention.head_count_kv": config["num_key_value_heads"],
        "qwen3.attention.key_length": config["head_dim"],
        "qwen3.attention.value_length": config["head_dim"],
        "qwen3.attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "qwen3.rope.freq_base": float(config["rope_theta"]),
        "qwen3.rope.dimension_count": config["head_dim"],
    }


def _tensors(folder: Path, config: dict[str, Any], dtype: str) -> tuple[list[Tensor], list[str]]:
    """List the file's tensors, and the names of those that q8_0 leaves in F16."""
    stored = open_weights(folder)
    if config.get("tie_word_embeddings", False):
        stored.pop("lm_head.weight", None)  # some published models keep a copy of the embedding here; transformers drops it too
    expected = _expected_shapes(config)
    missing, surplus = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or surplus:
        said = f"has no {missing[0]}" if missing else f"has {surplus[0]}, which qwen3 does not"
        raise UserError(f"{folder} {said} ({len(missing)} missing, {len(surplus)} surplus)", f"the {len(expected)} tensors of config.json")
    tensors, kept = [], []
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise UserError(f"{name} in {folder} is {stored[name].shape}", f"{shape}, as config.json says")
        target = _target_name(name)
        kind = _tensor_type(stored[name], dtype)
        if dtype == "q8_0" and kind == "F16":
            kept.append(target)
        tensors.append(Tensor(target, shape, kind, stored[name].read))
    return tensors, kept


def _tensor_type(tensor: StoredTensor, dtype: str) -> str:
    if len(tensor.shape) == 1 or dtype == "f32":
        return "F32"
    return "Q8_0" if dtype == "q8_0" and tensor.shape[-1] % BLOCK == 0 else "F16"


def _target_name(name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    assert match is not None, name
    return f"blk.{match[1]}.{_LAYER[match[2]]}.weight"


def _expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    C, F, D, V = (config[name] for name in ("hidden_size", "intermediate_size", "head_dim", "vocab_size"))
    Q, K = config["num_attention_heads"] * D, config["num_key_value_heads"] * D
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (C,), "post_attention_layernorm": (C,),
        "self_attn.q_proj": (Q, C), "self_attn.k_proj": (K, C), "self_attn.v_proj": (K, C), "self_attn.o_proj": (C, Q),
        "self_attn.q_norm": (D,), "self_attn.k_norm": (D,),
        "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,)}
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (V, C)
    for number in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _pattern(described: dict[str, Any], vocabulary: Vocabulary) -> str:
    """Name llama.cpp's pre-tokenizer that gives this tokenizer's ids."""
    name = vocabulary.pre_tokenizer_name
    whole_words = bool(described["model"].get("ignore_merges", False))
    if name == "llama-bpe" and not whole_words:
        return "dbrx"  # the same pattern; under "llama-bpe" llama.cpp takes a word that is a token without its merges
    if whole_words and name != "llama-bpe":
        raise UserError(f"the tokenizer takes whole words before merges (ignore_merges) with the pattern {name}",
                        "ignore_merges only with llama-bpe, the one pair that llama.cpp has", "train the tokenizer without it")
    return name


def _tokenizer(described: dict[str, Any], vocabulary: Vocabulary, pattern: str, config: dict[str, Any]) -> dict[str, Value]:
    names, vocab_size, eos = vocabulary.token_names(), config["vocab_size"], config.get("eos_token_id")
    if len(names) > vocab_size:
        raise UserError(f"the tokenizer has {len(names):,} tokens", f"at most the {vocab_size:,} of config.json", "restore tokenizer.json")
    # a table padded to a round size has more rows than the tokenizer has tokens
    names = [*names, *(f"[PAD{number}]" for number in range(len(names), vocab_size))]
    kinds = _kinds(described.get("added_tokens") or [], vocabulary, vocab_size)
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",  # llama.cpp's word for byte-level BPE
        "tokenizer.ggml.pre": pattern,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in vocabulary.merges],
        # without these llama.cpp takes id 11, GPT-2's, for both; no BOS is ever added
        "tokenizer.ggml.bos_token_id": vocabulary.separator_id,
        "tokenizer.ggml.eos_token_id": eos if isinstance(eos, int) else vocabulary.separator_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }
    if vocabulary.pad_id is not None:
        metadata["tokenizer.ggml.padding_token_id"] = vocabulary.pad_id
    return metadata


def _kinds(added: Sequence[dict[str, Any]], vocabulary: Vocabulary, vocab_size: int) -> list[int]:
    kinds = [_NORMAL if piece else _UNUSED for piece in vocabulary.token_bytes]
    kinds += [_UNUSED] * (vocab_size - len(kinds))
    for token in added:
        kinds[token["id"]] = _CONTROL if token["id"] in vocabulary.special_ids else _USER_DEFINED
    return kinds
