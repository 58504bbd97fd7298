"""Transformer encoders as directories that `transformers` reads and writes: values of config.json and names of weights.

Which heads a directory has is told by its weights, not by its `architectures`. Real checkpoints' spellings are read: names without
the prefix of the body, `gamma` and `beta` for a norm's gain and bias, `position_ids` buffers, the tied output matrix stored
beside the table it is tied to, its bias under either of its two names. Heads of other tasks are left out, and this is said.

    shape = read_encoder_config(folder / "config.json", read_json(folder / "config.json"))
    model = load_encoder(folder, read_json(folder / "config.json"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from myna.console import say
from myna.errors import UserError, shown
from myna.formats.weights import StoredTensor, open_weights
from myna.models.directory import Place, choice, fill_model, number, whole
from myna.models.encoder import Encoder, EncoderConfig

_ACTIVATIONS = ("gelu", "gelu_new", "relu", "gelu_pytorch_tanh", "gelu_fast")  # the last two compute gelu_new's formula
_BUFFERS = ("position_ids", "token_type_ids")
_BODY = ("embeddings.", "encoder.", "pooler.")  # where the body's names begin without their prefix
_SPELLINGS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))  # TensorFlow's words
_PAD = {"bert": 0, "roberta": 1, "albert": 0}  # transformers' defaults, here and below
_DROPOUT = {"bert": 0.1, "roberta": 0.1, "albert": 0.0}


def load_encoder(folder: Path, config: dict[str, Any], head: tuple[str, ...] = ()) -> Encoder:
    """Read a directory, whoever wrote it. Raises UserError on what is missing, damaged or would be computed otherwise.

    head: names of weights of a task's head that the caller reads, so that nothing is said of them.
    """
    shape = read_encoder_config(folder / "config.json", config)
    kind, stored = shape.model_type, open_weights(folder, _is_buffer)
    bias = _HEADS[kind]["head.bias"]
    twins = [name for name in stored if name == f"{_DECODER[kind]}.weight" or (name == f"{_DECODER[kind]}.bias" and bias in stored)]
    own = (f"{kind}.", *({place.split(".")[0] + "." for ours, place in _HEADS[kind].items() if getattr(shape, _PARTS[ours.split(".")[0]])}))
    others = [name for name in stored if name not in twins and not spell(kind, name).startswith(own)]
    if unread := [name for name in others if name not in head]:
        heads = sorted({shown(name.split(".")[0]) for name in unread})
        say(f"{folder}: {len(unread)} weights are of another task's head and left out ({', '.join(heads[:3])})")
    left_out = {*twins, *others}
    model = fill_model(Encoder, shape, folder, encoder_places, lambda name: _is_buffer(name) or name in left_out,
                       lambda name: spell(kind, name))
    _check_twins(folder, model, {name: stored[name] for name in twins})
    return model


def spell(kind: str, name: str) -> str:
    """Return the name that a weight has in what `transformers` writes today."""
    for old, new in _SPELLINGS:
        name = name.replace(old, new)
    if name == f"{_DECODER[kind]}.bias":
        return _HEADS[kind]["head.bias"]
    return f"{kind}.{name}" if name.startswith(_BODY) else name


def _is_buffer(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in _BUFFERS


def _check_twins(folder: Path, model: Encoder, twins: dict[str, StoredTensor]) -> None:
    """Refuse an output matrix or bias that was stored twice and differs: the model would compute something else."""
    for name, tensor in twins.items():
        assert model.head is not None
        used = model.word_embeddings.weight if name.endswith("weight") else model.head.bias
        if tensor.shape != tuple(used.shape) or not np.array_equal(tensor.read(), used.numpy()):
            raise UserError(f"{name} in {folder} differs from what it is tied to", "an output matrix tied to the embeddings",
                            "use another model")


def read_encoder_config(path: Path, config: dict[str, Any]) -> EncoderConfig:
    """Read the shape from config.json and from which weights lie beside it; refuse what would be computed otherwise."""
    kind: str = choice(path, config, "model_type", "bert", "roberta", "albert")
    choice(path, config, "is_decoder", False)
    choice(path, config, "add_cross_attention", False)
    choice(path, config, "position_embedding_type", "absolute")
    choice(path, config, "tie_word_embeddings", True)
    given = {**_DEFAULTS[kind], **{name: value for name, value in config.items() if value is not None}}
    names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")
    sizes: dict[str, Any] = {name: whole(path, given, name) for name in names}
    sizes["num_hidden_layers"] = whole(path, given, "num_hidden_layers", high=1024)
    for name in ("max_position_embeddings", "type_vocab_size"):
        sizes[name] = whole(path, given, name, high=1 << 20)
    if kind == "albert":
        sizes["embedding_size"] = whole(path, given, "embedding_size")
        sizes["num_hidden_groups"] = whole(path, given, "num_hidden_groups", high=sizes["num_hidden_layers"])
        sizes["inner_group_num"] = whole(path, given, "inner_group_num", high=1024)
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise UserError(f"{sizes['num_attention_heads']} heads over a hidden_size of {sizes['hidden_size']} in {path}",
                        "a whole width of a head")
    pad = whole(path, given, "pad_token_id", 0, sizes["vocab_size"] - 1)
    if kind == "roberta" and pad + 1 >= sizes["max_position_embeddings"]:
        raise UserError(f"max_position_embeddings in {path} is {sizes['max_position_embeddings']}",
                        f"more than pad_token_id + 1, which is {pad + 1}, as RoBERTa counts positions from there", "restore the file")
    act = choice(path, given, "hidden_act", *_ACTIVATIONS)
    return EncoderConfig(
        **sizes, model_type=kind, hidden_act=act if act in ("gelu", "relu") else "gelu_new", pad_token_id=pad,
        layer_norm_eps=number(path, given, "layer_norm_eps"), dropout=number(path, given, "hidden_dropout_prob", 0, 0.99),
        attention_dropout=number(path, given, "attention_probs_dropout_prob", 0, 0.99),
        eos_token_id=_separator(path, config, sizes["vocab_size"]), **_heads(path.parent, kind))


_DEFAULTS: dict[str, dict[str, Any]] = {kind: {
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": _PAD[kind],
    "hidden_dropout_prob": _DROPOUT[kind], "attention_probs_dropout_prob": _DROPOUT[kind],
    "hidden_act": "gelu_new" if kind == "albert" else "gelu"} for kind in _PAD}
_DEFAULTS["albert"] |= {"embedding_size": 128, "num_hidden_groups": 1, "inner_group_num": 1}


def _separator(path: Path, config: dict[str, Any], vocab_size: int) -> int | None:
    """Return the id between documents, which BERT's own config does not name."""
    value = config.get("eos_token_id")
    value = value[0] if isinstance(value, list) and value else value
    return None if value is None else whole(path, {"eos_token_id": value}, "eos_token_id", 0, vocab_size - 1)


