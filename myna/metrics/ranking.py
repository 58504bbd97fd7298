"""Scores of a ranked list of passages: recall at k, reciprocal rank, and discounted gain.

A score for each question; their mean and its interval are `paired`'s. Source: Manning, Raghavan and Schütze, "Introduction to Information
Retrieval" (2008), section 8.4; Järvelin and Kekäläinen 2002 (gain divided by the logarithm of rank + 1).

    recall_at(["b", "a"], {"a"}, 1), reciprocal_rank(["b", "a"], {"a"})      # 0.0, 0.5
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence


def recall_at(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Return the share of the relevant that is among the first k."""
    return len(set(ranked[:k]) & set(relevant)) / len(set(relevant)) if relevant else 0.0


def reciprocal_rank(ranked: Sequence[str], relevant: Collection[str], k: int | None = None) -> float:
    """Return 1 / the rank of the first relevant one among the first k (all, where none is given), 0 where there is none."""
    return next((1 / rank for rank, name in enumerate(ranked[:k], start=1) if name in relevant), 0.0)


def discounted_gain(ranked: Sequence[str], gains: Mapping[str, float], k: int) -> float:
    """Return nDCG at k: the gains of the first k, each divided by log2(rank + 1), over the best order's."""
    best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(sorted(gains.values(), reverse=True)[:k], start=1))
    found = sum(gains.get(name, 0.0) / math.log2(rank + 1) for rank, name in enumerate(ranked[:k], start=1))
    return found / best if best else 0.0
