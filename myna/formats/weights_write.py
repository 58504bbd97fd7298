"""Write safetensors one tensor at a time, so that a model larger than memory can be written; `weights.py` reads them.

The file is the length of the header, the header (JSON: type, shape and place of each tensor), then the bytes, end to end.
Format: the README of the safetensors library, "Format".

    write_weights(Path("model.safetensors"), [Written("model.norm.weight", "F32", (64,), lambda: ones)])
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from myna.errors import UserError
from myna.files import fsync
from myna.formats.gguf_quants import KINDS, quantize


@dataclass(frozen=True)
class Written:
    """One tensor of the file; `read` gives it as float32 when its turn comes."""

    name: str
    dtype: str  # F32, F16 or BF16: safetensors' words, and GGUF's
    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[np.float32]]


def write_weights(path: Path, tensors: Sequence[Written]) -> None:
    """Write a safetensors file, whole or not at all, holding one tensor in memory at a time.

    Raises UserError when a number does not fit its type.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # what transformers asks for
    end = 0
    for tensor in tensors:
        size = KINDS[tensor.dtype].size * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors:
                values = tensor.read()
                if values.shape != tensor.shape:
                    raise ValueError(f"{tensor.name} is {values.shape}, announced as {tensor.shape}")
                largest = 0.0 if tensor.dtype == "F32" else max(values.max(initial=0), -values.min(initial=0))
                if np.isfinite(largest) and largest > KINDS[tensor.dtype].largest:
                    raise UserError(f"{tensor.name} holds {largest:g}, too large for {tensor.dtype}", "weights within its range",
                                    "write it as float32")
                file.write(quantize(values, tensor.dtype).data)
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
