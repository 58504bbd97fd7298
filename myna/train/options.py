"""Options of planning and training. Imported by the command line, so nothing heavy here.

    TrainOptions(optimizer="adamw", learning_rate=0.003)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from myna.errors import UserError

EPOCHS = 3.0  # passes over the rows at most where a trained model is tuned: a usual number, not measured
NEW_EPOCHS = 30.0  # of a small model from nothing, of which the weights that were best on the validation part are kept: own choice


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


@dataclass(frozen=True)
class TuneOptions:
    """What the user decides of a tuning."""

    task: Literal["language", "classify", "tag", "complete", "summarize", "translate", "answer"] = "language"
    "What is learned: language (text, answers), classify and tag (labels of texts, of words), complete (bodies of functions), summarize, "
    "translate (pairs of a text and its translation), answer (questions with their passages)."
    minutes: float = 10.0
    "Time for everything, from reading the rows to writing the report."
    steps: int | None = None
    "Train exactly this many steps instead of by time."
    method: Literal["lora", "full", "head"] = "lora"
    "lora: small matrices beside those of the model (the adapter is what is saved); full: every weight; head: the last norm and lm_head."
    rank: int = 16
    "LoRA: rank of the change of each matrix."
    alpha: float | None = None
    "LoRA: the change is multiplied by alpha / rank; none is twice the rank."
    targets: tuple[str, ...] = ("all-linear",)
    "LoRA: ends of the names of the matrices changed, as q_proj,v_proj; all-linear is every matrix of the layers."
    learning_rate: float | None = None
    "Peak rate of AdamW; none is 2e-4 for lora, 2e-5 for full and 1e-4 for head: usual values, not swept."
    context: int | None = None
    "Tokens of a row; none is 128, 256 or 512, so that nine of ten examples fit."
    batch_tokens: int | None = None
    "Tokens of an optimizer step; none is chosen by how many there will be."
    micro_tokens: int = 512
    "Tokens in memory at once at most; a larger batch is accumulated, which changes nothing but memory and time."
    max_epochs: float | None = None
    "Passes over the rows at most; none is 3 where a trained model is tuned, and more for one from nothing. Time beyond is given back."
    precision: Literal["bfloat16", "float32"] | None = None
    "Type of the products, and of what LoRA freezes; what is trained is kept in float32. none: bfloat16 where it is the faster here."
    model_type: Literal["t5", "attention_rnn"] = "t5"
    "A translator from nothing: t5 (a Transformer) or attention_rnn (a GRU that looks back at the source)."
    merge: bool = False
    "LoRA: write the merged whole model too, in DIR/merged."
    unrelated: Path | None = None
    "A text on which it is measured what the tuning cost elsewhere; none is Python's own help texts."
    seed: int = 0
    "Seed of the adapter's first weights and of the order of the rows."
    threads: int | None = None
    "Processor threads to train with; none takes all this process may use."

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("minutes", 0 < self.minutes < float("inf"), "a number above 0"),
            ("seed", 0 <= self.seed < 1 << 63, "a whole number, 0 or more"),
            ("rank", self.rank >= 1, "a whole number, at least 1"),
            ("max_epochs", self.max_epochs is None or self.max_epochs > 0, "a number above 0"),
            ("micro_tokens", self.micro_tokens >= 1, "a whole number, at least 1"),
            ("alpha", self.alpha is None or self.alpha > 0, "a number above 0"),
            ("learning_rate", self.learning_rate is None or 1e-8 <= self.learning_rate <= 1e3, "a number from 1e-8 to 1e3"),
            ("context", self.context is None or self.context >= 8, "a whole number, at least 8"),
            *((name, getattr(self, name) is None or getattr(self, name) >= 1, "a whole number, at least 1")
              for name in ("steps", "threads", "batch_tokens")),
        ):
            if not good:
                raise UserError(f"{name} is {getattr(self, name)!r}", expected)
