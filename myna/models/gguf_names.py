"""What a decoder is called in a GGUF file: its weights and its sizes, one table for reading and for writing.

Four architectures of llama.cpp hold the five styles of `decoder.py`; a Mistral is a "llama" there. For "llama" the rows of the
query and key matrices are written in another order: llama.cpp turns neighbouring pairs of a head, Hugging Face the two halves.
Source: `MODEL_TENSORS`, `TENSOR_NAMES` and `Keys` of ggml's gguf-py/constants.py; `LlamaModel.permute` of llama.cpp's
convert_hf_to_gguf.py for the order; Llama 3.1's scaling of frequencies: `_compute_llama3_parameters` of transformers.

    [(weight.gguf, weight.name) for weight in list_weights(config)]      # ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, shown
from myna.formats.gguf import Value
from myna.formats.gguf_read import GGUF
from myna.models.decoder import DecoderConfig
from myna.models.directory import LARGEST, number, whole

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}  # model_type to GGUF's word
ROPE_FACTORS = "rope_freqs.weight"  # what each frequency is divided by (head_dim / 2), where a context was stretched as Llama 3.1's
PLAIN = "myna.tokenizer.plain"  # our own key: true where text is not normalised before it is cut, which no key of the format says
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
_TOP_GPT2 = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm", "lm_head": "output"}
_LAYER_GPT2 = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
               "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
_LLAMA3 = (1.0, 4.0, 8192)  # low_freq_factor, high_freq_factor, original_max_position_embeddings of Llama 3.1 and 3.2
# keys under the architecture's name that change nothing that is computed here
_SAID_ELSEWHERE = ("vocab_size", "tensor_data_layout", "rope.scaling.original_context_length", "rope.scaling.finetuned")
# keys that would change it, and the values that leave it out
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,), "expert_used_count": (0,), "attention.causal": (True,), "logit_scale": (0.0, 1.0), "attention.scale": (0.0,),
    "embedding_scale": (0.0, 1.0), "residual_scale": (0.0, 1.0), "attention.clamp_kqv": (0.0,), "attention.max_alibi_bias": (0.0,),
    "use_parallel_residual": (False,)}


# ---- weights ----

@dataclass(frozen=True)
class Weight:
    """One tensor under both names."""

    gguf: str
    name: str
    shape: tuple[int, ...]
    "As Hugging Face writes it."
    heads: int = 0
    "Rows of so many heads, in llama.cpp's other order; 0: in the same."
    transpose: bool = False
    "GPT-2's matrices are (in, out) in a model directory and (out, in) in a GGUF file."

    @property
    def gguf_shape(self) -> tuple[int, ...]:
        """The shape in the GGUF file."""
        return self.shape[::-1] if self.transpose else self.shape

    def to_gguf(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn what a model directory holds into what the GGUF file holds."""
        if self.transpose:
            return np.ascontiguousarray(values.T)
        return _reorder(values, (self.heads, 2, -1)) if self.heads else values

    def from_gguf(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn what the GGUF file holds into what a model directory holds."""
        if self.transpose:
            return np.ascontiguousarray(values.T)
        return _reorder(values, (self.heads, -1, 2)) if self.heads else values


def _reorder(values: npt.NDArray[np.float32], rows: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    shape = values.shape
    return np.ascontiguousarray(values.reshape(*rows, *shape[1:]).swapaxes(1, 2)).reshape(shape)


def list_weights(config: DecoderConfig) -> list[Weight]:
    """List the weights of a decoder in the order of the file. Raises UserError when llama.cpp has no place for one."""
    if config.model_type == "qwen3" and config.attention_bias:
        raise UserError("a qwen3 with attention_bias", "one without: llama.cpp has no biases in it")
    gpt2 = config.model_type == "gpt2"
    listed = _gpt2_shapes(config) if gpt2 else _llama_shapes(config)
    if not config.tie_word_embeddings:
        listed["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    other_order = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    found = []
    for name, shape in listed.items():
        module, part = name.rsplit(".", 1)
        top, layers, root = (_TOP_GPT2, _LAYER_GPT2, "transformer.h.") if gpt2 else (_TOP, _LAYER, "model.layers.")
        inside = module.removeprefix(root).split(".", 1) if module not in top else []
        target = f"blk.{inside[0]}.{layers[inside[1]]}" if inside else top[module]
        heads = other_order.get(inside[1], 0) if inside and ARCHITECTURES[config.model_type] == "llama" else 0
        found.append(Weight(f"{target}.{part}", name, shape, heads, gpt2 and bool(inside) and len(shape) == 2))
    return found


def _llama_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    C, F, D, style = config.hidden_size, config.intermediate_size, config.head_dim, config.style
    Q, K = config.num_attention_heads * D, config.num_key_value_heads * D
    layer: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (C,), "post_attention_layernorm.weight": (C,)}
    for names, shape, biased in (("self_attn.q_proj", (Q, C), style.query_key_value_bias),
                                 ("self_attn.k_proj self_attn.v_proj", (K, C), style.query_key_value_bias),
                                 ("self_attn.o_proj", (C, Q), style.output_bias), ("mlp.gate_proj mlp.up_proj", (F, C), style.mlp_bias),
                                 ("mlp.down_proj", (C, F), style.mlp_bias)):
        for name in names.split():
            layer |= {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if biased else {})
    if style.query_key_norm:
        layer |= {"self_attn.q_norm.weight": (D,), "self_attn.k_norm.weight": (D,)}
    inside = {f"model.layers.{n}.{name}": shape for n in range(config.num_hidden_layers) for name, shape in layer.items()}
    return {"model.embed_tokens.weight": (config.vocab_size, C), **inside, "model.norm.weight": (C,)}


def _gpt2_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    C, F = config.hidden_size, config.intermediate_size
    layer: dict[str, tuple[int, ...]] = {f"{name}.{part}": (C,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")}
    for name, shape in (("attn.c_attn", (C, 3 * C)), ("attn.c_proj", (C, C)), ("mlp.c_fc", (C, F)), ("mlp.c_proj", (F, C))):
        layer |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
    inside = {f"transformer.h.{n}.{name}": shape for n in range(config.num_hidden_layers) for name, shape in layer.items()}
    return {"transformer.wte.weight": (config.vocab_size, C), "transformer.wpe.weight": (config.max_position_embeddings, C), **inside,
            "transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,)}


# ---- sizes ----

def write_sizes(config: DecoderConfig) -> dict[str, Value]:
    """Return the metadata that says what the decoder is."""
    found: dict[str, Value] = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads}
    if config.model_type == "gpt2":
        found["attention.layer_norm_epsilon"] = float(config.norm_eps)
    else:
        found |= {"attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
                  "attention.value_length": config.head_dim, "attention.layer_norm_rms_epsilon": float(config.norm_eps),
                  "rope.freq_base": float(config.rope_theta), "rope.dimension_count": config.head_dim}
        scaling = config.rope_scaling or {}
        if scaling.get("rope_type") == "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
        elif scaling.get("rope_type") == "llama3":
            found["rope.scaling.original_context_length"] = int(scaling["original_max_position_embeddings"])
    return {f"{ARCHITECTURES[config.model_type]}.{key}": value for key, value in found.items()}


def read_sizes(file: GGUF) -> DecoderConfig:
    """Read what decoder a GGUF file holds. Raises UserError for another architecture, or a size or option that this decoder lacks."""
    path, metadata = file.path, file.metadata
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES.values():
        known = ", ".join(dict.fromkeys(ARCHITECTURES.values()))
        raise UserError(f"{path} holds the architecture {shown(architecture)}", f"one of {known}")
    prefix = f"{architecture}."
    found = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    found = {key: _same_in_all(value) for key, value in found.items()}
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise UserError(f"{path} has no table of embeddings", "token_embd.weight (V, C)", "get it again")
    heads = whole(path, found, "attention.head_count")
    values: dict[str, Any] = {
        "vocab_size": table.shape[0], "hidden_size": whole(path, found, "embedding_length"),
        "num_hidden_layers": whole(path, found, "block_count"), "intermediate_size": whole(path, found, "feed_forward_length"),
        "num_attention_heads": heads, "max_position_embeddings": min(whole(path, found, "context_length"), _window(path, found)),
        "tie_word_embeddings": "output.weight" not in file.tensors}
    if values["hidden_size"] % heads and "attention.key_length" not in found:
        raise UserError(f"{path} has {heads:,} heads in a width of {values['hidden_size']:,}", "heads that divide it", "get it again")
    read = {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.sliding_window"}
    if architecture == "gpt2":
        more, also = _read_gpt2(path, found, values)
    else:
        more, also = _read_llama(file, str(architecture), found, values)
    _refuse_options(path, found, read | also)
    eos = whole(path, metadata, "tokenizer.ggml.eos_token_id", 0, table.shape[0] - 1)
    try:
        return DecoderConfig(**values, **more, model_type=str(architecture), eos_token_id=eos)
    except ValueError as error:
        raise UserError(f"{error}, in {path}", "an even width and whole groups of key-value heads", "get it again") from None


def _window(path: Path, found: Mapping[str, Any]) -> int:
    """Return how far back a layer that slides sees: up to there it is one that does not, so longer texts are not taken."""
    return whole(path, found, "attention.sliding_window", default=LARGEST) if found.get("attention.sliding_window") else LARGEST


def _same_in_all(value: Any) -> Any:
    """One number for all layers where a list says the same of each; a list that does not is no whole number and is refused as such."""
    return value[0] if isinstance(value, list) and value and all(item == value[0] for item in value) else value


def _read_gpt2(path: Path, found: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    heads = values["num_attention_heads"]
    return ({"num_key_value_heads": whole(path, found, "attention.head_count_kv", heads, heads, default=heads),
             "head_dim": values["hidden_size"] // heads, "norm_eps": number(path, found, "attention.layer_norm_epsilon")},
            {"attention.head_count_kv", "attention.layer_norm_epsilon"})


def _read_llama(file: GGUF, architecture: str, found: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    path, heads = file.path, values["num_attention_heads"]
    head_dim = whole(path, found, "attention.key_length", default=values["hidden_size"] // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        whole(path, found, name, head_dim, head_dim, default=head_dim)
    theta = number(path, found, "rope.freq_base", default=10000.0)
    kind = found.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise UserError(f"{path} stretches its context by {shown(kind)}", "none, linear or rope_freqs.weight")
    factor = number(path, found, "rope.scaling.factor", default=number(path, found, "rope.scale_linear", default=1.0))
    stretched = factor != 1 and (kind == "linear" or "rope.scale_linear" in found)  # the latter is the older spelling
    scaling: dict[str, Any] | None = {"rope_type": "linear", "factor": factor} if stretched else None
    factors = file.tensors.get(ROPE_FACTORS)
    if factors is not None:
        if scaling or factors.shape != (head_dim // 2,):
            beside = " beside linear scaling" if scaling else ""
            raise UserError(f"{path} holds {ROPE_FACTORS} of shape {shown(list(factors.shape))}{beside}",
                            f"one number for each of {head_dim // 2:,} frequencies, and no other scaling")
        original = whole(path, found, "rope.scaling.original_context_length", default=_LLAMA3[2])
        scaling = read_rope_factors(path, factors.read(), theta, original)
    biases = "blk.0.attn_output.bias" in file.tensors, "blk.0.ffn_up.bias" in file.tensors
    return ({"num_key_value_heads": whole(path, found, "attention.head_count_kv", default=heads), "head_dim": head_dim,
             "norm_eps": number(path, found, "attention.layer_norm_rms_epsilon"), "rope_theta": theta, "rope_scaling": scaling,
             "attention_bias": architecture == "llama" and biases[0], "mlp_bias": architecture == "llama" and biases[1]},
            {"attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
             "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"})


def _refuse_options(path: Path, found: Mapping[str, Any], read: set[str]) -> None:
    for key, value in found.items():
        if key in read or key in _SAID_ELSEWHERE or value in _NEUTRAL.get(key, ()):
            continue
        raise UserError(f"{path} has {shown(key)} = {shown(value)}", "what this decoder computes", "take another model")


# ---- Llama 3.1's frequencies ----

def rope_factors(config: DecoderConfig) -> npt.NDArray[np.float32] | None:
    """Return what each frequency is divided by (head_dim / 2), or None where the context was not stretched as Llama 3.1's."""
    scaling = config.rope_scaling or {}
    if scaling.get("rope_type") != "llama3":
        return None
    return _factors(config.rope_theta, config.head_dim, scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"],
                    scaling["original_max_position_embeddings"])


def _factors(theta: float, head_dim: int, factor: float, low: float, high: float, original: float) -> npt.NDArray[np.float32]:
    turns = original / _wavelengths(theta, head_dim)  # how often each frequency turns in the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _wavelengths(theta: float, head_dim: int) -> npt.NDArray[np.float64]:
    return 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)


