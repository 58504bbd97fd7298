"""The number formats of a GGUF file: plain floats, and blocks of 32 numbers that share a scale; both directions.

Q8_0 is a float16 scale and 32 int8. Q4_0 is a scale and 32 numbers of 4 bits less 8; Q4_1 a scale, a least value and 32 numbers
of 4 bits. The first 16 numbers of a block are the low halves of its bytes, the last 16 the high halves.
Source: ggml-common.h (the blocks) and `quantize_row_*_ref`, `dequantize_row_*` of ggml-quants.c.

    raw = quantize(rows, "Q4_0")                         # float32 (R, C) to bytes (R, C / 32 * 18)
    again = dequantize(raw, "Q4_0")                      # and back, rounded

N blocks of 32 numbers
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 32  # numbers that share a scale (QK8_0, QK4_0, QK4_1 in ggml-common.h)
_LARGEST = float(np.finfo(np.float16).max)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """One number format."""

    code: int
    "ggml_type of ggml.h."
    block: int
    "Numbers per block; 1: no blocks."
    size: int
    "Bytes per block."
    largest: float
    "The largest number it holds: a block's float16 scale is its largest number over the number of steps."


KINDS = {
    "F32": Kind(0, 1, 4, float(np.finfo(np.float32).max)), "F16": Kind(1, 1, 2, _LARGEST),
    "BF16": Kind(30, 1, 2, float.fromhex("0x1.fep127")),
    "Q4_0": Kind(2, BLOCK, 18, _LARGEST * 8), "Q4_1": Kind(3, BLOCK, 20, _LARGEST), "Q8_0": Kind(8, BLOCK, 34, _LARGEST * 127)}
NAMES = {kind.code: name for name, kind in KINDS.items()}


def count_bytes(kind: str, count: int) -> int:
    """Count the bytes of `count` numbers, a multiple of the block."""
    return count // KINDS[kind].block * KINDS[kind].size


def quantize(rows: Floats, kind: str) -> Bytes:
    """Turn float32 (R, C) into the bytes (R, ...) of a format, bit for bit as ggml's reference does. C divides by the block."""
    match kind:
        case "F32":
            out: npt.NDArray[Any] = np.ascontiguousarray(rows, dtype="<f4")
        case "F16":
            out = np.ascontiguousarray(rows, dtype="<f2")
        case "BF16":
            out = round_bfloat16(rows)
        case _:
            blocks = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, BLOCK)  # (N, 32)
            return _QUANTIZE[kind](blocks).reshape(len(rows), -1)
    return out.view(np.uint8)


def dequantize(raw: Bytes, kind: str) -> Floats:
    """Turn the bytes (R, ...) of a format into float32 (R, C), the values exactly as ggml computes them."""
    match kind:
        case "F32":
            return raw.view("<f4").astype(np.float32)
        case "F16":
            return raw.view("<f2").astype(np.float32)
        case "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case _:
            blocks = raw.reshape(-1, KINDS[kind].size)  # (N, bytes)
            return _DEQUANTIZE[kind](blocks).reshape(len(raw), -1)


def round_bfloat16(values: Floats) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16, the upper 16 bits, to the nearest and halves to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype("<u2")
    return np.where(np.isnan(values), ((bits >> 16) | 64).astype("<u2"), rounded)


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _quantize_q8_0(blocks: Floats) -> Bytes:
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)  # (N, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = blocks * _inverse(scale)
    size = np.abs(scaled)
    whole = np.floor(size)
    levels = np.copysign(whole + (size - whole >= 0.5), scaled)  # halves away from zero, as C's roundf
    return np.concatenate((_half(scale), levels.astype(np.int8).view(np.uint8)), axis=1)


def _quantize_q4_0(blocks: Floats) -> Bytes:
    place = np.abs(blocks).argmax(axis=1)[:, None]
    scale = np.take_along_axis(blocks, place, axis=1) / np.float32(-8)  # the number farthest from 0 becomes level 0, exactly -8
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.trunc(blocks * _inverse(scale) + np.float32(8.5))
    return np.concatenate((_half(scale), _pack(levels)), axis=1)


def _quantize_q4_1(blocks: Floats) -> Bytes:
    least = blocks.min(axis=1, keepdims=True)
    scale = (blocks.max(axis=1, keepdims=True) - least) / np.float32(15)
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.trunc((blocks - least) * _inverse(scale) + np.float32(0.5))
    return np.concatenate((_half(scale), _half(least), _pack(levels)), axis=1)


def _dequantize_q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * _unhalf(blocks, 0)


def _dequantize_q4_0(blocks: Bytes) -> Floats:
    return _unhalf(blocks, 0) * (_unpack(blocks[:, 2:]) - np.float32(8))


def _dequantize_q4_1(blocks: Bytes) -> Floats:
    return _unhalf(blocks, 0) * _unpack(blocks[:, 4:]) + _unhalf(blocks, 2)


def _half(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _unhalf(blocks: Bytes, at: int) -> Floats:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _pack(levels: Floats) -> Bytes:
    small = np.clip(levels, 0, 15).astype(np.uint8)
    packed: Bytes = np.bitwise_or(small[:, : BLOCK // 2], small[:, BLOCK // 2 :] << 4, dtype=np.uint8)
    return packed


def _unpack(packed: Bytes) -> Floats:
    return np.concatenate((packed & 15, packed >> 4), axis=1).astype(np.float32)


_QUANTIZE: dict[str, Callable[[Floats], Bytes]] = {"Q8_0": _quantize_q8_0, "Q4_0": _quantize_q4_0, "Q4_1": _quantize_q4_1}
_DEQUANTIZE: dict[str, Callable[[Bytes], Floats]] = {"Q8_0": _dequantize_q8_0, "Q4_0": _dequantize_q4_0, "Q4_1": _dequantize_q4_1}
