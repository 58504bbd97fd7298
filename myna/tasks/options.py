"""The options of tasks.

    TranscribeOptions(language="en", num_beams=5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from myna.errors import UserError


@dataclass(frozen=True)
class TranscribeOptions:
    """How speech becomes text. Raises UserError when a value is out of its range."""

    language: str = ""
    "What is spoken, as en or zh; not given: a model of several languages finds it out from the first half minute."
    task: Literal["transcribe", "translate"] = "transcribe"
    "Write what is said, or its translation into English (models of several languages)."
    num_beams: int = 1
    "Search for the likeliest text with this many candidates at a time; 1 always takes the likeliest token."

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise UserError(f"num_beams is {self.num_beams}", "a whole number, at least 1")


@dataclass(frozen=True)
class CompleteOptions:
    """How the body of a function is written. Raises UserError when a value is out of its range."""

    max_tokens: int = 256
    "Write at most this many tokens."
    temperature: float = 0.0
    "0 takes the likeliest token each time; above 0, tokens are drawn, more freely the higher it is."
    seed: int | None = None
    "Makes drawn tokens repeatable."

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}", "a whole number, at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}", "a number, at least 0")


@dataclass(frozen=True)
class TranslateOptions:
    """How a translation is searched for. Raises UserError when a value is out of its range."""

    num_beams: int = 4
    "Search for the likeliest translation with this many candidates at a time; 1 always takes the likeliest token."
    length_penalty: float = 1.0
    "Divide a translation's log-probability by its length to this power; above 1 favours longer ones."

    def __post_init__(self) -> None:
        if not 1 <= self.num_beams <= 64:
            raise UserError(f"num_beams is {self.num_beams}", "a whole number from 1 to 64")
        if not -10 <= self.length_penalty <= 10:
            raise UserError(f"length_penalty is {self.length_penalty}", "a number from -10 to 10")
