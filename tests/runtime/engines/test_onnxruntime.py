"""Engines: what is in use is stated, and nothing falls back in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgeasd.runtime.bundle.reference_segments import ReferenceSegments
from edgeasd.runtime.engines import Engine, open_engine
from edgeasd.runtime.engines.onnxruntime import (
    OnnxRuntimeEngine,
    default_threads,
    make_session,
    optimisation_for,
    optimisation_of,
)
from edgeasd.runtime.errors import DeviceError, InputError

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def encoder(small_bundle: Path) -> Path:
    return small_bundle / "encoder.fp32.onnx"


@pytest.fixture(scope="module")
def segments(small_bundle: Path) -> np.ndarray:
    """Ten distinct segments (10, 1, 256, 128)."""
    logmel = ReferenceSegments.from_bytes((small_bundle / "golden.npz").read_bytes(), "golden").logmel
    return np.concatenate([logmel + np.float32(0.1 * i) for i in range(10)])[:10, None]


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_name_states_version_provider_and_threads(encoder: Path) -> None:
    for threads, stated in ((1, "1 thread"), (2, "2 threads"), (None, f"{default_threads()} thread")):
        engine = open_engine(encoder, precision="fp32", threads=threads)
        assert f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider {stated}" in engine.name
        assert (engine.accelerator, engine.precision, engine.max_batch) == ("cpu", "fp32", 10)
        assert isinstance(engine, Engine)


def test_precisions_for_tensorrt_run_without_optimisation(encoder: Path) -> None:
    """ONNX Runtime's optimiser miscomputes float16 with Q/DQ; int8-cpu is nothing without it."""
    stated = {
        precision: "graph not optimised" in open_engine(encoder, precision=precision, threads=1).name
        for precision in ("fp32", "fp16", "int8", "int8-cpu")
    }
    assert stated == {"fp32": False, "fp16": True, "int8": True, "int8-cpu": False}
    assert optimisation_of("int8-cpu") == "all"
    assert optimisation_of("fp32") is None


def test_the_stated_threads_are_those_of_the_session(encoder: Path) -> None:
    options = make_session(encoder, threads=3).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1


def test_large_models_are_optimised_less_to_load_in_less_memory() -> None:
    assert optimisation_for(1_000_000) == "all"
    # ResNet38 in float32
    assert optimisation_for(274_000_000) == "extended"


def test_results_do_not_change_with_the_batch(encoder: Path, segments: np.ndarray) -> None:
    engine = OnnxRuntimeEngine(encoder, threads=2)
    together = engine.embed(segments)
    assert together.shape == (10, 64)
    assert together.dtype == np.float32
    assert np.abs(together[0] - together[9]).max() > 1e-3, "segments too alike to show anything"
    scale = np.abs(together).max()
    for size in (1, 2, 3, 5, 7):
        parts = np.concatenate([engine.embed(segments[at : at + size]) for at in range(0, 10, size)])
        np.testing.assert_allclose(parts, together, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("optimisation", ["none", "basic", "extended", "all"])
def test_results_do_not_change_with_the_optimisation_level(
    encoder: Path, segments: np.ndarray, optimisation: str
) -> None:
    plain = OnnxRuntimeEngine(encoder, threads=1, optimisation="none").embed(segments[:2])
    found = OnnxRuntimeEngine(encoder, threads=1, optimisation=optimisation).embed(segments[:2])
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_bytes_load_like_the_file(encoder: Path, segments: np.ndarray) -> None:
    from_file, from_bytes = OnnxRuntimeEngine(encoder, threads=1), OnnxRuntimeEngine(encoder.read_bytes(), threads=1)
    np.testing.assert_array_equal(from_file.embed(segments[:1]), from_bytes.embed(segments[:1]))


def test_a_closed_engine_closes_again_and_does_not_embed(encoder: Path, segments: np.ndarray) -> None:
    engine = OnnxRuntimeEngine(encoder, threads=1)
    engine.close()
    engine.close()
    with pytest.raises((AttributeError, RuntimeError)):
        engine.embed(segments[:1])


@pytest.mark.parametrize("accelerator", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_where_there_is_none_is_an_error_that_names_the_way(encoder: Path, accelerator: str) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has a CUDA provider")
    with pytest.raises(DeviceError) as error:
        open_engine(encoder, precision="fp32", accelerator=accelerator)
    assert f"--accelerator {accelerator}" in one_line(error)
    assert "has no CUDAExecutionProvider" in str(error.value)
    assert "onnxruntime-gpu" in str(error.value)


@pytest.mark.parametrize(
    "accelerator", ["gpu", "", "CPU", "cpu:1", "cpu:", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "tpu"]
)
def test_an_unknown_accelerator_is_wrong_use(encoder: Path, accelerator: str) -> None:
    with pytest.raises(InputError) as error:
        open_engine(encoder, precision="fp32", accelerator=accelerator)
    assert one_line(error) == f"--accelerator {accelerator}: unknown; use auto, cpu, cuda or cuda:0"


def test_an_unknown_engine_is_wrong_use_and_lists_the_known(encoder: Path) -> None:
    with pytest.raises(InputError) as error:
        open_engine(encoder, precision="fp32", engine="openvino")
    assert one_line(error) == "--engine openvino: unknown; use one of auto, onnxruntime, tensorrt"


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", bytes(1000), b"\x08\x09"], ids=["empty", "text", "zeros", "header"]
)
def test_bytes_that_are_no_model_are_one_line(garbage: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        OnnxRuntimeEngine(garbage)
    assert one_line(error).startswith(f"model: ONNX Runtime {onnxruntime.__version__} cannot load it (")
    path = tmp_path / "encoder.onnx"
    path.write_bytes(garbage)
    with pytest.raises(InputError) as error:
        OnnxRuntimeEngine(path)
    assert one_line(error).startswith("encoder.onnx: ")


def test_a_model_cut_off_is_one_line(encoder: Path) -> None:
    with pytest.raises(InputError) as error:
        OnnxRuntimeEngine(encoder.read_bytes()[:-1000])
    assert "export it again" in one_line(error)


def test_a_graph_without_inputs_is_one_line() -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [1.0])
    node = onnx.helper.make_node("Constant", [], ["y"], value=value)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [], [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(InputError, match="without inputs"):
        OnnxRuntimeEngine(model.SerializeToString())
