"""Our graphs through TensorRT's own parser and builder, on the CPU, for SM86: parsing and typing, nothing more.

TensorRT for RTX has the names of TensorRT 11 and builds without a GPU. It cannot load what it builds without a
driver, and knows no Jetson: what these tests prove, and what not, is in docs/how-to/build-engines.md.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip(
    "tensorrt_rtx", reason="TENSORRT FOR RTX ABSENT: nothing is parsed or built here; pip install tensorrt-rtx"
)

import onnx
import tensorrt_rtx as trt

from edgeasd.calibration.quantization.encoder_parts import convolutions, prepare
from edgeasd.calibration.quantization.placement import calibrated_tensors
from edgeasd.calibration.quantization.qdq import int8_graph
from edgeasd.export.fp16 import build_fp16
from edgeasd.runtime.engine_build.builder import Plan, build_plan
from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions
from edgeasd.runtime.errors import BundleError, InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
PRECISIONS = ["fp32", "fp16", "int8"]
BACKBONES = ["quick", pytest.param("resnet38", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
Encoder = Callable[..., Any]


def for_sm86(config: Any) -> None:
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(trt.ComputeCapability.SM86, 0)


def build(model: Path, options: BuildOptions | None = None, **more: Any) -> Plan:
    return build_plan(trt, model, options or BuildOptions(), configure=for_sm86, **more)


def variant(encoder: Any, precision: str) -> Any:
    """Its graph at a precision; ranges are of no matter to parsing and typing."""
    if precision == "fp32":
        return encoder
    if precision == "fp16":
        return build_fp16(encoder)
    return int8_graph(encoder, {tensor: (-1.5, 3.0) for tensor in calibrated_tensors(prepare(encoder))})


@pytest.fixture
def encoder_of(small_bundle: Path, random_encoder: Encoder) -> Encoder:
    """(backbone) to its float32 graph."""
    return lambda name: onnx.load(small_bundle / "encoder.fp32.onnx") if name == "quick" else random_encoder(name)


@pytest.fixture
def encoder_file(tmp_path: Path, encoder_of: Encoder) -> Callable[[str, str], Path]:
    """(backbone, precision) to an ONNX file."""

    def write(backbone: str, precision: str) -> Path:
        path = tmp_path / f"encoder.{precision}.onnx"
        onnx.save(variant(encoder_of(backbone), precision), path)
        return path

    return write


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_variant_of_every_backbone_parses_and_builds(
    encoder_file: Callable[[str, str], Path], backbone: str, precision: str
) -> None:
    model = encoder_file(backbone, precision)
    shown: list[tuple[int, int, str]] = []
    plan = build(model, report=lambda *told: shown.append(told))
    assert len(bytes(plan.data)) == plan.size > 100_000
    if backbone == "resnet38":
        # Weights of 16 or 8 bits make a smaller engine: the graph's types arrived in it.
        assert plan.size < {"fp32": 300, "fp16": 150, "int8": 100}[precision] * 2**20
    graph = onnx.load(model).graph
    quantised = {node.name for node in graph.node if node.op_type == "Conv"} if precision == "int8" else set()
    if precision == "int8":
        assert 0 < len(plan.quantised) <= len(quantised)
    assert set(plan.quantised) <= quantised
    assert shown[-1][:2] == (100, 100)
    assert [done for done, _, _ in shown] == sorted({done for done, _, _ in shown})


def test_quantised_convolutions_are_those_of_calibration(
    encoder_file: Callable[[str, str], Path], encoder_of: Encoder
) -> None:
    model = onnx.load(encoder_file("quick", "int8"))
    maker = {output: node for node in model.graph.node for output in node.output}
    expected = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and maker.get(node.input[0], node).op_type == "DequantizeLinear"
    ]
    assert sorted(build(encoder_file("quick", "int8")).quantised) == sorted(expected)
    assert len(expected) == len(convolutions(prepare(encoder_of("quick")))) - 1


def test_the_head_builds_as_an_engine_of_its_own(small_bundle: Path) -> None:
    assert build(small_bundle / "head.onnx").size > 1000


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(max_batch=1),
        BuildOptions(max_batch=64, opt_batch=32),
        BuildOptions(4, 2, 64, 0),
        BuildOptions(4, 2, 64, 5),
    ],
)
def test_the_options_are_taken_by_the_builder(small_bundle: Path, options: BuildOptions) -> None:
    seen: list[Any] = []
    build_plan(trt, small_bundle / "encoder.fp32.onnx", options, configure=seen.append)
    (config,) = seen
    assert config.builder_optimization_level == options.optimisation_level
    assert config.num_optimization_profiles == 1
    assert not config.get_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == options.workspace_mib << 20


@pytest.mark.parametrize("options", [BuildOptions(max_batch=4, opt_batch=5), BuildOptions(0, 0), BuildOptions(5000)])
def test_batches_that_do_not_fit_each_other_are_refused(small_bundle: Path, options: BuildOptions) -> None:
    with pytest.raises(InputError, match="--max-batch"):
        build(small_bundle / "encoder.fp32.onnx", options)


# What TensorRT refuses


def line_of(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_a_mistyped_graph_is_refused_with_the_node(tmp_path: Path, encoder_of: Encoder) -> None:
    """A weakly typed network would take it and choose; a strongly typed one may not."""
    model = encoder_of("quick")
    conv = [node for node in model.graph.node if node.op_type == "Conv"][1]
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[1])
    halved = onnx.numpy_helper.to_array(weight).astype(np.float16)
    weight.CopyFrom(onnx.numpy_helper.from_array(halved, weight.name))
    onnx.save(model, tmp_path / "encoder.fp16.onnx")
    with pytest.raises(BundleError) as caught:
        build(tmp_path / "encoder.fp16.onnx")
    assert f"encoder.fp16.onnx: TensorRT {trt.__version__} cannot read it (Conv {conv.name}" in line_of(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 1000, 200_000])
def test_a_truncated_file_is_refused(tmp_path: Path, small_bundle: Path, keep: int) -> None:
    cut = tmp_path / "encoder.fp32.onnx"
    cut.write_bytes((small_bundle / "encoder.fp32.onnx").read_bytes()[:keep])
    with pytest.raises(BundleError) as caught:
        build(cut)
    assert "encoder.fp32.onnx: " in line_of(caught.value)


def test_an_operator_that_nobody_knows_is_refused(tmp_path: Path, encoder_of: Encoder) -> None:
    model = encoder_of("quick")
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
    onnx.save(model, tmp_path / "encoder.fp32.onnx")
    with pytest.raises(BundleError, match="Frobnicate"):
        build(tmp_path / "encoder.fp32.onnx")


def test_a_batch_that_is_not_free_is_refused(tmp_path: Path, encoder_of: Encoder) -> None:
    model = encoder_of("quick")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "encoder.fp32.onnx")
    with pytest.raises(BundleError, match="a free batch"):
        build(tmp_path / "encoder.fp32.onnx")


# Stopping


def test_ctrl_c_ends_a_build_and_is_raised_again(small_bundle: Path) -> None:
    told: list[str] = []

    def interrupt(done: int, total: int, text: str) -> None:
        assert threading.current_thread() is not threading.main_thread(), "signals would not be seen"
        if done > 20 and not told:
            told.append(text)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    stopping: list[float] = []
    kept: list[bytes] = []
    with pytest.raises(KeyboardInterrupt):
        build(
            small_bundle / "encoder.fp32.onnx",
            report=interrupt,
            stopping=lambda: stopping.append(1),
            keep=kept.append,
        )
    assert told
    assert len(kept) == 1, "what was measured so far"
    assert stopping == [1]
    assert build(small_bundle / "encoder.fp32.onnx").size, "the next build is not harmed"


def test_ctrl_c_while_its_thread_starts_builds_nothing(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, list[threading.Thread]()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    kept: list[bytes] = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Thread, "start", interrupted)
        build(small_bundle / "encoder.fp32.onnx", keep=kept.append)
    started[0].join(10)
    assert not started[0].is_alive(), "nobody waits for it any more"
    assert not kept


LEFT_BEHIND = """
import gc, sys
from pathlib import Path
import tensorrt_rtx as trt
from edgeasd.runtime.engine_build import builder as build

