"""Recurrent models as directories: config.json with a model_type of Myna's own (rnn, lstm, gru), which `transformers` cannot load.

The weights have the names and shapes of torch.nn.RNN, LSTM and GRU, so whoever reads model.safetensors can fill one of those.

    model = load_recurrent(folder, read_json(folder / "config.json"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from myna.models.directory import Place, choice, fill_model, number, separator, whole
from myna.models.recurrent import PARTS, Recurrent, RecurrentConfig
from myna.models.scan import GATES

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "embedding_size")


def load_recurrent(folder: Path, config: dict[str, Any]) -> Recurrent:
    """Read a directory in float32. Raises UserError when its values or its weights are not those of a recurrent model."""
    return fill_model(Recurrent, read_recurrent_config(folder / "config.json", config), folder, recurrent_places)


def read_recurrent_config(path: Path, config: dict[str, Any]) -> RecurrentConfig:
    """Read the shape, every value checked."""
    sizes = {name: whole(path, config, name) for name in _SIZES}
    both = choice(path, config, "bidirectional", False, True)
    fits = sizes["embedding_size"] == sizes["hidden_size"] * (2 if both else 1)
    tied = choice(path, config, "tie_word_embeddings", *((False, True) if fits else (False,)))
    return RecurrentConfig(model_type=choice(path, config, "model_type", *GATES), **sizes, bidirectional=both, tie_word_embeddings=tied,
                           dropout=number(path, config, "dropout", 0.0, 0.99, 0.0),
                           eos_token_id=separator(path, config, sizes["vocab_size"]))


def write_recurrent_config(config: RecurrentConfig) -> dict[str, Any]:
    """Return the config.json of a recurrent model."""
    return {"architectures": ["RecurrentForCausalLM"], "model_type": config.model_type, **{name: getattr(config, name) for name in _SIZES},
            "dropout": config.dropout, "bidirectional": config.bidirectional, "tie_word_embeddings": config.tie_word_embeddings,
            "note": "a recurrent model of Myna, which transformers cannot load"}


def recurrent_places(config: RecurrentConfig) -> dict[str, Place]:
    """Name every parameter's place in the file: its own name, which is torch.nn's."""
    names = [f"{kind}_{suffix}" for suffix, _ in config.sizes() for kind in PARTS]
    tables = ["embed_tokens.weight"] if config.tie_word_embeddings else ["embed_tokens.weight", "lm_head.weight"]
    return {name: Place(name) for name in [*tables, *names]}
