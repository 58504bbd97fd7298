"""Read safetensors as numpy arrays, one at a time, bfloat16 included.

numpy has no bfloat16, so the `safetensors` library cannot give those arrays without torch; it still checks the file's
header (names, shapes, bounds) here, and the bytes come from a memory map. A bfloat16 is the upper half of a float32.
Format: the README of the safetensors library, "Format".

    weights = open_weights(Path("my-model"))
    weights["model.norm.weight"].read()        # float32
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from myna.errors import UserError
from myna.files import read_json

_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a file."""

    path: Path
    dtype: str  # safetensors' word: F32, F16, BF16
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def read(self) -> npt.NDArray[np.float32]:
        """Read the tensor as float32, which holds every value of the three types exactly."""
        if 0 in self.shape:
            return np.zeros(self.shape, dtype=np.float32)
        raw = np.memmap(self.path, dtype=_TYPES[self.dtype], mode="r", offset=self.offset, shape=self.shape)
        if self.dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


def open_weights(folder: Path, ignored: Callable[[str], bool] = lambda name: False) -> dict[str, StoredTensor]:
    """List the tensors of `model.safetensors`, or of the files that `model.safetensors.index.json` names, without those `ignored`.

    Raises UserError when there is none, a file is damaged, or a tensor is not F32, F16 or BF16.
    """
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        described = read_json(index)
        mapped = described.get("weight_map") if isinstance(described, dict) else None
        if not isinstance(mapped, dict) or not all(isinstance(name, str) and Path(name).name == name for name in mapped.values()):
            raise UserError(f"{index} has no map from tensors to files beside it", "weight_map", "restore the file")
        names = sorted(set(mapped.values()))
    weights: dict[str, StoredTensor] = {}
    for name in names:
        weights |= _list(folder / name, ignored)
    return weights


def _list(path: Path, ignored: Callable[[str], bool]) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise UserError(f"no file {path}", "a model directory with safetensors", "check the path")
    try:
        with safe_open(path, framework="np") as file:  # refuses a header that is not whole, unique and within the file
            known = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            listed = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in known.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:120]})", "a safetensors file", "restore the file") from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    found = {}
    for name, (dtype, shape) in listed.items():
        if ignored(name):
            continue
        if dtype not in _TYPES:
            raise UserError(f"{name} in {path} is {dtype}", "one of " + ", ".join(_TYPES), "save the model in one of these types")
        found[name] = StoredTensor(path, dtype, shape, 8 + size + int(header[name]["data_offsets"][0]))
    return found
