"""Read the binary in which CTranslate2 keeps a model: `model.bin`, names and arrays one after another.

Little-endian. u32 version, the specification's name, u32 revision, u32 count; then for each variable its name, u8 rank, rank u32
sizes, u8 type, u32 bytes, the bytes; then u32 count and pairs of names, a second name for a variable already listed. A name is u16
its length with the final NUL, and so many bytes. Versions 5 and 6 are alike. Source: CTranslate2's `ModelSpec` serialiser and its
`DataType` list. Every count and length is held against the file's size before anything is allocated.

    model = open_ctranslate2(Path("model.bin"))
    model.variables["encoder/conv1/weight"].read()        # float32
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from myna.errors import UserError

_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<u2"}  # CTranslate2's DataType; 5 is bfloat16, the upper half of a float32
_VERSIONS = (5, 6)
_LARGEST_COUNT = 100_000  # variables: far above every published model, so that a list of empty ones cannot take long
_LEAST = 9  # bytes of a variable: a name's length and its NUL, rank, type, bytes


@dataclass(frozen=True)
class Variable:
    """Where one array lies in the file; `type` is CTranslate2's number for what its elements are."""

    path: Path
    name: str
    type: int
    shape: tuple[int, ...]
    offset: int

    def read(self) -> npt.NDArray[np.float32]:
        """Read a floating-point array as float32, which holds every value exactly. Raises UserError when it holds whole numbers."""
        if self.type not in (0, 4, 5):
            raise UserError(f"{self.name} in {self.path} holds {_TYPES[self.type][1:]} (quantised)", "float32, float16 or bfloat16",
                            "convert the model again without quantization")
        raw = self._raw()
        return (raw.astype(np.uint32) << 16).view(np.float32) if self.type == 5 else raw.astype(np.float32)

    def number(self) -> int:
        """Read a single whole number. Raises UserError when it is none."""
        if self.type not in (1, 2, 3) or self.shape:
            raise UserError(f"{self.name} in {self.path} is no whole number", "one whole number", "restore the file")
        return int(self._raw())

    def _raw(self) -> npt.NDArray[Any]:
        kind = np.dtype(_TYPES[self.type])
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return np.frombuffer(file.read(math.prod(self.shape) * kind.itemsize), dtype=kind).reshape(self.shape)


@dataclass(frozen=True)
class CTranslate2:
    """A model file: which specification its names follow, its arrays, and second names for some of them."""

    specification: str
    revision: int
    variables: dict[str, Variable]
    aliases: dict[str, str]


def open_ctranslate2(path: Path) -> CTranslate2:
    """List what a `model.bin` holds; raises UserError when it is not one, is cut, or says a size that it does not have."""
    if not path.is_file():
        raise UserError(f"no file {path}", "the model.bin of a CTranslate2 model", "check the path")
    with path.open("rb") as file:
        reader = _Reader(path, file, path.stat().st_size)
        version = reader.whole("<I")
        if version not in _VERSIONS:
            raise UserError(f"{path} begins with version {version:,}", f"a CTranslate2 model of version {_VERSIONS[0]} or {_VERSIONS[1]}")
        specification, revision = reader.text(), reader.whole("<I")
        variables: dict[str, Variable] = {}
        for _ in range(reader.count(_LEAST)):
            variable = reader.variable()
            if variable.name in variables:
                raise reader.wrong(f"lists {variable.name!r} twice")
            variables[variable.name] = variable
        aliases: dict[str, str] = {}
        for _ in range(reader.count(6)):  # two names
            alias, name = reader.text(), reader.text()
            if name not in variables or alias in variables or alias in aliases:
                raise reader.wrong(f"has an alias {alias!r} for {name!r}")
            aliases[alias] = name
        if reader.left():
            raise reader.wrong(f"goes on for {reader.left():,} bytes after its end")
    return CTranslate2(specification, revision, variables, aliases)


class _Reader:
    """A file read from its beginning, where nothing is taken that is not there."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size

    def left(self) -> int:
        return self.size - self.file.tell()

    def wrong(self, what: str) -> UserError:
        return UserError(f"{self.path} {what}", "a whole CTranslate2 model", "restore the file")

    def take(self, size: int) -> bytes:
        if size > self.left():
            raise self.wrong(f"ends after {self.size:,} bytes, where {size:,} more should follow byte {self.file.tell():,}")
        return self.file.read(size)

    def whole(self, kind: str) -> int:
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind)))
        return int(value)

    def count(self, least: int) -> int:
        count = self.whole("<I")
        if count > min(_LARGEST_COUNT, self.left() // least):
            raise self.wrong(f"says it holds {count:,} entries")
        return count

    def text(self) -> str:
        raw = self.take(self.whole("<H"))
        if not raw.endswith(b"\0") or not raw[:-1].isascii() or not raw[:-1].decode("ascii").isprintable():
            raise self.wrong(f"has a damaged name at byte {self.file.tell() - len(raw):,}")
        return raw[:-1].decode("ascii")

    def variable(self) -> Variable:
        name = self.text()
        shape = struct.unpack(f"<{(rank := self.whole('<B'))}I", self.take(4 * rank))
        kind, size = self.whole("<B"), self.whole("<I")
        if kind not in _TYPES:
            raise self.wrong(f"gives {name!r} the unknown type {kind}")
        wanted = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if size != wanted or size > self.left():
            raise self.wrong(f"gives {name!r} {size:,} bytes where its shape takes {wanted:,} and {self.left():,} are left")
        found = Variable(self.path, name, kind, shape, self.file.tell())
        self.file.seek(size, 1)
        return found