def _heads(folder: Path, kind: str) -> dict[str, bool]:
    """Tell from the names of the weights which heads there are; a head of which a part is there is missed later, by name."""
    stored = {spell(kind, name) for name in open_weights(folder, _is_buffer)} - {f"{_DECODER[kind]}.weight"}
    found = {part: any({place, f"{kind}.{place}"} & stored for ours, place in _HEADS[kind].items() if ours.startswith(f"{name}."))
             for name, part in _PARTS.items()}
    return {**found, "pair_head": found["pair_head"] and found["pooler"] and found["masked_head"]}


def write_encoder_config(config: EncoderConfig) -> dict[str, Any]:
    """Return the config.json of an encoder as `transformers` reads it."""
    kind = config.model_type
    body = {"bert": "Bert", "roberta": "Roberta", "albert": "Albert"}[kind]
    head = "ForPreTraining" if config.pair_head else "ForMaskedLM" if config.masked_head else "Model"
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
             "type_vocab_size", "hidden_act", "layer_norm_eps")
    only_albert = ("embedding_size", "num_hidden_groups", "inner_group_num") if kind == "albert" else ()
    padding = {} if config.pad_token_id is None else {"pad_token_id": config.pad_token_id}
    return {"architectures": [body + head], "model_type": kind, **{name: getattr(config, name) for name in (*names, *only_albert)},
            "hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.attention_dropout, "initializer_range": 0.02,
            "tie_word_embeddings": True, "eos_token_id": config.eos_token_id, "bos_token_id": None, **padding}


