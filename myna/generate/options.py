"""The options of generation: how the next token is drawn and when a text ends.

    SampleOptions(max_tokens=64, temperature=0.0)       # greedy
    SampleOptions(top_p=0.9, stop=("\\n\\n",), seed=1)
"""

from __future__ import annotations

from dataclasses import dataclass

from myna.errors import UserError


@dataclass(frozen=True)
class SampleOptions:
    """How to continue a prompt. Raises UserError when a value is out of its range."""

    max_tokens: int = 128
    "Draw at most this many tokens."
    temperature: float = 0.8
    "Divide log-probabilities by this: below 1 is safer, above 1 is wilder, 0 always takes the likeliest token (greedy)."
    top_k: int = 0
    "Keep only the k likeliest tokens; 0 keeps all."
    top_p: float = 0.95
    "Keep the fewest tokens that hold this share of the probability (nucleus sampling); 1 keeps all."
    min_p: float = 0.0
    "Drop tokens less likely than this share of the likeliest one; 0 drops none."
    repetition_penalty: float = 1.0
    "Make tokens already in the prompt or the text less likely (above 1) or likelier (below 1)."
    stop: tuple[str, ...] = ()
    "End before this string."
    seed: int | None = None
    "Draw the same text again; without it every call draws another."
    n: int = 1
    "How many texts to draw from the same prompt."
    num_beams: int = 1
    "Search for the likeliest text with this many candidates at a time (beam search) instead of drawing; 1 draws."
    length_penalty: float = 1.0
    "With beams: divide a text's log-probability by its length to this power; above 1 favours longer texts."
    penalty_alpha: float = 0.0
    "Contrastive search instead of drawing: what it costs a token to be like the text before it; try 0.6 with --top-k 4; 0 draws."

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("max_tokens", self.max_tokens >= 1, "a whole number, at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "a number, 0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "a whole number, 0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "a number from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a number above 0 (1 changes nothing)"),
            ("stop", "" not in self.stop, "strings of at least one character"),
            ("seed", self.seed is None or self.seed >= 0, "a whole number, 0 or more"),
            ("n", self.n >= 1, "a whole number, at least 1"),
            ("num_beams", self.num_beams >= 1, "a whole number, at least 1"),
            ("penalty_alpha", 0 <= self.penalty_alpha <= 1, "a number from 0 (off) to 1"),
            ("length_penalty", -100 < self.length_penalty < 100, "a number from -100 to 100"),
        ):
            if not good:
                raise UserError(f"{name} is {getattr(self, name)!r}", expected)


@dataclass(frozen=True)
class FillOptions:
    """How blanks are filled."""

    n: int = 5
    "Fillings shown, the likeliest first."
    max_pieces: int = 3
    "Pieces of the vocabulary that a blank may take at most."
