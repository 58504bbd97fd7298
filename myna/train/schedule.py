"""The learning rate over time: up, level, down to zero (Hägele et al. 2024: a level rate with a decay matches cosine).

    [rate_factor(step, 100, 60, TrainOptions()) for step in range(100)]
"""

from __future__ import annotations

import math

from myna.train.options import TrainOptions


def decay_start(steps: int, options: TrainOptions) -> int:
    """Return the step at which the rate begins to fall."""
    return steps - max(1, round(options.decay * steps))


def rate_factor(step: int, steps: int, start: int, options: TrainOptions) -> float:
    """Return the factor, 0 to 1, of the peak rate at `step` (from 0) of `steps`, when the decay begins at `start`."""
    rise = min(1.0, (step + 1) / max(1.0, options.warmup * steps))
    if step < start or options.schedule == "constant":
        return rise
    left = (steps - step) / (steps - start)  # 1 at the start of the decay; the step after the last would have 0
    fall = left if options.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return min(rise, fall)
