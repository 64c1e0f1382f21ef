"""The running TensorRT engine, as far as it goes without a GPU.

Layouts and sizes are tested as they are, refusals with a real TensorRT for RTX where it is installed. The rest is
bookkeeping around stand-ins, which is no proof that an engine runs: see stand_in_gpu.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.engines import Engine
from edgeasd.runtime.engines.tensorrt import cuda as device
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.cuda import checked
from edgeasd.runtime.engines.tensorrt.engine import TensorRTEngine, TensorRTHead, gpu_index
from edgeasd.runtime.engines.tensorrt.execution import (
    ErrorLog,
    Tensor,
    checked_rows,
    deserialize,
    prepared_sizes,
    read_io_tensors,
    size_for,
)
from edgeasd.runtime.errors import BundleError, DeviceError, InputError

pytestmark = pytest.mark.core


# Sizes and layouts, which need no GPU


@given(st.integers(1, 4096))
def test_a_prepared_size_holds_every_batch_and_wastes_little(largest: int) -> None:
    sizes = prepared_sizes(largest)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == largest
    assert len(sizes) <= 16 + largest / 16 + 1
    for count in {1, largest, largest // 2 or 1, min(largest, 17), min(largest, 10)}:
        size = size_for(count, sizes)
        assert count <= size < count + 16
        assert count > 16 or size == count, "the usual batches run as they are"


def test_the_bytes_of_a_batch() -> None:
    tensor = Tensor("logmel", (1, 256, 128))
    assert tensor.shape(3) == (3, 1, 256, 128)
    assert tensor.nbytes(3) == np.empty((3, 1, 256, 128), np.float32).nbytes
    assert Tensor("logit", ()).nbytes(5) == 20


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (np.zeros((1, 1, 4, 3)), "float64"),
        (np.zeros((1, 4, 3), np.float32), "(1, 4, 3)"),
        (np.zeros((1, 1, 3, 4), np.float32), "(1, 1, 3, 4)"),
        (np.zeros((0, 1, 4, 3), np.float32), "a batch of 0"),
        (np.zeros((6, 1, 4, 3), np.float32), "a batch of 6"),
        ([[1.0]], "list"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_first(batch: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        checked_rows(batch, Tensor("logmel", (1, 4, 3)), 5)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("accelerator", ["cpu", "auto", "cuda:", "cuda:x", "tpu"])
def test_tensorrt_runs_on_a_gpu_only(accelerator: str) -> None:
    with pytest.raises(InputError, match="TensorRT runs on a GPU"):
        gpu_index(accelerator)
    assert (gpu_index("cuda"), gpu_index("cuda:0"), gpu_index("cuda:12")) == (0, 0, 12)


# Refusals of a real TensorRT library


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="NO TENSORRT FOR RTX: its refusals are not tested")


@pytest.fixture(scope="module")
def plan(rtx: ModuleType, small_bundle: Path) -> bytes:
    """The small encoder built on the CPU for another GPU, by the code of `edgeasd build`."""
    from edgeasd.runtime.engine_build.builder import build_plan
    from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions

    def for_sm86(configuration: Any) -> None:
        configuration.num_compute_capabilities = 1
        configuration.set_compute_capability(rtx.ComputeCapability.SM86, 0)

    made = build_plan(rtx, small_bundle / "encoder.fp32.onnx", BuildOptions(), configure=for_sm86)
    return bytes(made.data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda _: b"", "empty memory buffer"),
        (lambda _: b"no engine" * 99, "magicTag"),
        (lambda plan: plan[:-1000], "blobSize"),
        (lambda plan: plan[:40], ""),
    ],
    ids=["empty", "something else", "cut off", "nothing but a header"],
)
def test_tensorrt_itself_refuses_a_damaged_engine_in_one_line(
    rtx: ModuleType, plan: bytes, damage: Any, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError) as error:
        deserialize(rtx, damage(plan), "engines/encoder.fp32.engine", ErrorLog(rtx))
    text = str(error.value)
    assert text.startswith(f"engines/encoder.fp32.engine: TensorRT {rtx.__version__} cannot load it (")
    assert said in text
    assert text.endswith("; build again with `edgeasd build`")
    assert "\n" not in text
    assert capfd.readouterr() == ("", ""), "TensorRT's own lines are kept"


def test_a_whole_engine_fails_without_a_driver(rtx: ModuleType, plan: bytes) -> None:
    """What this machine can show of loading: TensorRT reads the engine and then misses the GPU."""
    with pytest.raises(DeviceError) as error:
        read_io_tensors(deserialize(rtx, plan, "engine", ErrorLog(rtx)), rtx, "engine")
        pytest.skip("this machine has a GPU that TensorRT for RTX takes")
    assert "CUDA driver version is insufficient" in str(error.value) or "CUDA-capable device" in str(error.value)


# Bookkeeping around stand-ins


def stand_ins() -> Any:
    spec = importlib.util.spec_from_file_location("stand_in_gpu", Path(__file__).with_name("stand_in_gpu.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Bench:
    """A stand-in GPU with one engine on it."""

    def __init__(self, patch: pytest.MonkeyPatch, outputs: dict[str, int], largest: int, capturable: bool) -> None:
        self.parts = stand_ins()
        self.cuda = self.parts.Cuda()
        self.engine = self.parts.Engine(self.cuda, outputs, largest, capturable)
        self.patch = patch
        self.use(self.engine)

    def use(self, engine: Any) -> None:
        self.patch.setattr(library, "load", lambda: self.parts.tensorrt(engine))
        self.patch.setattr(device, "bindings", lambda: self.cuda)
        self.patch.setattr("edgeasd.runtime.engines.tensorrt.cuda.bindings", lambda: self.cuda)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(outputs: dict[str, int] | None = None, largest: int = 20, capturable: bool = True) -> Bench:
        return Bench(monkeypatch, outputs or {"z": 5}, largest, capturable)

    return make


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "engines" / "encoder.fp32.engine"
    path.parent.mkdir()
    path.write_bytes(b"plan")
    return path


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 1, 4, 3)).astype(np.float32)


def test_every_batch_comes_back_in_its_own_rows(bench: Any, file: Path) -> None:
    bench()
    engine = TensorRTEngine(file, precision="fp32", max_batch=20)
    assert isinstance(engine, Engine)
    kept = []
    for count in (1, 5, 2, 17, 20, 1, 16, 10):
        batch = rows(count, seed=count)
        z = engine.embed(batch)
        assert z.dtype == np.float32
        np.testing.assert_array_equal(z, 2 * batch.reshape(count, 12)[:, :5])
        kept.append((z, z.copy()))
    for z, copy in kept:
        np.testing.assert_array_equal(z, copy, err_msg="a later batch wrote over an earlier result")
    engine.close()


def test_the_name_states_version_gpu_and_graphs(bench: Any, file: Path) -> None:
    bench()
    engine = TensorRTEngine(file, precision="int8", accelerator="cuda", max_batch=3)
    assert engine.name == "tensorrt 10.3.0 Stand-in (compute capability 8.7), CUDA graphs"
    assert (engine.accelerator, engine.precision, engine.max_batch) == ("cuda:0", "int8", 3)
    engine.close()


def test_a_graph_per_size_is_launched_once_a_call(bench: Any, file: Path) -> None:
    made = bench()
    engine = TensorRTEngine(file, precision="fp32", max_batch=3)
    assert made.cuda.events.count("cudaGraphInstantiate") == 3
    assert [context.size for context in made.engine.contexts] == [1, 2, 3], "a context each, never given another shape"
    made.cuda.events.clear()
    engine.embed(rows(2))
    assert made.cuda.events == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    engine.close()


def test_only_the_rows_of_the_batch_travel(bench: Any, file: Path) -> None:
    made = bench(capturable=False)
    engine = TensorRTEngine(file, precision="fp32", max_batch=10)
    made.cuda.copied.clear()
    engine.embed(rows(3))
    assert made.cuda.copied == [3 * 12 * 4, 3 * 5 * 4]
    engine.close()


@pytest.mark.parametrize("where", ["TensorRT", "end", "instantiate"])
def test_without_graphs_it_runs_and_the_name_says_why(bench: Any, file: Path, where: str) -> None:
    made = bench(capturable=where != "TensorRT")
    invalidated = made.parts.Error.cudaErrorStreamCaptureInvalidated
    if where != "TensorRT":
        made.cuda.fails["cudaStreamEndCapture" if where == "end" else "cudaGraphInstantiate"] = invalidated
    engine = TensorRTEngine(file, precision="fp32", max_batch=4)
    reason = "TensorRT does not run a batch of 1" if where == "TensorRT" else "cudaErrorStreamCaptureInvalidated"
    assert ", no CUDA graph: " in engine.name
    assert reason in engine.name
    assert made.cuda.recording is None, "the stream was left recording"
    batch = rows(4)
    np.testing.assert_array_equal(engine.embed(batch), 2 * batch.reshape(4, 12)[:, :5])
    assert "cudaGraphLaunch" not in made.cuda.events
    engine.close()


def test_everything_is_given_back_once_and_in_order(bench: Any, file: Path) -> None:
    made = bench()
    engine = TensorRTEngine(file, precision="fp32", max_batch=4)
    engine.embed(rows(1))
    made.cuda.events.clear()
    engine.close()
    assert (made.cuda.held, made.cuda.graphs) == ({}, {})
    given = made.cuda.events
    assert given[:2] == ["cudaSetDevice", "cudaStreamSynchronize"], "nothing is freed under a running engine"
    assert given[2:6] == ["cudaGraphExecDestroy"] * 4
    assert given[-1] == "cudaStreamDestroy"
    engine.close()
    assert made.cuda.events == given
    with pytest.raises(RuntimeError):
        engine.embed(rows(1))


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaMallocHost", "cudaStreamSynchronize", "cudaStreamBeginCapture"])
def test_a_failure_while_loading_gives_back_what_was_taken(bench: Any, file: Path, call: str) -> None:
    made = bench()
    made.cuda.fails[call] = made.parts.Error.cudaErrorMemoryAllocation
    if call == "cudaStreamBeginCapture":
        TensorRTEngine(file, precision="fp32").close()
    else:
        with pytest.raises(DeviceError) as error:
            TensorRTEngine(file, precision="fp32")
        assert "cudaErrorMemoryAllocation" in str(error.value)
        assert "\n" not in str(error.value)
    assert (made.cuda.held, made.cuda.graphs) == ({}, {})
    assert made.cuda.events[-1] == "cudaStreamDestroy"


def test_a_fault_of_the_gpu_is_an_error_and_not_an_old_result(bench: Any, file: Path) -> None:
    made = bench()
    engine = TensorRTEngine(file, precision="fp32", max_batch=1)
    made.cuda.fails["cudaStreamSynchronize"] = made.parts.Error.cudaErrorLaunchFailure
    with pytest.raises(DeviceError, match="running the engine failed with cudaErrorLaunchFailure"):
        engine.embed(rows(1))
    engine.close()
    assert made.cuda.held == {}


def test_more_than_it_was_built_for_names_the_way(bench: Any, file: Path) -> None:
    made = bench(largest=4)
    with pytest.raises(InputError, match="batches of 1 to 4, asked for 5; `edgeasd build --max-batch 5`"):
        TensorRTEngine(file, precision="fp32", max_batch=5)
    assert made.cuda.held == {}


def test_what_tensorrt_cannot_load_is_one_line_with_its_words(bench: Any, file: Path) -> None:
    made = bench()
    made.use(None)
    with pytest.raises(DeviceError) as error:
        TensorRTEngine(file, precision="fp32")
    assert str(error.value) == (
        "engines/encoder.fp32.engine: TensorRT 10.3.0 cannot load it (Serialization assertion failed); "
        "build again with `edgeasd build`"
    )


def test_another_gpu_of_the_machine_must_be_there(bench: Any, file: Path) -> None:
    bench()
    TensorRTEngine(file, precision="fp32", accelerator="cuda:1").close()
    with pytest.raises(DeviceError, match="cuda:2: this machine has 2 GPUs"):
        TensorRTEngine(file, precision="fp32", accelerator="cuda:2")


def test_encoder_and_head_have_the_outputs_they_need(bench: Any, file: Path) -> None:
    made = bench({"logit": 1, "q": 1})
    with pytest.raises(BundleError, match="2 outputs, an encoder has one"):
        TensorRTEngine(file, precision="fp32")
    with pytest.raises(BundleError, match="without d"):
        TensorRTHead(file, accelerator="cuda:0", max_batch=4)
    assert made.cuda.held == {}


def test_the_head_takes_any_number_of_rows(bench: Any, file: Path) -> None:
    bench({"logit": 1, "q": 1, "d": 2})
    head = TensorRTHead(file, accelerator="cuda:0", max_batch=4)
    batch = rows(11)
    found = head(batch)
    np.testing.assert_array_equal(found["d"], 2 * batch.reshape(11, 12)[:, :2])
    assert {name: len(value) for name, value in found.items()} == {"logit": 11, "q": 11, "d": 11}
    head.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"get_tensor_dtype": lambda name: "float16"}, "logmel is float16, expected float32"),
        ({"get_tensor_shape": lambda name: (2, 4, 3)}, "expected rows of a free batch"),
        ({"get_tensor_shape": lambda name: (-1, -1, 3)}, "expected rows of a free batch"),
        ({"get_tensor_mode": lambda name: 2}, "0 inputs and 2 outputs"),
        ({"get_tensor_mode": lambda name: 1}, "2 inputs and 0 outputs"),
    ],
)
def test_an_engine_of_another_make_is_refused(bench: Any, change: dict[str, Any], said: str) -> None:
    made = bench()
    for name, value in change.items():
        setattr(made.engine, name, value)
    with pytest.raises(BundleError) as error:
        read_io_tensors(made.engine, made.parts.tensorrt(made.engine), "engines/encoder.fp32.engine")
    assert said in str(error.value)


# The real CUDA bindings, where there is no driver: what they answer is an error, and that they answer is the point


def test_the_cuda_bindings_take_every_call_as_we_make_it() -> None:
    """A call with the wrong number or kind of arguments raises TypeError before CUDA is asked."""
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="NO CUDA BINDINGS: their signatures are not tested")
    try:
        error, _ = cuda.cudaGetDeviceCount()
    except RuntimeError:
        pytest.skip("NO DRIVER LIBRARY: bindings of CUDA 12 answer nothing without it")
    if int(error) == 0:
        pytest.skip("A GPU: calls with made-up addresses are for machines without one")
    stream, graph, executable = cuda.cudaStream_t(), cuda.cudaGraph_t(), cuda.cudaGraphExec_t()
    assert int(stream) == 0, "TensorRT takes a stream as a number"
    array = np.zeros(4, np.float32)
    kinds, modes = cuda.cudaMemcpyKind, cuda.cudaStreamCaptureMode
    answers = [
        cuda.cudaSetDevice(0),
        cuda.cudaSetDeviceFlags(cuda.cudaDeviceScheduleBlockingSync),
        cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking),
        cuda.cudaMalloc(256),
        cuda.cudaMallocHost(256),
        cuda.cudaMemcpyAsync(4096, array.ctypes.data, 16, kinds.cudaMemcpyHostToDevice, stream),
        cuda.cudaMemcpyAsync(array.ctypes.data, 4096, 16, kinds.cudaMemcpyDeviceToHost, stream),
        cuda.cudaStreamSynchronize(stream),
        cuda.cudaStreamBeginCapture(stream, modes.cudaStreamCaptureModeThreadLocal),
        cuda.cudaStreamEndCapture(stream),
        cuda.cudaGraphInstantiate(graph, 0),
        cuda.cudaGraphLaunch(executable, stream),
        cuda.cudaGraphDestroy(graph),
        cuda.cudaGraphExecDestroy(executable),
        cuda.cudaFree(0),
        cuda.cudaFreeHost(0),
        cuda.cudaStreamDestroy(stream),
        cuda.cudaGetLastError(),
    ]
    assert all(isinstance(answer, tuple) for answer in answers)
    for answer in answers[:5]:
        with pytest.raises(DeviceError, match=r"^CUDA: trying failed with cudaError\w+; `edgeasd doctor`"):
            checked(answer, "trying")
