"""Write GGUF, llama.cpp's file format: metadata and arrays in, one file out.

A file is: "GGUF", version 3, the counts, the metadata, the list of tensors, then the tensors, each at a multiple of 32
bytes. Everything is little-endian. Dimensions are listed fastest first, the reverse of numpy's. `gguf_read.py` is the way back.
Source: ggml's docs/gguf.md (version 3).

    write_gguf(Path("model.gguf"), {"general.architecture": "qwen3"}, [Tensor("output_norm.weight", (64,), "F32", lambda: ones)])
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import fsync
from myna.formats.gguf_quants import KINDS, count_bytes, quantize

ALIGNMENT = 32  # bytes; the default of the format
_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64 = 4, 5, 6, 7, 8, 9, 10  # gguf_metadata_value_type
_ROWS_AT_ONCE = 1 << 22  # numbers converted at a time: 16 MB of float32

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class Tensor:
    """One array of the file; `read` gives it as float32 when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # one of gguf_quants.KINDS
    read: Callable[[], npt.NDArray[np.float32]]

    def size(self) -> int:
        """Count the bytes it takes in the file."""
        return count_bytes(self.dtype, math.prod(self.shape))


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> None:
    """Write a GGUF file, whole or not at all, holding one tensor in memory at a time.

    Raises UserError when a number is not finite or does not fit its type.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata)))
            for key, value in metadata.items():
                file.write(_string(key) + _value(value))
            offset = 0
            for tensor in tensors:
                file.write(_string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape)))
                file.write(struct.pack("<IQ", KINDS[tensor.dtype].code, offset))
                offset += _aligned(tensor.size())
            _pad(file)
            for tensor in tensors:
                _write_tensor(file, tensor)
                _pad(file)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    values = tensor.read()
    if values.shape != tensor.shape:
        raise ValueError(f"{tensor.name} is {values.shape}, announced as {tensor.shape}")
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, _ROWS_AT_ONCE // rows.shape[1])
    for first in range(0, len(rows), step):
        file.write(_convert(rows[first : first + step], tensor).tobytes())


def _convert(rows: npt.NDArray[np.float32], tensor: Tensor) -> npt.NDArray[np.uint8]:
    if not np.isfinite(rows).all():
        raise UserError(f"{tensor.name} holds a number that is not finite", "finite weights", "train the model again")
    if np.abs(rows).max(initial=0) > KINDS[tensor.dtype].largest:
        raise UserError(f"{tensor.name} holds a number too large for {tensor.dtype}", "weights within its range", "export it as f32")
    return quantize(rows, tensor.dtype)


def _value(value: Value) -> bytes:
    """Encode a metadata value with its type: whole numbers are uint32 where they fit, numbers float32, lists int32 or float32."""
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value) if value < 1 << 32 else struct.pack("<IQ", _UINT64, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    strings = [item for item in value if isinstance(item, str)]
    if strings or not value:
        return struct.pack("<IIQ", _ARRAY, _STRING, len(strings)) + b"".join(map(_string, strings))
    if any(isinstance(item, float) for item in value):
        return struct.pack("<IIQ", _ARRAY, _FLOAT32, len(value)) + np.asarray(value, dtype="<f4").tobytes()
    return struct.pack("<IIQ", _ARRAY, _INT32, len(value)) + np.asarray(value, dtype="<i4").tobytes()


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_aligned(file.tell()) - file.tell()))
