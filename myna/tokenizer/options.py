"""Options of the tokenizer stage (`myna tokenize`, `--tokenizer.*` of `myna build`).

    TokenizerOptions(kind="characters")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TokenizerOptions:
    """How the tokenizer is made."""

    kind: Literal["bpe", "characters", "words"] = "bpe"
    "bpe: byte-level BPE, learned merges; characters or words: one token for each seen in training, bytes for the others."
    vocab_size: int | None = None
    "Size of the vocabulary with its special tokens, rounded up to a multiple of 64; none chooses it from the corpus."
    sample_bytes: int = 64_000_000
    "Learn the merges from at most this much text, drawn at random; more changes the result little."
    sample_unspaced_bytes: int = 3_000_000
    "Stop the draw at this much text of scripts written without spaces (Chinese, Japanese, Thai), which takes more memory."
    seed: int = 0
    "Seed of the draw."
    special_tokens: tuple[str, ...] = ()
    "More special tokens, such as <|mask|>, after the four that every vocabulary has."
    words: str | None = None
    "For kind words: a file of Chinese words, lines `word [count]`; none learns them from the corpus."
