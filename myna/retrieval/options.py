"""The options of an index and of a search in it.

    IndexOptions(passage_bytes=600)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from myna.errors import UserError

Mode = Literal["auto", "lexical", "dense", "hybrid"]


@dataclass(frozen=True)
class IndexOptions:
    """How documents become passages, fixed when an index is made."""

    passage_bytes: int = 1200
    "The longest passage in bytes: about 200 English words or 400 Chinese characters. Passages end where sentences do."
    encoder: str = ""
    "Also keep a vector of every passage, by this encoder: a model directory or a fetched name (minilm). Empty: words alone."

    def __post_init__(self) -> None:
        if not 64 <= self.passage_bytes <= 1 << 20:
            raise UserError(f"passage_bytes is {self.passage_bytes}", "64 to 1,048,576")


@dataclass(frozen=True)
class SearchOptions:
    """How an index is searched."""

    k: int = 5
    "Passages shown, the best first."
    mode: Mode = "auto"
    "lexical (BM25), dense (vectors), hybrid (both); auto is hybrid where the index has vectors."

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k is {self.k}", "1 or more")
