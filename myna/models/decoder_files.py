"""Transformer decoders as directories that `transformers` reads and writes: values of config.json and names of weights.

Five styles in two spellings: GPT-2's own words (`n_embd`, `c_attn`), and Llama's, which the later ones kept. A value that would
change what is computed and that this decoder does not know is refused.

    shape = read_decoder_config(folder / "config.json", read_json(folder / "config.json"))
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from myna.console import say
from myna.errors import UserError, shown
from myna.models.decoder import Decoder, DecoderConfig
from myna.models.directory import LARGEST, Place, choice, fill_model, number, separator, whole

_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
                  "gpt2": "GPT2LMHeadModel"}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
          "max_position_embeddings")
_GPT2_WORDS = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
               "max_position_embeddings": "n_positions", "intermediate_size": "n_inner"}
_LARGEST_TABLE = 1 << 26  # positions x head_dim; Qwen3's longest context, 262,144 positions of 128, is half of it
_MISTRAL_WINDOW = 4096  # transformers' MistralConfig where config.json says nothing
# what relatives of these models compute otherwise, and the values that leave it out
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attn_logit_softcapping": (None,), "final_logit_softcapping": (None,), "logit_scale": (None, 1), "logits_scaling": (None, 1),
    "embedding_multiplier": (None, 1), "residual_multiplier": (None, 1), "attention_multiplier": (None,),
    "partial_rotary_factor": (None, 1), "num_local_experts": (None, 0), "num_experts": (None, 0), "quantization_config": (None,),
    "clip_qkv": (None,), "add_cross_attention": (False,), "is_encoder_decoder": (False,)}
_SCALING = {"default": (), "linear": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}


def load_decoder(folder: Path, config: dict[str, Any], head: tuple[str, ...] = ()) -> Decoder:
    """Open a directory of one of the styles, whoever wrote it.

    head: names of weights of a task's head that the caller reads, which stands in the place of lm_head.
    """
    shape = read_decoder_config(folder / "config.json", config)
    if head:
        shape = dataclasses.replace(shape, tie_word_embeddings=True)
    whole_context = config.get("n_positions" if shape.model_type == "gpt2" else "max_position_embeddings")
    if shape.max_position_embeddings != whole_context:
        say(f"{folder}: its layers look back {shape.max_position_embeddings:,} tokens; that many it takes, not {whole_context:,}")
    root = "transformer." if shape.model_type == "gpt2" else "model."
    buffers = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # causal masks and frequencies, which older files hold

    def ignored(name: str) -> bool:
        return name in head or name.endswith(buffers) or (name == "lm_head.weight" and shape.tie_word_embeddings)

    return fill_model(Decoder, shape, folder, decoder_places, ignored,
                      lambda name: name if name.startswith((root, "lm_head.")) else root + name)


# ---- config.json ----

def read_decoder_config(path: Path, config: dict[str, Any]) -> DecoderConfig:
    """Read the shape, and refuse what this decoder would compute otherwise."""
    for name, neutral in _NEUTRAL.items():
        choice(path, config, name, *neutral)
    values = _read_gpt2(path, config) if config["model_type"] == "gpt2" else _read_llama(path, config)
    if values["max_position_embeddings"] * values["head_dim"] > _LARGEST_TABLE:
        raise UserError(f"max_position_embeddings in {path} is {values['max_position_embeddings']:,}",
                        f"at most {_LARGEST_TABLE // values['head_dim']:,} for a head_dim of {values['head_dim']}", "restore the file")
    try:
        return DecoderConfig(**values, eos_token_id=separator(path, config, values["vocab_size"]), model_type=config["model_type"])
    except ValueError as error:
        raise UserError(f"{error}, in {path}", "an even width and whole groups of key-value heads", "restore the file") from None


def _read_llama(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Read the values of a Llama, Mistral, Qwen2 or Qwen3; what is left out is what transformers takes then."""
    model_type = config["model_type"]
    choice(path, config, "hidden_act", "silu")
    given = {name: value for name, value in config.items() if value is not None or name not in ("num_key_value_heads", "head_dim")}
    values: dict[str, Any] = {}
    for name in _SIZES:
        if name == "num_key_value_heads":
            given.setdefault(name, values["num_attention_heads"])
        if name == "head_dim":
            given.setdefault(name, 128 if model_type == "qwen3" else values["hidden_size"] // values["num_attention_heads"])
        values[name] = whole(path, given, name)
    values["max_position_embeddings"] = min(values["max_position_embeddings"], _window(path, config))
    biased = (False, True) if model_type in ("llama", "qwen3") else (False,)
    rope = _read_rope(path, config)
    return {**values, "norm_eps": number(path, config, "rms_norm_eps", default=1e-6), "rope_theta": rope.pop("rope_theta"),
            "rope_scaling": rope or None, "tie_word_embeddings": choice(path, config, "tie_word_embeddings", False, True),
            "attention_bias": choice(path, config, "attention_bias", *biased),
            "mlp_bias": choice(path, config, "mlp_bias", *((False, True) if model_type == "llama" else (False,)))}


def _window(path: Path, config: dict[str, Any]) -> int:
    """Return how many tokens the layers that slide look back, itself included; as many as there may be where none does.

    Within the window a layer that slides is one that does not, so a model is as published up to that length, and takes no longer text.
    """
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
        raise UserError(f"layer_types in {path} are {shown(kinds)}", "full_attention or sliding_attention in every layer")
    slides = choice(path, config, "use_sliding_window", False, True) or "sliding_attention" in kinds or config["model_type"] == "mistral"
    window = config.get("sliding_window", _MISTRAL_WINDOW)
    return whole(path, {"sliding_window": window}, "sliding_window") if slides and window is not None else LARGEST


def _read_rope(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Read how positions turn: rope_theta, and, where a context was stretched, rope_type and its numbers."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"rope_parameters in {path} are {shown(rope)}", 'an object with rope_type "default"')
    rope = {**rope, "rope_type": rope.get("rope_type", rope.get("type", "default")),
            "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0))}
    theta = number(path, rope, "rope_theta")
    choice(path, rope, "partial_rotary_factor", 1, None)
    kind = choice(path, rope, "rope_type", *_SCALING)
    unknown = rope.keys() - {"type", "rope_type", "rope_theta", "partial_rotary_factor", *_SCALING[kind]}
    if unknown:
        raise UserError(f"rope_parameters in {path} have {shown(min(unknown))}", f'what rope_type "{kind}" knows')
    if kind == "default":
        return {"rope_theta": theta}
    scaling: dict[str, Any] = {"rope_type": kind} | {name: number(path, rope, name) for name in _SCALING[kind]}
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise UserError(f"low_freq_factor in {path} is {scaling['low_freq_factor']:g}", "less than high_freq_factor", "restore the file")
    if "original_max_position_embeddings" in scaling:
        scaling["original_max_position_embeddings"] = whole(path, rope, "original_max_position_embeddings")
    return {"rope_theta": theta, **scaling}


def _read_gpt2(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Read the values of a GPT-2; what is left out is what transformers takes then."""
    choice(path, config, "activation_function", "gelu_new")
    choice(path, config, "scale_attn_weights", True)
    choice(path, config, "scale_attn_by_inverse_layer_idx", False)
    values: dict[str, Any] = {name: whole(path, config, word) for name, word in _GPT2_WORDS.items() if word != "n_inner"}
    inner = config.get("n_inner")
    values["intermediate_size"] = 4 * values["hidden_size"] if inner is None else whole(path, config, "n_inner")
    heads = values["num_attention_heads"]
    if values["hidden_size"] % heads:
        raise UserError(f"{heads} heads in {path}", f"a number that divides n_embd, {values['hidden_size']:,}", "restore the file")
    return {**values, "vocab_size": whole(path, config, "vocab_size"), "num_key_value_heads": heads,
            "head_dim": values["hidden_size"] // heads, "norm_eps": number(path, config, "layer_norm_epsilon", default=1e-5),
            "dropout": number(path, config, "resid_pdrop", 0, 0.99, default=0.1),
            "tie_word_embeddings": choice(path, config, "tie_word_embeddings", True, False)}


def write_decoder_config(config: DecoderConfig) -> dict[str, Any]:
    """Return the config.json of a decoder as `transformers` reads it."""
    always = {"architectures": [_ARCHITECTURES[config.model_type]], "model_type": config.model_type, "initializer_range": 0.02,
              "tie_word_embeddings": config.tie_word_embeddings, "use_cache": True}
    if config.model_type == "gpt2":
        return {**always, "vocab_size": config.vocab_size, **{word: getattr(config, name) for name, word in _GPT2_WORDS.items()},
                "activation_function": "gelu_new", "layer_norm_epsilon": config.norm_eps, "resid_pdrop": config.dropout,
                "embd_pdrop": config.dropout, "attn_pdrop": 0.0, "scale_attn_weights": True}
    rope = {"rope_type": "default", **(config.rope_scaling or {}), "rope_theta": config.rope_theta}
    return {**always, **{name: getattr(config, name) for name in _SIZES}, "hidden_act": "silu", "rms_norm_eps": config.norm_eps,
            "attention_dropout": 0.0, **({"attention_bias": config.attention_bias} if config.model_type in ("llama", "qwen3") else {}),
            **({"mlp_bias": config.mlp_bias} if config.model_type == "llama" else {}),
            **({"use_sliding_window": False} if config.model_type in ("qwen2", "qwen3") else {}),
            **({} if config.model_type == "llama" else {"sliding_window": None}),
            "rope_parameters": rope, "rope_theta": config.rope_theta,  # the new word and the old
            **({"rope_scaling": config.rope_scaling} if config.rope_scaling else {})}


# ---- names ----

def decoder_places(config: DecoderConfig) -> dict[str, Place]:
    """Name every parameter's place in the file."""
    table = _gpt2_places(config) if config.model_type == "gpt2" else _llama_places(config)
    return table if config.tie_word_embeddings else {**table, "lm_head.weight": Place("lm_head.weight")}


def _llama_places(config: DecoderConfig) -> dict[str, Place]:
    style = config.style
    inside = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    for names, biased in (("self_attn.q_proj self_attn.k_proj self_attn.v_proj", style.query_key_value_bias),
                          ("self_attn.o_proj", style.output_bias), ("mlp.gate_proj mlp.up_proj mlp.down_proj", style.mlp_bias)):
        inside += [f"{name}.{part}" for name in names.split() for part in ("weight", *(("bias",) if biased else ()))]
    if style.query_key_norm:
        inside += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    names_of_all = [f"layers.{layer}.{name}" for layer in range(config.num_hidden_layers) for name in inside]
    return {name: Place(f"model.{name}") for name in ["embed_tokens.weight", *names_of_all, "norm.weight"]}


def _gpt2_places(config: DecoderConfig) -> dict[str, Place]:
    table = {"embed_tokens.weight": Place("transformer.wte.weight"), "embed_positions.weight": Place("transformer.wpe.weight")}
    parts = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2", "self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc",
             "mlp.down_proj": "mlp.c_proj"}
    for layer in range(config.num_hidden_layers):
        for part in ("weight", "bias"):
            for ours, theirs in parts.items():
                turned = part == "weight" and "proj" in ours  # GPT-2's matrices are (in, out)
                table[f"layers.{layer}.{ours}.{part}"] = Place(f"transformer.h.{layer}.{theirs}.{part}", turned)
            for number_of, letter in enumerate("qkv"):
                table[f"layers.{layer}.self_attn.{letter}_proj.{part}"] = Place(f"transformer.h.{layer}.attn.c_attn.{part}",
                                                                                part == "weight", number_of, 3)
    return table | {f"norm.{part}": Place(f"transformer.ln_f.{part}") for part in ("weight", "bias")}
