"""Read GGUF, llama.cpp's file format: its metadata as Python values, its tensors as float32, one at a time.

Nothing in the file is believed: every count, length, offset and type is held against the bytes that are there before anything
is allocated, and a file that does not add up is refused in one line. Tensors stay in a memory map until they are read.
Source: ggml's docs/gguf.md, versions 2 and 3 (the same layout, little-endian).

    file = open_gguf(Path("model.gguf"))
    file.metadata["general.architecture"], file.tensors["token_embd.weight"].read()     # "llama", float32 (V, C)
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from myna.errors import UserError, shown
from myna.formats.gguf_quants import KINDS, NAMES, count_bytes, dequantize

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8"}
# gguf_metadata_value_type
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MOST_VALUES = 1 << 22  # of all lists together; Gemma's 262,144 tokens with scores, types and 580,000 merges are a third of it
_MOST_TEXT = 128 << 20  # bytes of all metadata; Gemma's are about 15 MB
_LONGEST_KEY = (1 << 16) - 1  # gguf.md
_LONGEST_NAME = 255  # ggml's own limit is 64
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_LARGEST_ALIGNMENT = 1 << 16  # own choice: a page of any machine; files have 32
_LEAST_PAIR = 8 + 4 + 1  # bytes of a key and value: an empty key, a type, one byte
_LEAST_TENSOR = 8 + 4 + 8 + 4 + 8  # bytes of a tensor's entry: an empty name, a count, one size, a type, an offset
_AT_ONCE = 1 << 22  # numbers converted at a time: 16 MB of float32


@dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies in the file."""

    path: Path
    name: str
    dtype: str  # F32, F16, BF16, Q8_0, Q4_0, Q4_1
    shape: tuple[int, ...]  # slowest first, as numpy has it
    offset: int  # bytes from the beginning of the file

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def read(self) -> npt.NDArray[np.float32]:
        """Read the tensor as float32; blocks give the values that ggml computes from them."""
        rows = self.elements // self.shape[-1]
        raw = np.memmap(self.path, dtype=np.uint8, mode="r", offset=self.offset, shape=(rows, count_bytes(self.dtype, self.shape[-1])))
        out = np.empty((rows, self.shape[-1]), dtype=np.float32)
        step = max(1, _AT_ONCE // self.shape[-1])
        for first in range(0, rows, step):
            out[first : first + step] = dequantize(np.ascontiguousarray(raw[first : first + step]), self.dtype)
        return out.reshape(self.shape)


@dataclass(frozen=True)
class GGUF:
    """An open file."""

    path: Path
    version: int
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def count_types(self) -> dict[str, int]:
        """Count the tensors of each type."""
        kinds = [tensor.dtype for tensor in self.tensors.values()]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def open_gguf(path: Path) -> GGUF:
    """Read a file's metadata and its list of tensors.

    Raises UserError when it is none, is cut or damaged, or holds a tensor type that Myna does not read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).file()
    except FileNotFoundError:
        raise UserError(f"no file {path}", "a GGUF file", "check the path") from None
    except (OSError, ValueError) as error:  # a folder; an empty file cannot be mapped
        raise UserError(f"{path} cannot be read ({error})", "a GGUF file", "check the path") from None


class _Reader:
    """A place in the file that moves forward; every step is held against the end first."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at, self.values = path, data, len(data), 0, 0

    def file(self) -> GGUF:
        if self.data[:4] != MAGIC:
            raise UserError(f"{self.path} does not begin with GGUF", "a GGUF file", "check the path")
        self.at = 4
        version = self.number("<u4", "its version")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
            raise UserError(f"{self.path} is GGUF of version {version}" + (": it is big-endian" if swapped else ""),
                            "version 2 or 3, little-endian", "convert it with a newer llama.cpp")
        tensors, pairs = self.number("<u8", "its counts"), self.number("<u8", "its counts")
        if tensors * _LEAST_TENSOR + pairs * _LEAST_PAIR > self.size - self.at:
            raise self.damaged(f"announces {tensors:,} tensors and {pairs:,} keys, more than its {self.size:,} bytes hold")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.text("a key", _LONGEST_KEY)
            if key in metadata:
                raise self.damaged(f"has the key {shown(key)} twice")
            metadata[key] = self.value(key)
            if self.at > _MOST_TEXT:
                raise self.damaged(f"has more than {_MOST_TEXT >> 20} MiB of metadata")
        return GGUF(self.path, version, metadata, self.list_tensors(tensors, metadata))

    def list_tensors(self, count: int, metadata: dict[str, Any]) -> dict[str, GGUFTensor]:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise self.damaged(f"has the alignment {shown(alignment)}")
        if count * _LEAST_TENSOR > self.size - self.at:
            raise self.damaged(f"announces {count:,} tensors, more than its {self.size:,} bytes hold")
        listed: dict[str, tuple[str, tuple[int, ...], int]] = {}
        for _ in range(count):
            name = self.text("a tensor's name", _LONGEST_NAME)
            if name in listed:
                raise self.damaged(f"has the tensor {shown(name)} twice")
            listed[name] = self.entry(name)
        start = -(-self.at // alignment) * alignment
        found: dict[str, GGUFTensor] = {}
        for name, (kind, shape, offset) in listed.items():
            if offset % alignment or start + offset + count_bytes(kind, math.prod(shape)) > self.size:
                raise self.damaged(f"has the tensor {shown(name)} at {offset:,}, which is past its end or not at a multiple of {alignment}")
            found[name] = GGUFTensor(self.path, name, kind, shape, start + offset)
        for one, other in pairwise(sorted(found.values(), key=lambda tensor: tensor.offset)):
            if one.offset + count_bytes(one.dtype, one.elements) > other.offset:
                raise self.damaged(f"has the tensors {shown(one.name)} and {shown(other.name)} in one place")
        return found

    def entry(self, name: str) -> tuple[str, tuple[int, ...], int]:
        """Read what the list says of a tensor: type, shape, offset."""
        dimensions = self.number("<u4", name)
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise self.damaged(f"has the tensor {shown(name)} of {dimensions:,} dimensions")
        shape = tuple(self.number("<u8", name) for _ in range(dimensions))[::-1]
        code, offset = self.number("<u4", name), self.number("<u8", name)
        if code not in NAMES:
            raise UserError(f"{self.path} holds {shown(name)} in type {code} of ggml", "one of " + ", ".join(KINDS),
                            "take a file in one of these types")
        kind = KINDS[NAMES[code]]
        # Python's whole numbers do not overflow, so a product of sizes is what it is
        if not all(shape) or math.prod(shape) > self.size * kind.block:
            raise self.damaged(f"has the tensor {shown(name)} of shape {shown(list(shape))}, larger than the file or empty")
        if shape[-1] % kind.block:
            raise self.damaged(f"has the tensor {shown(name)} with rows of {shape[-1]:,}, no multiple of {kind.block}")
        return NAMES[code], shape, offset

    def value(self, key: str) -> Any:
        """Read one value of the metadata, a list included; lists of lists are refused, as llama.cpp does."""
        code = self.number("<u4", key)
        if code != _ARRAY:
            return self.single(code, key)
        inner, count = self.number("<u4", key), self.number("<u8", key)
        self.values += count
        if inner != _STRING and inner not in _SCALARS:
            raise self.damaged(f"has values of type {inner} in the list {shown(key)}")
        least = 8 if inner == _STRING else np.dtype(_SCALARS[inner]).itemsize
        if count * least > self.size - self.at or self.values > _MOST_VALUES:
            raise self.damaged(f"announces {count:,} values of {shown(key)}, more than there are or than any model has")
        if inner == _STRING:
            return [self.text(key) for _ in range(count)]
        numbers = np.frombuffer(self.take(count * least, key), dtype=_SCALARS[inner])
        return (numbers != 0).tolist() if inner == _BOOL else numbers.tolist()

    def single(self, code: int, key: str) -> Any:
        if code == _STRING:
            return self.text(key)
        if code not in _SCALARS:
            raise self.damaged(f"has a value of type {code} under {shown(key)}")
        value = self.number(_SCALARS[code], key)
        if code == _BOOL and value not in (0, 1):
            raise self.damaged(f"has the truth value {value} under {shown(key)}")
        return bool(value) if code == _BOOL else value

    def number(self, kind: str, what: str) -> Any:
        return np.frombuffer(self.take(np.dtype(kind).itemsize, what), dtype=kind)[0].item()

    def text(self, what: str, longest: int = _MOST_TEXT) -> str:
        length = self.number("<u8", what)
        if length > longest:
            raise self.damaged(f"has {shown(what)} of {length:,} bytes")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"has text that is no UTF-8 in {shown(what)}") from None

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise self.damaged(f"ends inside of {shown(what)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def damaged(self, said: str) -> UserError:
        return UserError(f"{self.path} {said}", "a whole GGUF file", "get it again")
