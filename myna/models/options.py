"""Options of the models that are not trained by gradient descent. Imported by the command line, so nothing heavy here.

    NgramOptions(order=5, smoothing="kneser_ney")
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Smoothing = Literal["kneser_ney", "witten_bell"]


@dataclass(frozen=True)
class NgramOptions:
    """How the n-gram baseline is estimated."""

    order: int | None = None
    "Length of the longest n-gram; none chooses it on the validation split."
    max_order: int = 6
    "Longest order tried when it is chosen; counting stops earlier when an order no longer helps."
    smoothing: Smoothing | None = None
    "kneser_ney (modified, interpolated) or witten_bell; none chooses on the validation split."
    max_tokens: int = 8_000_000
    "Count at most this many training tokens, from documents drawn at random; memory stays under 300 bytes a token."
