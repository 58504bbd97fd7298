"""Options of planning and training. Imported by the command line, so nothing heavy here.

    TrainOptions(optimizer="adamw", learning_rate=0.003)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class PlanOptions:
    """What to train; every none is chosen by the plan for the text and the time there is."""

    model_type: str | None = None
    "Style within the family: qwen3, llama, gpt2, mistral or qwen2; bert, roberta or albert; t5, marian or attention_rnn."
    hidden_size: int | None = None
    "Width of the model; of a Transformer a multiple of head_dim."
    num_hidden_layers: int | None = None
    "Depth of the model."
    intermediate_size: int | None = None
    "Width of the MLP; none is 8/3 of hidden_size."
    head_dim: int | None = None
    "Width of an attention head: 32, 64 or 128; none is 64."
    num_key_value_heads: int | None = None
    "Heads that keep keys and values; none is half of the attention heads, or one."
    dropout: float = 0.0
    "Share of the activations set to zero in training."
    vectors: Path | None = None
    "Word vectors (a directory of `--family vectors`) that the embedding table begins with, for the tokens they know."
    context: int | None = None
    "Tokens the model sees at once; of a recurrent model, tokens through which a gradient flows back."
    batch_tokens: int | None = None
    "Tokens per optimizer step."
    micro_tokens: int = 8192
    "Tokens in memory at once at most; a larger batch is accumulated, which changes nothing but memory and time."
    max_epochs: float = 12.0
    "Passes over the training text at most: own choice, not yet measured; time beyond that is given back."
    precision: Literal["bfloat16", "float32"] | None = None
    "Type of the products; weights are always kept in float32. none takes bfloat16 where this machine multiplies it faster."


@dataclass(frozen=True)
class TrainOptions:
    """How to train."""

    optimizer: Literal["muon", "adamw", "adam", "sgd"] | None = None
    "muon: Muon for the matrices inside the layers, AdamW for the rest; none is adamw for recurrent models, muon for the others."
    learning_rate: float | None = None
    "Peak rate of the layers' matrices; none is what the family trains best with (docs/training.md)."
    embedding_learning_rate: float | None = None
    "Peak rate of embeddings, head and norms under muon; none is 0.03."
    weight_decay: float | None = None
    "Decay of the matrices: decoupled for muon and adamw, added to the gradient for adam and sgd; none is the family's."
    momentum: float = 0.95
    "Momentum of muon and sgd."
    beta1: float = 0.8
    "Decay of AdamW's mean gradient."
    beta2: float = 0.95
    "Decay of AdamW's mean squared gradient."
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    "Shape of the decay to zero at the end."
    warmup: float = 0.02
    "Share of the steps in which the rate rises."
    decay: float = 0.6
    "Share of the steps, at the end, in which the rate falls."
    gradient_clip: float = 1.0
    "Largest norm of the gradient; larger ones are scaled down to it."
    validations: int = 6
    "Points of the validation curve, each with a sample."
    checkpoint_seconds: float = 60.0
    "Time between checkpoints."
