"""The GGUF reader: equal to the `gguf` package's, and one line for whatever does not add up."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from myna.errors import UserError
from myna.formats.gguf import Tensor, write_gguf
from myna.formats.gguf_quants import KINDS
from myna.formats.gguf_read import open_gguf

METADATA = {"general.architecture": "llama", "a.count": 7, "a.large": 1 << 40, "a.number": 0.5, "a.yes": True, "a.text": "鸟 🐦",
            "a.texts": ["", "Ġa", "从前"], "a.kinds": [1, 3, 5], "a.scores": [0.5, -2.0], "a.none": []}


def string(text: str | bytes, length: int | None = None) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if length is None else length) + data


def entry(name: str = "t", shape: tuple[int, ...] = (2, 32), code: int = 0, offset: int = 0, dimensions: int | None = None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", count, *reversed(shape), code, offset)


def pair(key: str = "k", code: int = 4, value: bytes = struct.pack("<I", 1)) -> bytes:
    return string(key) + struct.pack("<I", code) + value


def raw(pairs: list[bytes], entries: list[bytes], data: bytes = bytes(1024), counts: tuple[int, int] | None = None,
        version: int = 3) -> bytes:
    tensors, keys = counts or (len(entries), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(pairs) + b"".join(entries)
    return head + bytes(-len(head) % 32) + data


def array(inner: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", inner, count) + data


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray], int]:
    """A file with a tensor of every type, the values it stands for, and the length of its header."""
    path, random = tmp_path_factory.mktemp("gguf") / "x.gguf", np.random.default_rng(0)
    values = {f"t.{kind}": random.normal(size=(3, 2, 64)).astype(np.float32) for kind in KINDS}
    values["v"] = random.normal(size=5).astype(np.float32)
    write_gguf(path, METADATA, [Tensor(name, array.shape, name.removeprefix("t.") if name != "v" else "F32", lambda array=array: array)
                                for name, array in values.items()])
    file = open_gguf(path)
    return path, {name: tensor.read() for name, tensor in file.tensors.items()}, min(tensor.offset for tensor in file.tensors.values())


def test_metadata_and_tensors_equal_those_of_ggml(whole):
    gguf = pytest.importorskip("gguf")
    path, values, _ = whole
    file, theirs = open_gguf(path), gguf.GGUFReader(path)
    assert file.metadata == METADATA
    assert [type(value) for value in file.metadata.values()] == [type(value) for value in METADATA.values()]
    assert list(file.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        found = file.tensors[tensor.name]
        assert (found.dtype, list(found.shape)) == (tensor.tensor_type.name, list(reversed(tensor.shape)))
        np.testing.assert_array_equal(values[tensor.name], gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(found.shape))
    assert file.count_types() == {**dict.fromkeys(sorted(KINDS), 1), "F32": 2}


def test_every_scalar_type_and_version_2(tmp_path):
    kinds = {0: ("<B", 200), 1: ("<b", -3), 2: ("<H", 60000), 3: ("<h", -300), 4: ("<I", 1 << 31), 5: ("<i", -1), 6: ("<f", 0.25),
             7: ("<?", True), 10: ("<Q", 1 << 63), 11: ("<q", -(1 << 62)), 12: ("<d", 0.1)}
    pairs = [pair(f"k{code}", code, struct.pack(form, value)) for code, (form, value) in kinds.items()]
    pairs += [pair(f"l{code}", 9, array(code, 2, struct.pack(form, value) * 2)) for code, (form, value) in kinds.items()]
    (tmp_path / "x").write_bytes(raw(pairs, [entry()], version=2))
    found = open_gguf(tmp_path / "x")
    assert found.version == 2
    for code, (_, value) in kinds.items():
        assert (found.metadata[f"k{code}"], found.metadata[f"l{code}"]) == (value, [value, value])
        assert type(found.metadata[f"l{code}"][0]) is type(value)


def test_another_alignment_and_gaps(tmp_path):
    head = [pair("general.alignment", 4, struct.pack("<I", 128))]
    data = raw(head, [entry("a", (32,), offset=256), entry("b", (32,), offset=0)], b"")
    ones = np.arange(32, dtype="<f4").tobytes()
    (tmp_path / "x").write_bytes(data + bytes(-len(data) % 128) + ones + bytes(128) + ones[::-1])
    found = open_gguf(tmp_path / "x")
    assert found.tensors["b"].read().tolist() == list(range(32))
    assert found.tensors["a"].offset - found.tensors["b"].offset == 256


NUMBERS = (0, 1, 255, 1 << 31, 1 << 62, (1 << 64) - 1)
HUGE = (1 << 63, (1 << 64) - 1, 1 << 40, 1 << 32)
BAD = {
    "empty": b"", "other": b"GGML" + bytes(60), "version 1": raw([], [], version=1), "big-endian": raw([], [], version=3 << 24),
    **{f"tensors {n}": raw([], [], counts=(n, 0)) for n in HUGE}, **{f"keys {n}": raw([], [], counts=(0, n)) for n in HUGE},
    **{f"key length {n}": raw([string(b"k", n) + bytes(8)], []) for n in HUGE},
    **{f"string length {n}": raw([pair("k", 8, string(b"x", n))], []) for n in HUGE},
    **{f"list of {n}": raw([pair("k", 9, array(inner, n, bytes(64)))], []) for n in HUGE for inner in (0, 4, 8, 12)},
    **{f"name length {n}": raw([], [string(b"t", n) + bytes(40)]) for n in (*HUGE, 256)},
    **{f"dimension {n}": raw([], [entry(shape=(n, 32))]) for n in HUGE},
    **{f"offset {n}": raw([], [entry(offset=n)]) for n in (*HUGE, 1024, 1, 31, (1 << 64) - 32)},
    **{f"alignment {n}": raw([pair("general.alignment", 4, struct.pack("<I", n))], [entry()])
       for n in (0, 3, 33, 1 << 20, 1 << 31, (1 << 32) - 1)},
    "alignment in text": raw([pair("general.alignment", 8, string("32"))], [entry()]),
    **{f"{n} dimensions": raw([], [entry(dimensions=n)]) for n in (0, 5, 1 << 20, (1 << 32) - 1)},
    "product overflows": raw([], [entry(shape=(1 << 32, 1 << 32))]),
    "product wraps to 0": raw([], [entry(shape=(1 << 32, 1 << 31, 2, 32))]),
    "product wraps to 64": raw([], [entry(shape=((1 << 58) + 1, 64))]), "no rows": raw([], [entry(shape=(0, 32))]),
    **{f"type {n}": raw([], [entry(code=n)]) for n in (4, 5, 7, 9, 10, 31, 99, (1 << 32) - 1)},
    "half a block": raw([], [entry(shape=(2, 48), code=8)]), "two keys": raw([pair(), pair()], []),
    "two tensors": raw([], [entry(), entry(offset=256)]),
    "one place": raw([], [entry("a"), entry("b", offset=224)]), "same place": raw([], [entry("a"), entry("b")]),
    "key no text": raw([string(b"\xff\xfe") + bytes(8)], []), "value no text": raw([pair("k", 8, string(b"\xc3"))], []),
    "name no text": raw([], [string(b"\x80t") + entry()[9:]]), "surrogate": raw([pair("k", 8, string(b"\xed\xa0\x80"))], []),
    "lists of lists": raw([pair("k", 9, array(9, 1, array(9, 1, array(4, 1, bytes(4)))))], []),
    **{f"value type {n}": raw([pair("k", n, bytes(64))], []) for n in (13, 255, (1 << 32) - 1)},
    **{f"list type {n}": raw([pair("k", 9, array(n, 1, bytes(64)))], []) for n in (13, 255)},
    "truth of 2": raw([pair("k", 7, b"\2")], []), "strings of nothing": raw([pair("k", 9, array(8, 1 << 23, bytes(1 << 20)))], []),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_does_not_add_up_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "x").write_bytes(BAD[name])
    assert read_all(tmp_path / "x") is None


def read_all(path: Path) -> dict[str, np.ndarray] | None:
    """Read every tensor, or None where the file is refused in one line; never with much more memory than the file has."""
    tracemalloc.start()
    try:
        return {name: tensor.read() for name, tensor in open_gguf(path).tensors.items()}
    except UserError as error:
        assert len(str(error).removeprefix(str(path))) <= 300 and str(error).isprintable(), error
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * path.stat().st_size + (1 << 20), peak


def test_a_file_cut_anywhere_is_refused(whole, tmp_path):
    path, _, _ = whole
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 33, 60, dtype=int):  # the last 32 bytes are filling
        (tmp_path / "x").write_bytes(data[:size])
        assert read_all(tmp_path / "x") is None, size


def test_a_changed_header_is_refused_or_the_same_values_are_read(whole, tmp_path):
    path, values, header = whole
    data, random, opened = path.read_bytes(), np.random.default_rng(1), 0
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(random.integers(1, 4)):
            at = int(random.integers(header))
            match random.integers(4):
                case 0:
                    changed[at] ^= 1 << int(random.integers(8))
                case 1:
                    changed[at : at + 8] = struct.pack("<Q", NUMBERS[random.integers(6)])
                case 2:
                    changed[at : at + 4] = random.bytes(4)
                case 3:
                    del changed[at : at + int(random.integers(1, 9))]
        (tmp_path / "x").write_bytes(changed)
        found = read_all(tmp_path / "x")
        opened += found is not None
        if found is not None and open_gguf(tmp_path / "x").metadata == METADATA and len(changed) == len(data):
            same = [name for name, tensor in open_gguf(tmp_path / "x").tensors.items()
                    if name in values and (tensor.dtype, tensor.shape, tensor.offset) == described(path, name)]
            assert all((found[name] == values[name]).all() for name in same)
    assert 5 < opened < 195  # both are tried


def described(path: Path, name: str) -> tuple[str, tuple[int, ...], int]:
    tensor = open_gguf(path).tensors[name]
    return tensor.dtype, tensor.shape, tensor.offset


def test_a_folder_and_nothing_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="GGUF file"):
            open_gguf(path)