def read_rope_factors(path: Path, factors: npt.NDArray[np.float32], theta: float, original: int) -> dict[str, Any] | None:
    """Find the rope_scaling that gives these factors; None when all are 1.

    Only two of the three numbers low, high and original are determined; `original` is taken as given, Llama 3.1's values are
    tried first. Raises UserError when no such scaling gives them.
    """
    if not np.isfinite(factors).all() or factors.min() < 0.999 or factors.max() > 1e6:
        raise UserError(f"{ROPE_FACTORS} in {path} holds {shown(factors[:4].tolist())}", "factors of at least 1", "get it again")
    if np.abs(factors - 1).max() < 1e-6:
        return None
    factor = float(factors.max())
    tried = [(_LLAMA3[0], _LLAMA3[1], original), *_fit(factors, factor, theta, original)]
    for low, high, context in tried:
        if high > low > 0 and np.allclose(_factors(theta, 2 * len(factors), factor, low, high, context), factors, rtol=1e-5, atol=0):
            return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": context}
    raise UserError(f"{ROPE_FACTORS} in {path} are not scaled as Llama 3.1's", "factors of rope_type llama3", "take another model")


def _fit(factors: npt.NDArray[np.float32], factor: float, theta: float, original: int) -> Sequence[tuple[float, float, int]]:
    """Fit the line between the unscaled and the fully scaled frequencies, from the ones between."""
    between = (factors > 1.0001) & (factors < factor * 0.9999)
    if between.sum() < 2:
        return []
    smooth = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    turns = original / _wavelengths(theta, 2 * len(factors))[between]
    slope, start = np.polyfit(turns, smooth, 1)
    low, high = -start / slope, (1 - start) / slope
    return [(round(low, 3), round(high, 3), original), (float(low), float(high), original)]
