"""The guard beside the onnx package and ONNX Runtime: what they would load from outside, it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeasd.runtime.bundle.onnx_check import inspect_onnx
from edgeasd.runtime.errors import BundleError

onnx = pytest.importorskip("onnx")

WEIGHT = np.arange(4, dtype=np.float32)


def adder(opset: int = 19) -> Any:
    """y = x + w with w in the file."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "adder",
        [value("x", onnx.TensorProto.FLOAT, [4])],
        [value("y", onnx.TensorProto.FLOAT, [4])],
        [onnx.numpy_helper.from_array(WEIGHT, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)


def test_versions_are_what_onnx_says(tmp_path: Path, small_bundle: Path) -> None:
    onnx.save(adder(17), tmp_path / "adder.onnx")
    for path in (tmp_path / "adder.onnx", small_bundle / "encoder.fp32.onnx", small_bundle / "head.onnx"):
        model, header = onnx.load(path), inspect_onnx(path)
        assert header.ir_version == model.ir_version
        assert header.opsets == {opset.domain: opset.version for opset in model.opset_import}


def test_a_model_saved_with_external_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adder.onnx"
    onnx.save(adder(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size == 16
    with pytest.raises(BundleError, match="tensor 'w' has its data outside the file"):
        inspect_onnx(path)


def test_a_long_key_that_hides_data_is_refused(tmp_path: Path) -> None:
    """Why keys beyond 32 bits are refused: should ONNX Runtime stop to read them, this test says so."""

    def varint(value: int) -> bytes:
        out = b""
        while value > 0x7F:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    def field(number: int, content: bytes, high: int = 0) -> bytes:
        return varint((number << 3 | 2) + high) + varint(len(content)) + content

    model = adder()
    del model.graph.initializer[:]
    high = 1 << 32
    location = field(1, b"location") + field(2, b"weights.bin")
    tensor = b"\x08\x04\x10\x01" + field(8, b"w") + field(13, location, high) + varint((14 << 3) + high) + b"\x01"
    graph = model.graph.SerializeToString() + field(5, tensor)
    model.ClearField("graph")
    path = tmp_path / "hidden.onnx"
    path.write_bytes(model.SerializeToString() + field(7, graph))
    WEIGHT.tofile(tmp_path / "weights.bin")
    with pytest.raises(BundleError):
        inspect_onnx(path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} refuses it too: {error}")
    np.testing.assert_array_equal(session.run(None, {"x": np.zeros(4, np.float32)})[0], WEIGHT)
