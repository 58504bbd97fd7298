"""95 % intervals by the paired bootstrap over blocks of text.

A score of a text is a ratio of sums (bits over bytes), so it is sums that are resampled: blocks are drawn with replacement, the
same draw for every column, hence for model and baseline. The percentile interval of the model's score says how far another
text of this kind could move it; that of the paired difference, which the difficulty of the text leaves alone, says
whether the model is better.

Source: B. Efron and R. Tibshirani, "An introduction to the bootstrap" (1993), section 13.3 (percentile interval); P. Koehn,
"Statistical significance tests for machine translation evaluation", EMNLP 2004 (pairing by segment).

    sums = resampled_sums(np.stack([bits, baseline_bits, sizes], axis=1))
    percentile_interval(sums[:, 0] / sums[:, 2])
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

RESAMPLES = 2000  # Efron & Tibshirani, section 14.5: 1000 or more for the 2.5 % tails
_DRAWS_AT_ONCE = 1 << 20  # block indices held in memory


def resampled_sums(columns: Array, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Sum each column over `resamples` draws of rows with replacement: (blocks, M) to (resamples, M)."""
    blocks = len(columns)
    if blocks < 2:
        raise ValueError(f"an interval needs at least 2 blocks, got {blocks}")
    generator = np.random.default_rng(seed)
    out = np.empty((resamples, columns.shape[1]))
    at_once = max(1, _DRAWS_AT_ONCE // blocks)
    for start in range(0, resamples, at_once):
        drawn = generator.integers(0, blocks, size=(min(at_once, resamples - start), blocks))
        for column in range(columns.shape[1]):
            out[start:start + len(drawn), column] = columns[:, column][drawn].sum(axis=1)
    return out


def percentile_interval(samples: Array) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentiles."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)
