"""Options of evaluation.

    EvaluateOptions(resamples=500)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluateOptions:
    """How intervals are drawn."""

    resamples: int = 2000
    "Bootstrap resamples behind each 95 % interval."
    seed: int = 0
    "Seed of the bootstrap."
