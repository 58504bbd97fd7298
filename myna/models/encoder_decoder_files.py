"""Encoder-decoders as directories that `transformers` reads and writes: T5 (v1.0 and v1.1), Marian, BART.

T5's head is its own matrix if and only if the file holds a `lm_head.weight` that is no copy of the embeddings: checkpoints of v1.0
and v1.1 have the same model_type, and `transformers` 5 writes tie_word_embeddings true for both.

    model = load_encoder_decoder(folder, read_json(folder / "config.json"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from myna.errors import UserError, shown
from myna.formats.weights import open_weights
from myna.models.directory import Place, choice, fill_model, number, separator, whole
from myna.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from myna.models.encoder_decoder_layers import ACTIVATIONS, query_scale

_LARGEST_TABLE = 1 << 26  # positions x hidden_size of Marian's table, which no file holds: 256 MiB
_T5_LENGTH = 512  # ids of a source where config.json has no n_positions: what T5 was trained with (Raffel et al. 2020, section 3.1.2)
_TWINS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # some files hold the one table once more for each side
_SINUSOIDS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
_UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"  # in the first T5 files; never used


def load_encoder_decoder(folder: Path, config: dict[str, Any]) -> EncoderDecoder:
    """Open a directory whose config.json was read; raises UserError as `directory.fill_model` does, and when a copy is none."""
    stored = open_weights(folder)
    prefix = "" if config["model_type"] == "t5" else "model."
    shared, twins = f"{prefix}shared.weight", {f"{prefix}{name}" for name in _TWINS}
    # the one table may be written under any of its names
    table = next((name for name in (shared, *sorted(twins)) if name in stored), shared)
    # a head that is only a copy of the table is tied to it
    own_head = "lm_head.weight" in stored and not (table in stored and stored["lm_head.weight"].same(stored[table]))
    shape = read_encoder_decoder_config(folder / "config.json", config, own_head)
    twins |= {"lm_head.weight"} if shape.tie_word_embeddings else set()
    passed = (twins | {_UNREAD} | (set(_SINUSOIDS) if shape.model_type == "marian" else set())) - {table}
    model = fill_model(EncoderDecoder, shape, folder, encoder_decoder_places, passed.__contains__,
                       lambda name: shared if name == table else name)
    for name in sorted((passed - {_UNREAD}) & stored.keys()):
        known = model.shared.weight if name in twins else model.sinusoids
        if stored[name].shape != tuple(known.shape):
            raise UserError(f"{name} in {folder} has shape {shown(list(stored[name].shape))}", f"{list(known.shape)}, as config.json says")
        # sinusoids that were rounded to half precision are still the same
        if not np.allclose(stored[name].read(), known.numpy(), rtol=0, atol=0 if name in twins else 4e-3):
            raise UserError(f"{name} in {folder} is not the table that both sides share", "one table for both, computed positions")
    return model


def read_encoder_decoder_config(path: Path, config: dict[str, Any], stored_head: bool) -> EncoderDecoderConfig:
    """Read the shape, and refuse what would be computed otherwise. stored_head: whether the weights hold a head of its own."""
    vocab_size = whole(path, config, "vocab_size")
    start = whole(path, config, "decoder_start_token_id", 0, vocab_size - 1, config.get("pad_token_id", 0))
    choice(path, config, "is_encoder_decoder", True)
    values = _read_t5(path, config) if config["model_type"] == "t5" else _read_bart(path, config, vocab_size)
    if config["model_type"] == "t5":
        values["tie_word_embeddings"] = not stored_head
    try:
        return EncoderDecoderConfig(vocab_size=vocab_size, eos_token_id=separator(path, config, vocab_size), decoder_start_token_id=start,
                                    model_type=config["model_type"], **values)
    except ValueError as error:
        raise UserError(f"{path}: {error}", "sizes that go together", "restore the file") from None


def _read_t5(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    layers = whole(path, config, "num_layers")
    given = {**config, "num_decoder_layers": config.get("num_decoder_layers") or layers}  # null in some: as many
    kind = choice(path, config, "feed_forward_proj", "relu", "gated-gelu", *[f"{gated}{act}" for gated in ("", "gated-")
                                                                          for act in ACTIVATIONS])
    act = kind.removeprefix("gated-")
    # "gated-gelu" is the tanh approximation, by transformers' T5Config; files that it writes say both once more
    act = choice(path, config, "dense_act_fn", "gelu_new" if kind == "gated-gelu" else act, *ACTIVATIONS)
    choice(path, config, "is_gated_act", kind.startswith("gated-"))
    tied = choice(path, config, "tie_word_embeddings", True, False)
    return {"hidden_size": whole(path, config, "d_model"), "num_hidden_layers": layers, "hidden_act": act,
            "num_decoder_layers": whole(path, given, "num_decoder_layers"), "num_attention_heads": whole(path, config, "num_heads"),
            "head_dim": whole(path, config, "d_kv"), "intermediate_size": whole(path, config, "d_ff"), "gated": kind.startswith("gated-"),
            "max_position_embeddings": whole(path, config, "n_positions", default=_T5_LENGTH),
            "layer_norm_eps": number(path, config, "layer_norm_epsilon", default=1e-6), "dropout": _dropout(path, config, "dropout_rate"),
            "scale_decoder_outputs": choice(path, config, "scale_decoder_outputs", tied, not tied),
            "relative_attention_num_buckets": whole(path, config, "relative_attention_num_buckets", 4, default=32),
            "relative_attention_max_distance": _furthest(path, config)}


def _furthest(path: Path, config: dict[str, Any]) -> int:
    """Read the distance from which on all are alike; beyond the exact buckets, or the logarithms between have no meaning."""
    buckets = whole(path, config, "relative_attention_num_buckets", 4, default=32)
    return whole(path, config, "relative_attention_max_distance", buckets // 2 + 1, default=128)


def _read_bart(path: Path, config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Read what Marian and BART have in common; the two sides may differ in depth only."""
    for side in ("encoder", "decoder"):
        whole(path, config, f"{side}_layers")
    heads, inner = whole(path, config, "encoder_attention_heads"), whole(path, config, "encoder_ffn_dim")
    choice(path, config, "decoder_attention_heads", heads)
    choice(path, config, "decoder_ffn_dim", inner)
    for name, only in (("share_encoder_decoder_embeddings", True), ("normalize_before", False), ("normalize_embedding", True),
                       ("add_final_layer_norm", False), ("add_bias_logits", False), ("static_position_embeddings", True)):
        if name in config and not (config["model_type"] == "marian" and name == "normalize_embedding"):
            allowed = (only, not only) if name == "static_position_embeddings" else (only,)
            choice(path, config, name, *allowed)
    if config.get("decoder_vocab_size") not in (None, vocab_size):
        raise UserError(f"decoder_vocab_size in {path} is {shown(config['decoder_vocab_size'])}", f"{vocab_size}, one joint vocabulary")
    width, positions = whole(path, config, "d_model"), whole(path, config, "max_position_embeddings")
    if width * positions > _LARGEST_TABLE:
        raise UserError(f"max_position_embeddings in {path} is {positions:,}",
                        f"at most {_LARGEST_TABLE // width:,} for a d_model of {width}")
    return {"hidden_size": width, "num_hidden_layers": config["encoder_layers"], "num_decoder_layers": config["decoder_layers"],
            "num_attention_heads": heads, "head_dim": max(1, width // heads), "intermediate_size": inner, "gated": False,
            "max_position_embeddings": positions, "hidden_act": choice(path, config, "activation_function", "gelu", *ACTIVATIONS),
            "layer_norm_eps": 1e-5, "dropout": _dropout(path, config, "dropout"), "scale_decoder_outputs": False,
            "scale_embedding": choice(path, config, "scale_embedding", False, True),
            "tie_word_embeddings": choice(path, config, "tie_word_embeddings", True)}  # untied, transformers has three tables


def _dropout(path: Path, config: dict[str, Any], name: str) -> float:
    return number(path, config, name, 0.0, 0.99, 0.0)


def write_encoder_decoder_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Return the config.json of an encoder-decoder as `transformers` reads it."""
    c = config
    common = {"model_type": c.model_type, "vocab_size": c.vocab_size, "d_model": c.hidden_size, "is_encoder_decoder": True,
              "decoder_start_token_id": c.decoder_start_token_id, "tie_word_embeddings": c.tie_word_embeddings, "use_cache": True}
    if c.model_type == "t5":
        plain = "gelu" if c.gated and c.hidden_act == "gelu_new" else c.hidden_act
        return {"architectures": ["T5ForConditionalGeneration"], **common, "d_kv": c.head_dim, "d_ff": c.intermediate_size,
                "num_layers": c.num_hidden_layers, "num_decoder_layers": c.num_decoder_layers, "num_heads": c.num_attention_heads,
                "relative_attention_num_buckets": c.relative_attention_num_buckets,
                "relative_attention_max_distance": c.relative_attention_max_distance, "n_positions": c.max_position_embeddings,
                "feed_forward_proj": f"gated-{plain}" if c.gated else plain, "dense_act_fn": c.hidden_act, "is_gated_act": c.gated,
                "layer_norm_epsilon": c.layer_norm_eps, "dropout_rate": c.dropout, "scale_decoder_outputs": c.scale_decoder_outputs}
    sides = {f"{side}_{name}": value for side, layers in (("encoder", c.num_hidden_layers), ("decoder", c.num_decoder_layers))
             for name, value in (("layers", layers), ("attention_heads", c.num_attention_heads), ("ffn_dim", c.intermediate_size),
                                 ("layerdrop", 0.0))}
    name = "MarianMTModel" if c.model_type == "marian" else "BartForConditionalGeneration"
    own = {"decoder_vocab_size": c.vocab_size, "share_encoder_decoder_embeddings": True} if c.model_type == "marian" else {}
    return {"architectures": [name], **common, **sides, **own, "max_position_embeddings": c.max_position_embeddings,
            "activation_function": c.hidden_act, "scale_embedding": c.scale_embedding, "dropout": c.dropout, "attention_dropout": 0.0,
            "activation_dropout": 0.0, "forced_eos_token_id": None}


def encoder_decoder_places(config: EncoderDecoderConfig) -> dict[str, Place]:
    """Name every parameter's place in the file."""
    return _t5_places(config) if config.model_type == "t5" else _bart_places(config)


_T5_MATRICES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"}


def _t5_places(config: EncoderDecoderConfig) -> dict[str, Place]:
    table = {"shared.weight": "shared.weight"}
    for side, layers in (("encoder", config.num_hidden_layers), ("decoder", config.num_decoder_layers)):
        table[f"{side}.norm.weight"] = f"{side}.final_layer_norm.weight"
        table[f"{side}.relative_bias.weight"] = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        mlp = {"gate_proj": "wi_0", "up_proj": "wi_1" if config.gated else "wi", "down_proj": "wo"}
        crossed = [("cross_attn", "EncDecAttention", _T5_MATRICES)] if side == "decoder" else []
        sublayers = [("self_attn", "SelfAttention", _T5_MATRICES), *crossed,
                     ("mlp", "DenseReluDense", mlp if config.gated else {name: mlp[name] for name in ("up_proj", "down_proj")})]
        for layer in range(layers):
            for place, (ours, theirs, matrices) in enumerate(sublayers):
                start = f"{side}.block.{layer}.layer.{place}"
                table[f"{side}.layers.{layer}.{ours}_norm.weight"] = f"{start}.layer_norm.weight"
                table |= {f"{side}.layers.{layer}.{ours}.{mine}.weight": f"{start}.{theirs}.{name}.weight"
                          for mine, name in matrices.items()}
    if not config.tie_word_embeddings:
        table["lm_head.weight"] = "lm_head.weight"
    # T5 writes queries that need no scale; here they are scaled, so that an optimizer meets them as it meets the keys
    return {ours: Place(theirs, scale=query_scale(config) if ours.endswith("q_proj.weight") else 1.0) for ours, theirs in table.items()}


def _bart_places(config: EncoderDecoderConfig) -> dict[str, Place]:
    table = {"shared.weight": "model.shared.weight", "final_logits_bias": "final_logits_bias", **layer_names(config)}
    if config.model_type == "bart":
        for side in ("encoder", "decoder"):
            table[f"{side}.positions.weight"] = f"model.{side}.embed_positions.weight"
            table |= {f"{side}.embedding_norm.{kind}": f"model.{side}.layernorm_embedding.{kind}" for kind in ("weight", "bias")}
    return {ours: Place(theirs) for ours, theirs in table.items()}


def layer_names(config: EncoderDecoderConfig) -> dict[str, str]:
    """Name the parameters of both stacks' layers as BART does, and those that were made after it (Marian, Whisper)."""
    table: dict[str, str] = {}
    attention = {name: name for name in ("q_proj", "k_proj", "v_proj")} | {"o_proj": "out_proj"}
    for side, layers in (("encoder", config.num_hidden_layers), ("decoder", config.num_decoder_layers)):
        names = {"self_attn_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm", "mlp.up_proj": "fc1", "mlp.down_proj": "fc2"}
        names |= {f"self_attn.{ours}": f"self_attn.{theirs}" for ours, theirs in attention.items()}
        if side == "decoder":
            names |= {f"cross_attn.{ours}": f"encoder_attn.{theirs}" for ours, theirs in attention.items()}
            names["cross_attn_norm"] = "encoder_attn_layer_norm"
        table |= {f"{side}.layers.{layer}.{ours}.{kind}": f"model.{side}.layers.{layer}.{theirs}.{kind}"
                  for layer in range(layers) for ours, theirs in names.items() for kind in ("weight", "bias")}
    return table