# ---- names ----

# Of the layers, after `encoder.layer.N.` (BERT and RoBERTa) or `encoder.albert_layer_groups.G.albert_layers.I.` (ALBERT).
_LAYER = {"q_proj": "attention.self.query", "k_proj": "attention.self.key", "v_proj": "attention.self.value",
          "o_proj": "attention.output.dense", "attention_norm": "attention.output.LayerNorm", "up_proj": "intermediate.dense",
          "down_proj": "output.dense", "output_norm": "output.LayerNorm"}
_ALBERT_LAYER = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value", "o_proj": "attention.dense",
                 "attention_norm": "attention.LayerNorm", "up_proj": "ffn", "down_proj": "ffn_output",
                 "output_norm": "full_layer_layer_norm"}
_HEADS = {
    "bert": {"pooler.weight": "pooler.dense.weight", "pooler.bias": "pooler.dense.bias",
             "head.dense.weight": "cls.predictions.transform.dense.weight", "head.dense.bias": "cls.predictions.transform.dense.bias",
             "head.norm.weight": "cls.predictions.transform.LayerNorm.weight", "head.norm.bias": "cls.predictions.transform.LayerNorm.bias",
             "head.bias": "cls.predictions.bias",
             "pair_head.weight": "cls.seq_relationship.weight", "pair_head.bias": "cls.seq_relationship.bias"},
    "roberta": {"pooler.weight": "pooler.dense.weight", "pooler.bias": "pooler.dense.bias",
                "head.dense.weight": "lm_head.dense.weight", "head.dense.bias": "lm_head.dense.bias",
                "head.norm.weight": "lm_head.layer_norm.weight", "head.norm.bias": "lm_head.layer_norm.bias", "head.bias": "lm_head.bias"},
    "albert": {"pooler.weight": "pooler.weight", "pooler.bias": "pooler.bias",
               "head.dense.weight": "predictions.dense.weight", "head.dense.bias": "predictions.dense.bias",
               "head.norm.weight": "predictions.LayerNorm.weight", "head.norm.bias": "predictions.LayerNorm.bias",
               "head.bias": "predictions.bias",
               "pair_head.weight": "sop_classifier.classifier.weight", "pair_head.bias": "sop_classifier.classifier.bias"},
}
_PARTS = {"pooler": "pooler", "head": "masked_head", "pair_head": "pair_head"}  # our modules, and the fields that say they are there
_DECODER = {"bert": "cls.predictions.decoder", "roberta": "lm_head.decoder", "albert": "predictions.decoder"}


def encoder_places(config: EncoderConfig) -> dict[str, Place]:
    """Name every parameter's place in the file."""
    kind, layers = config.model_type, _ALBERT_LAYER if config.model_type == "albert" else _LAYER
    table = {f"{name}_embeddings.weight": f"{kind}.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")}
    for end in ("weight", "bias"):
        table[f"embedding_norm.{end}"] = f"{kind}.embeddings.LayerNorm.{end}"
        if kind == "albert":
            table[f"embedding_proj.{end}"] = f"{kind}.encoder.embedding_hidden_mapping_in.{end}"
        for layer in range(config.num_hidden_groups * config.inner_group_num):
            group, inner = divmod(layer, config.inner_group_num)
            place = f"albert_layer_groups.{group}.albert_layers.{inner}" if kind == "albert" else f"layer.{layer}"
            table |= {f"layers.{layer}.{ours}.{end}": f"{kind}.encoder.{place}.{theirs}.{end}" for ours, theirs in layers.items()}
    for ours, theirs in _HEADS[kind].items():
        if getattr(config, _PARTS[ours.split(".")[0]]):
            table[ours] = f"{kind}.{theirs}" if ours.startswith("pooler") else theirs
    return {ours: Place(theirs) for ours, theirs in table.items()}
