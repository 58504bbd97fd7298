"""Bits per byte, bits per character and perplexity per token, from the bits that each block of text cost.

Bits per byte compares models whatever their tokenizers: the bits of a text's tokens over the text's UTF-8 bytes. Perplexity per
token is 2 to the mean bits of a token and compares only models with the same tokenizer, which its signature names. Separators
are context, never scored. A block is about 2 KB of the text, cut at the same bytes whatever the tokenizer; a token's
bits belong to the block that holds its first byte.

    report = language_report(model_blocks, baseline_blocks, "n-gram")
    report.metrics["bits_per_byte"].value

N blocks
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.metrics.intervals import RESAMPLES
from myna.metrics.paired import Measure, measured_report, ratio
from myna.metrics.report import Report

Array = npt.NDArray[Any]

BLOCK_BYTES = 2048  # longer than the reach of most dependencies in a text, so that blocks are nearly independent
_FEWEST, _MOST = 20, 10_000  # blocks: under 20 the percentiles mean little; over 10,000 only time is spent
_SMALLEST = 64  # bytes of a block, of a very short text


@dataclass(frozen=True)
class Blocks:
    """What each block of a text cost a model: (N,) float64 arrays."""

    bits: Array
    bytes: Array
    characters: Array
    tokens: Array
    block_bytes: int
    tokenizer: str  # its fingerprint: perplexities compare only under the same

    @property
    def bits_per_byte(self) -> float:
        """Bits over bytes of the whole text."""
        return float(self.bits.sum() / self.bytes.sum())

    @property
    def loss(self) -> float:
        """Mean nats of a token."""
        return float(self.bits.sum() / self.tokens.sum() * np.log(2))


def block_size(text_bytes: int) -> int:
    """Choose the bytes of a block: 2048, less in a text too short for 20 of them, more in one that has over 10,000."""
    return max(_SMALLEST, min(BLOCK_BYTES, text_bytes // _FEWEST), text_bytes // _MOST)


def language_report(model: Blocks, baseline: Blocks | None = None, name: str = "", resamples: int = RESAMPLES, seed: int = 0) -> Report:
    """Score a model, and its baseline on the same blocks, with paired intervals.

    Raises UserError when the text has fewer than two blocks, ValueError when the two did not score the same text.
    """
    if len(model.bits) < 2:
        raise UserError(f"a text of {int(model.bytes.sum())} bytes", f"at least {2 * _SMALLEST} bytes, for an interval", "give more text")
    if baseline is not None and not (np.array_equal(model.bytes, baseline.bytes) and np.array_equal(model.characters, baseline.characters)):
        raise ValueError("model and baseline were not scored on the same text")
    measures = {}
    for metric, (above, below) in _METRICS.items():
        signatures = [_signature(metric, blocks, resamples, seed) for blocks in (model, baseline) if blocks]
        formula = perplexity if metric == "perplexity" else ratio
        measures[metric] = Measure(_columns(model, above, below), formula, signatures[0],
                                   None if baseline is None else _columns(baseline, above, below), signatures[-1], lower_is_better=True)
    return measured_report(measures, name if baseline is not None else "", resamples, seed)


_METRICS = {"bits_per_byte": ("bits", "bytes"), "bits_per_character": ("bits", "characters"), "perplexity": ("bits", "tokens")}


def _columns(blocks: Blocks, above: str, below: str) -> Array:
    return np.stack([getattr(blocks, above), getattr(blocks, below)], axis=1)


def perplexity(sums: Array) -> Array:
    """Return 2 to the mean of the first column: sums (R, 2) of bits and tokens to (R,)."""
    return np.exp2(ratio(sums))


def _signature(metric: str, blocks: Blocks, resamples: int, seed: int) -> str:
    per = f"|per=token|tokenizer={blocks.tokenizer[:12]}" if metric == "perplexity" else ""
    return f"{metric}{per}|bootstrap={resamples}|block={blocks.block_bytes}B|seed={seed}|stride=half|separator=context-only|v1"
