"""The GGUF writer against the `gguf` package, ggml's own Python reader and quantiser."""

from __future__ import annotations

import numpy as np
import pytest

from myna.errors import UserError
from myna.formats.gguf import Tensor, write_gguf
from myna.formats.gguf_quants import KINDS, dequantize, quantize

gguf = pytest.importorskip("gguf")


def tensor(name: str, values: np.ndarray, dtype: str) -> Tensor:
    return Tensor(name, values.shape, dtype, lambda: values)


def test_metadata_of_every_kind_reads_back(tmp_path):
    metadata = {"general.architecture": "qwen3", "a.count": 7, "a.large": 1 << 40, "a.number": 1e-6, "a.yes": True, "a.no": False,
                "a.text": "鸟 🐦", "a.texts": ["", "Ġa", "从前"], "a.kinds": [1, 3, 5], "a.none": []}
    write_gguf(tmp_path / "x.gguf", metadata, [])
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    assert fields["GGUF.version"].contents() == 3
    for key, value in metadata.items():
        assert fields[key].contents() == pytest.approx(value)
        assert isinstance(fields[key].contents(), type(value))
    assert fields["a.count"].types == [gguf.GGUFValueType.UINT32]
    assert fields["a.large"].types == [gguf.GGUFValueType.UINT64]
    assert fields["a.number"].types == [gguf.GGUFValueType.FLOAT32]
    assert fields["a.kinds"].types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]


@pytest.mark.parametrize("dtype", list(KINDS))
def test_tensors_read_back_bit_for_bit(tmp_path, dtype):
    random = np.random.default_rng(0)
    shapes = [(3, 32), (5, 96), (1, 64), (7, 2, 32)]
    arrays = {f"t{i}": random.normal(0, 10.0**i, shape).astype(np.float32) for i, shape in enumerate(shapes)}
    vector = random.normal(size=17).astype(np.float32)
    write_gguf(tmp_path / "x.gguf", {"general.architecture": "x"},
               [tensor("v", vector, "F32"), *(tensor(name, values, dtype) for name, values in arrays.items())])
    read = {t.name: t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    np.testing.assert_array_equal(read.pop("v").data, vector)
    kind = gguf.GGMLQuantizationType[dtype]
    for name, values in arrays.items():
        assert read[name].tensor_type == kind
        assert list(read[name].shape) == list(reversed(values.shape))
        assert read[name].data_offset % 32 == 0
        np.testing.assert_array_equal(read[name].data, gguf.quants.quantize(values, kind))
    assert list(read) == list(arrays)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 3e4, 8e6])
def test_every_format_equals_ggml_bit_for_bit_in_both_directions(kind, scale):
    random = np.random.default_rng(1)
    values = (random.normal(0, scale, (200, 64)) * (random.random((200, 64)) > 0.3)).astype(np.float32)
    values[5] = 0
    values[6] = -values[7]
    values[8, :32] = np.arange(32) * np.float32(scale / 2)  # halves, which round away from zero
    values = np.clip(values, -KINDS[kind].largest, KINDS[kind].largest)
    if kind == "Q4_1":
        values = np.clip(values, -6e4, 6e4)
    wanted = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    raw = quantize(values, kind)
    np.testing.assert_array_equal(raw, wanted.view(np.uint8).reshape(raw.shape))
    np.testing.assert_array_equal(dequantize(raw, kind), gguf.quants.dequantize(wanted, gguf.GGMLQuantizationType[kind]))


def test_large_tensors_are_converted_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("myna.formats.gguf._ROWS_AT_ONCE", 128)
    values = np.random.default_rng(2).normal(size=(37, 64)).astype(np.float32)
    write_gguf(tmp_path / "x.gguf", {}, [tensor("a", values, "Q8_0")])
    [read] = gguf.GGUFReader(tmp_path / "x.gguf").tensors
    np.testing.assert_array_equal(read.data, gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "F32"), (np.inf, "Q8_0"), (7e4, "F16"), (1e7, "Q8_0"), (6e5, "Q4_0"), (7e4, "Q4_1")])
def test_numbers_that_do_not_fit_are_refused_and_nothing_is_left(tmp_path, value, dtype):
    values = np.ones((2, 32), dtype=np.float32)
    values[1, 3] = value
    (tmp_path / "x.gguf").write_text("before")
    with pytest.raises(UserError, match="culprit"):
        write_gguf(tmp_path / "x.gguf", {}, [tensor("culprit", values, dtype)])
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
    assert (tmp_path / "x.gguf").read_text() == "before"
