"""The families of language model, oldest first: what a person asks for by name, and which `model_type` in config.json belongs to each.

    family_of("llama")      # "decoder"
"""

from __future__ import annotations

from typing import Literal

Family = Literal["ngram", "unbounded", "hmm", "vectors", "rnn", "lstm", "gru", "decoder", "encoder", "encoder-decoder"]

MODEL_TYPES: dict[Family, tuple[str, ...]] = {  # the first is the one that a build makes unless told otherwise
    "ngram": ("ngram",),
    "unbounded": ("unbounded",),
    "hmm": ("hmm",),
    "vectors": ("vectors",),
    "rnn": ("rnn",),
    "lstm": ("lstm",),
    "gru": ("gru",),
    "decoder": ("qwen3", "llama", "gpt2", "mistral", "qwen2"),
    "encoder": ("bert", "roberta", "albert"),
    "encoder-decoder": ("t5", "marian", "bart", "attention_rnn", "whisper"),
}
OPENED: tuple[str, ...] = ("whisper",)  # opened and used, but never built from text: they want another kind of data
COUNTED: tuple[Family, ...] = ("ngram", "unbounded", "hmm", "vectors")  # made by counting or by their own fit, not by the training loop
CAUSAL: tuple[Family, ...] = ("ngram", "unbounded", "hmm", "rnn", "lstm", "gru", "decoder", "encoder-decoder")  # each a `LanguageModel`
LOADED = tuple(name for names in MODEL_TYPES.values() for name in names)


def family_of(model_type: str) -> Family | None:
    """Return the family of a config.json's model_type, None when Myna has none for it."""
    return next((family for family, names in MODEL_TYPES.items() if model_type in names), None)
