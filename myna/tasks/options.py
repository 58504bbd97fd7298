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