class Collecting(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, msg):
        gc.collect()

def for_sm86(config):
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)

gc.disable()
left = [trt.Builder(build.make_logger(trt, []))]
left.append(left)
del left
build.make_logger = lambda *_: Collecting()
build.build_plan(trt, Path(sys.argv[1]), build.BuildOptions(), configure=for_sm86)
"""


def test_garbage_collection_does_not_block_a_builder(small_bundle: Path) -> None:
    # TensorRT holds a lock while it makes a builder, and logs through Python; freeing one there waits for ever.
    command = [sys.executable, "-W", "ignore", "-c", LEFT_BEHIND, str(small_bundle / "encoder.fp32.onnx")]
    assert subprocess.run(command, timeout=120).returncode == 0


def test_an_error_in_the_report_of_progress_arrives(small_bundle: Path) -> None:
    def broken(done: int, total: int, text: str) -> None:
        raise BrokenPipeError("the terminal has gone")

    with pytest.raises(BrokenPipeError, match="the terminal has gone"):
        build(small_bundle / "encoder.fp32.onnx", report=broken)


# The timing cache


def test_a_timing_cache_is_given_out_and_taken_again(small_bundle: Path) -> None:
    kept: list[bytes] = []
    assert not build(small_bundle / "encoder.fp32.onnx", keep=kept.append).timing_cache_used
    (measured,) = kept
    assert measured
    assert build(small_bundle / "encoder.fp32.onnx", timing_cache=measured).timing_cache_used


def test_a_build_goes_on_without_a_timing_cache_that_is_rubbish(small_bundle: Path) -> None:
    assert build(small_bundle / "encoder.fp32.onnx", timing_cache=b"no cache").size


def test_nothing_is_written_where_the_model_lies(bundle_copy: Path) -> None:
    before = {path.name: hashlib.sha256(path.read_bytes()).digest() for path in bundle_copy.iterdir()}
    build(bundle_copy / "encoder.fp32.onnx")
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in bundle_copy.iterdir()} == before
