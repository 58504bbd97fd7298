"""Make a neural model from its shape: which config and which class a `model_type` has, with first weights that depend on a seed alone.

    config = make_config({"model_type": "qwen3", "vocab_size": 2048, "hidden_size": 128, "num_hidden_layers": 3})
    model = new_model(config, seed=0, precision="bfloat16")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from myna.models.families import MODEL_TYPES, family_of

if TYPE_CHECKING:
    from myna.models.vectors import Vectors
    from myna.tokenizer.tokenizer import Tokenizer


class Config(Protocol):
    """The shape of a neural model: a frozen dataclass of plain values in the words of Hugging Face's config.json."""

    @property
    def model_type(self) -> str:
        """One of `MODEL_TYPES`."""

    @property
    def vocab_size(self) -> int:
        """Ids of the vocabulary."""

    @property
    def hidden_size(self) -> int:
        """Width of the layers."""

    def count_parameters(self) -> int:
        """Count every weight, embeddings included."""

    def products_per_token(self) -> int:
        """Count the multiplications of a forward pass over one token, the head's included."""


def make_config(values: dict[str, Any]) -> Config:
    """Make the config that `dataclasses.asdict` gave, by its model_type."""
    kind, _ = _classes(values["model_type"])
    made: Config = kind(**values)
    return made


def new_model(config: Config, seed: int, precision: str) -> Any:
    """Make a model to be trained, an `nn.Module` that is `Trainable`, from its first weights.

    precision: a torch dtype's name, that of its products.
    """
    import torch

    _, make = _classes(config.model_type)
    model = make(config, seed)
    model.compute_dtype = getattr(torch, precision)
    return model


def begin_with_vectors(model: Any, vectors: Vectors, tokenizer: Tokenizer, seed: int) -> int:
    """Set the rows of a new model's embedding table for which there are word vectors; returns how many there are.

    They are scaled to the table's own spread, so that training starts as it would have.
    """
    import torch
    from torch import nn

    size = tokenizer.vocab_size
    table = next(module.weight for module in model.modules() if isinstance(module, nn.Embedding) and module.num_embeddings >= size)
    values, found = vectors.embeddings_for(tokenizer, table.shape[1], float(table.detach().std()), seed)
    with torch.no_grad():
        table[: len(values)] = torch.from_numpy(values)
    return found


def _classes(model_type: str) -> tuple[Any, Any]:
    match family_of(model_type):
        case "decoder":
            from myna.models.decoder import DecoderConfig, new_decoder

            return DecoderConfig, new_decoder
        case "rnn" | "lstm" | "gru":
            from myna.models.recurrent import Recurrent, RecurrentConfig

            return RecurrentConfig, Recurrent
        case "encoder":
            from myna.models.encoder import Encoder, EncoderConfig

            return EncoderConfig, Encoder
        case "encoder-decoder" if model_type == "attention_rnn":
            from myna.models.attention_rnn import AttentionRnn, AttentionRnnConfig

            return AttentionRnnConfig, AttentionRnn
        case "encoder-decoder":
            from myna.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

            return EncoderDecoderConfig, EncoderDecoder
        case _:
            raise ValueError(f"{model_type!r} is no neural model; those are in {MODEL_TYPES}")
