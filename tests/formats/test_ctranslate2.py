"""CTranslate2's model.bin: what is written is read, and what a file says of itself is never trusted."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myna.errors import UserError
from myna.formats.ctranslate2 import open_ctranslate2

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def text(name: str) -> bytes:
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def variable(name: str, values: Any) -> bytes:
    values = np.asarray(values)
    raw = values.tobytes()
    return (text(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
            + struct.pack("<BI", TYPES[values.dtype.name], len(raw)) + raw)


def model_bytes(variables: dict[str, Any], aliases: dict[str, str], version: int = 6, specification: str = "WhisperSpec") -> bytes:
    out = struct.pack("<I", version) + text(specification) + struct.pack("<II", 3, len(variables))
    out += b"".join(variable(name, values) for name, values in variables.items()) + struct.pack("<I", len(aliases))
    return out + b"".join(text(alias) + text(name) for alias, name in aliases.items())


VALUES = {"a/weight": np.arange(6, dtype=np.float16).reshape(2, 3) / 3, "b": np.float32([1.5, -2]), "heads": np.int16(6),
          "quantised": np.int8([1, 2])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_bytes(model_bytes(VALUES, {"head": "a/weight"}))
    return tmp_path / "model.bin"


def test_everything_written_is_read(path: Path) -> None:
    found = open_ctranslate2(path)
    assert (found.specification, found.revision, found.aliases) == ("WhisperSpec", 3, {"head": "a/weight"})
    assert list(found.variables) == list(VALUES)
    for name in ("a/weight", "b"):
        read = found.variables[name].read()
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, VALUES[name].astype(np.float32))
    assert found.variables["heads"].number() == 6
    with pytest.raises(UserError, match=r"quantised in .* holds i1 \(quantised\)"):
        found.variables["quantised"].read()
    with pytest.raises(UserError, match="no whole number"):
        found.variables["b"].number()


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path) -> None:
    raw = model_bytes({"x": np.array([0x3FC0, 0xC000], dtype=np.uint16).view(np.float16)}, {})
    (tmp_path / "model.bin").write_bytes(raw.replace(struct.pack("<BI", 4, 4), struct.pack("<BI", 5, 4)))
    np.testing.assert_array_equal(open_ctranslate2(tmp_path / "model.bin").variables["x"].read(), [1.5, -2])


@pytest.mark.parametrize(("raw", "said"), [
    (model_bytes(VALUES, {}, version=4), "begins with version 4"),
    (model_bytes(VALUES, {})[:-30], "model.bin"),
    (model_bytes(VALUES, {}) + b"more", "goes on for 4 bytes"),
    (model_bytes(VALUES, {"head": "nothing"}), "alias"),
    (model_bytes({}, {}).replace(struct.pack("<II", 3, 0), struct.pack("<II", 3, 2**32 - 1)), "says it holds 4,294,967,295"),
    (model_bytes({"x": np.zeros((2, 3), np.float16)}, {}).replace(struct.pack("<BII", 2, 2, 3), struct.pack("<BII", 2, 2**32 - 1, 2**31)),
     "where its shape takes"),
    (model_bytes({"x": np.zeros(4, np.float16)}, {}).replace(struct.pack("<BI", 4, 8), struct.pack("<BI", 77, 8)), "unknown type 77"),
    (model_bytes({"a\nb": np.zeros(4, np.float16)}, {}), "damaged name"),
    (struct.pack("<I", 6) + text("S") + struct.pack("<II", 3, 2) + variable("x", np.float32([1])) * 2 + struct.pack("<I", 0), "twice"),
    (b"", "ends after 0 bytes"),
], ids=["version", "cut", "longer", "alias", "count", "shape", "type", "name", "twice", "empty"])
def test_a_file_that_lies_is_refused_in_one_line(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(raw)
    with pytest.raises(UserError, match=said) as caught:
        open_ctranslate2(tmp_path / "model.bin")
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused(path: Path) -> None:
    raw = path.read_bytes()
    for size in range(len(raw)):
        path.write_bytes(raw[:size])
        with pytest.raises(UserError):
            open_ctranslate2(path)


def test_a_changed_byte_is_refused_or_changes_a_number_only(path: Path) -> None:
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        try:
            found = open_ctranslate2(path)
            sizes = [variable.read().size for variable in found.variables.values() if variable.type in (0, 4, 5)]
            assert sum(sizes) <= len(raw)
        except UserError:
            pass
