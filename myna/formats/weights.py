"""Read safetensors as numpy arrays, one at a time, bfloat16 included.

numpy has no bfloat16, so the `safetensors` library cannot give those arrays without torch; it still checks the file's
header (names, shapes, bounds) here, and the bytes come from a memory map. A bfloat16 is the upper half of a float32.
Nothing is believed: only regular files beside the index are opened, a header is small, and no tensor is held twice.
Format: the README of the safetensors library, "Format".

    weights = open_weights(Path("my-model"))
    weights["model.norm.weight"].read()        # float32
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from myna.errors import UserError, shown
from myna.files import read_json

_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<i2"}
_MOST_HEADER = 16 << 20  # bytes; a hundred thousand tensors take about 12 MiB, the largest published models have fewer in a file
_BESIDE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")  # a plain file name, so never a path out of the folder
_MOST_INDEX = 32 << 20  # bytes; likewise, for all files together


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

    def same(self, other: StoredTensor) -> bool:
        """Tell whether another tensor is equal bit by bit."""
        return (self.dtype, self.shape) == (other.dtype, other.shape) and bool(np.array_equal(self.map(), other.map()))

    def map(self) -> npt.NDArray[Any]:
        """Map the tensor's bytes as they lie in the file, nothing read yet: float32, float16, or int16 for a bfloat16's bits."""
        if 0 in self.shape:
            return np.zeros(self.shape, dtype=_TYPES[self.dtype])
        # "c": writable for torch's sake; what were written would stay in memory
        return np.memmap(self.path, dtype=_TYPES[self.dtype], mode="c", offset=self.offset, shape=self.shape)

    def read(self) -> npt.NDArray[np.float32]:
        """Read the tensor as float32, which holds every value of the three types exactly."""
        raw = self.map()
        if self.dtype == "BF16":
            wide = np.empty(self.shape, dtype=np.uint32)
            np.left_shift(raw.view(np.uint16), 16, out=wide, dtype=np.uint32)
            return wide.view(np.float32)
        return raw.astype(np.float32)


def open_weights(folder: Path, ignored: Callable[[str], bool] = lambda name: False) -> dict[str, StoredTensor]:
    """List the tensors of `model.safetensors`, or of the files that `model.safetensors.index.json` names, without those `ignored`.

    As in `transformers`, an index beside a whole file is not read. Raises UserError when there is none, a file is damaged or named
    outside of the folder, or a tensor is held twice or is not F32, F16 or BF16.
    """
    index, names = folder / "model.safetensors.index.json", ["model.safetensors"]
    if not (folder / "model.safetensors").is_file() and index.is_file():
        names = _shards(index)
    weights: dict[str, StoredTensor] = {}
    for name in names:
        found = list_tensors(folder / name, ignored)
        if twice := weights.keys() & found.keys():
            raise UserError(f"{folder} holds {shown(min(twice))} in two files", "each weight once", "restore the directory")
        weights |= found
    return weights


def _shards(index: Path) -> list[str]:
    """Return the files of an index, each beside it."""
    described = read_json(index, _MOST_INDEX)
    mapped = described.get("weight_map") if isinstance(described, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise UserError(f"{index} has no map from tensors to files beside it", "weight_map", "restore the file")
    for name in mapped.values():
        if not isinstance(name, str) or not _BESIDE.fullmatch(name):
            raise UserError(f"{index} leads to {shown(name)}", "safetensors files beside it", "restore the file")
    return sorted(set(mapped.values()))


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a safetensors file, one that `list_tensors` has read, says of itself beside its tensors."""
    with safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})


def list_tensors(path: Path, ignored: Callable[[str], bool] = lambda name: False) -> dict[str, StoredTensor]:
    """List the tensors of one safetensors file, without those `ignored`. Raises UserError as `open_weights`."""
    if not path.is_file():  # a link to a file is one; a folder, a pipe or a device is not
        raise UserError(f"no file {path}", "a model directory with safetensors", "check the path")
    if path.stat().st_size < 8:  # the files of /proc have no size, and some wait for ever
        raise UserError(f"{path} has {path.stat().st_size} bytes", "a safetensors file", "restore the file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _MOST_HEADER:
                raise UserError(f"{path} cannot be read (a header of {size:,} bytes)", f"at most {_MOST_HEADER:,}", "restore the file")
            header = file.read(size)
        with safe_open(path, framework="np") as opened:  # refuses a header that is not whole, unique and within the file
            known = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dictionary)
            listed = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in known.items()}
        places = json.loads(header)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        said = "".join(c if c.isprintable() else "?" for c in str(error)[:100])
        raise UserError(f"{path} cannot be read ({said})", "a safetensors file", "restore the file") from None
    found = {}
    for name, (dtype, shape) in listed.items():
        if ignored(name):
            continue
        if dtype not in _TYPES:
            raise UserError(f"{shown(name)} in {path} is {dtype}", "one of " + ", ".join(_TYPES), "save the model in one of these types")
        found[name] = StoredTensor(path, dtype, shape, 8 + size + int(places[name]["data_offsets"][0]))
    return found
