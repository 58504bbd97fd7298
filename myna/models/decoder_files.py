"""Transformer decoders as directories that `transformers` reads and writes: values of config.json and names of weights.

    shape = read_decoder_config(folder / "config.json", read_json(folder / "config.json"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from myna.errors import UserError
from myna.models.decoder import DecoderConfig
from myna.models.directory import Place, choice, number, separator, shown, whole

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
          "max_position_embeddings")
_LARGEST_TABLE = 1 << 26  # positions x head_dim; Qwen3's longest context, 262,144 positions of 128, is half of it


def read_decoder_config(path: Path, config: dict[str, Any]) -> DecoderConfig:
    """Read the shape, and refuse what this decoder would compute otherwise."""
    choice(path, config, "hidden_act", "silu")
    choice(path, config, "attention_bias", False)
    choice(path, config, "use_sliding_window", False)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(f"rope_parameters in {path} are {shown(rope)}", 'rope_type "default"')
    given = {"head_dim": 128, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, **config,  # transformers' Qwen3Config defaults
             "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0))}
    sizes: dict[str, Any] = {name: whole(path, given, name) for name in _SIZES}
    heads, groups = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    if heads % groups or sizes["head_dim"] % 2:
        raise UserError(f"{heads} heads of {sizes['head_dim']} over {groups} key-value heads in {path}",
                        "an even width and a whole group size")
    if sizes["max_position_embeddings"] * sizes["head_dim"] > _LARGEST_TABLE:
        raise UserError(f"max_position_embeddings in {path} is {sizes['max_position_embeddings']:,}",
                        f"at most {_LARGEST_TABLE // sizes['head_dim']:,} for a head_dim of {sizes['head_dim']}", "restore the file")
    return DecoderConfig(**sizes, rms_norm_eps=number(path, given, "rms_norm_eps"), rope_theta=number(path, given, "rope_theta"),
                         tie_word_embeddings=choice(path, given, "tie_word_embeddings", False, True),
                         eos_token_id=separator(path, config, sizes["vocab_size"]))


def write_decoder_config(config: DecoderConfig) -> dict[str, Any]:
    """Return the config.json of a decoder as `transformers` reads it."""
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **{name: getattr(config, name) for name in _SIZES},
            "hidden_act": "silu", "rms_norm_eps": config.rms_norm_eps, "attention_bias": False, "attention_dropout": 0.0,
            "initializer_range": 0.02, "tie_word_embeddings": config.tie_word_embeddings, "use_cache": True, "use_sliding_window": False,
            "sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rope_theta": config.rope_theta}


def decoder_places(config: DecoderConfig) -> dict[str, Place]:
    """Name every parameter's place in the file."""
    inside = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "self_attn.q_norm",
              "self_attn.k_norm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names = [f"layers.{layer}.{name}" for layer in range(config.num_hidden_layers) for name in inside]
    table = {f"{name}.weight": Place(f"model.{name}.weight") for name in ["embed_tokens", *names, "norm"]}
    return table if config.tie_word_embeddings else {**table, "lm_head.weight": Place("lm_head.weight")}
