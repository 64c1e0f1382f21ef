"""Builds a TensorRT engine from one of our ONNX files. The network is strongly typed: the graph sets the precisions.

The TensorRT module is an argument of every function: TensorRT for RTX, which builds without a GPU, is another module
with the same names, and the tests pass it.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from edgeasd.runtime.engine_build.progress import Phases, ProgressCallback, make_monitor
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions
from edgeasd.runtime.engines.tensorrt.library import make_logger
from edgeasd.runtime.errors import BundleError, DeviceError, printable

if TYPE_CHECKING:
    import tensorrt


def parse_onnx(
    trt: ModuleType, builder: tensorrt.Builder, logger: tensorrt.ILogger, model: Path, errors: list[str]
) -> tensorrt.INetworkDefinition:
    """Read an ONNX file into a strongly typed network with one input of a free batch.

    Raises BundleError, one line with the node, if TensorRT cannot read or does not support it.
    """
    network = builder.create_network(_creation_flags(trt))
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    # From memory: given a path, the parser would load data outside of the file.
    if not parser.parse(model.read_bytes()):
        raise BundleError(
            f"{model.name}: TensorRT {library.version(trt)} cannot read it ({_reason(parser, errors)}); "
            "export and calibrate the bundle again with this version of edgeasd"
        )
    entry: Any = network.get_input(0).shape if network.num_inputs == 1 else ()
    if [size < 0 for size in entry] != [True] + [False] * (len(entry) - 1):
        raise BundleError(f"{model.name}: expected one input, of a free batch and else of fixed shape; export it again")
    return network


def _creation_flags(trt: ModuleType) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(kinds.STRONGLY_TYPED)
    # TensorRT 10 has it without effect; TensorRT 11 has removed it.
    explicit = getattr(kinds, "EXPLICIT_BATCH", None)
    return flags if explicit is None else flags | 1 << int(explicit)


def _reason(parser: tensorrt.OnnxParser, errors: list[str]) -> str:
    """The first error of the parser with its node, and how many there are."""
    if not parser.num_errors:
        return errors[0] if errors else "without a reason"
    first: Any = parser.get_error(0)
    node = f"{first.node_operator()} {first.node_name()}: " if first.node_name() else ""
    more = f", and {parser.num_errors - 1} more" if parser.num_errors > 1 else ""
    return printable(f"{node}{first.desc()}", 300) + more


def quantised_convolutions(trt: ModuleType, network: tensorrt.INetworkDefinition) -> list[str]:
    """Names of the convolutions with dequantised inputs, which should run as INT8."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = trt.LayerType
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == kinds.DEQUANTIZE}
    return [
        layer.name for layer in layers if layer.type == kinds.CONVOLUTION and layer.get_input(0).name in dequantised
    ]


LONGEST_STEP_SECONDS = 600.0
"""A build that was asked to stop is waited for so long."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Plan:
    """A built engine, not yet on disk."""

    data: Any
    """Its bytes, a buffer in TensorRT's own memory: a small device has no room for a copy."""
    size: int
    """Bytes."""
    quantised: tuple[str, ...]
    """Names of the convolutions that should run as INT8."""
    timing_cache_used: bool
    """Whether the given cache fits this machine."""
    seconds: float


def _nothing(*_: object) -> None:
    """The default of a callback."""


def build_plan(
    trt: ModuleType,
    model: Path,
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    report: ProgressCallback = _nothing,
    stopping: Callable[[], None] = _nothing,
    keep: Callable[[bytes], None] = _nothing,
    on_thread: Callable[[], None] = _nothing,
    configure: Callable[[Any], None] = _nothing,
) -> Plan:
    """Build the engine of `model`. Ctrl-C calls `stopping`, ends the build after its present step, and is raised again.

    `keep` gets the timing cache when the builder ends, with an engine or without. `on_thread` runs first in the
    building thread, because the CUDA device is set per thread. `configure` gets the builder's configuration, for
    options that only one kind of TensorRT has. Raises BundleError if TensorRT refuses the graph, DeviceError if it
    builds no engine.
    """
    options.check()
    stop = threading.Event()

    def work() -> Plan:
        on_thread()
        return _build(trt, model, options, timing_cache, report, keep, stop, configure)

    return _interruptible(work, stop, stopping)


def _interruptible(work: Callable[[], _Result], stop: threading.Event, stopping: Callable[[], None]) -> _Result:
    """Run `work` in a thread: Python handles signals while it waits for a thread, but not inside TensorRT's call.

    No executor: an interrupt while it starts its thread would leave a thread running.
    """
    go, finished = threading.Event(), threading.Event()
    results, errors = list[_Result](), list[BaseException]()

    def run() -> None:
        go.wait()
        try:
            if not stop.is_set():
                results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    try:
        threading.Thread(target=run, name="tensorrt-build", daemon=True).start()
        go.set()
        finished.wait()
    except BaseException:
        stop.set()
        if not go.is_set():
            # Nothing has begun: the thread, if it exists, ends at once.
            go.set()
            raise
        if not finished.is_set():
            stopping()
        until = time.monotonic() + LONGEST_STEP_SECONDS
        while not finished.is_set() and time.monotonic() < until:
            try:
                finished.wait(until - time.monotonic())
            except (KeyboardInterrupt, SystemExit):
                # A second Ctrl-C: leaving now would unload the library while its threads run.
                continue
        raise
    if errors:
        raise errors[0]
    return results[0]


def _build(
    trt: ModuleType,
    model: Path,
    options: BuildOptions,
    timing_cache: bytes,
    report: ProgressCallback,
    keep: Callable[[bytes], None],
    stop: threading.Event,
    configure: Callable[[Any], None],
) -> Plan:
    started, errors = time.monotonic(), list[str]()
    logger = make_logger(trt, errors)
    try:
        with library.without_collection():
            builder: tensorrt.Builder = trt.Builder(logger)
    except Exception as error:
        # Without a driver the constructor fails with a pybind11 error without a reason.
        raise DeviceError(_refusal(trt, model, [*errors, str(error)])) from None
    network = parse_onnx(trt, builder, logger, model, errors)
    config = _configuration(trt, builder, network, options)
    cache, used = _give_cache(config, timing_cache)
    failures = list[BaseException]()
    monitor = make_monitor(trt, Phases(_safely(report, stop, failures)), stop)
    config.progress_monitor = monitor
    configure(config)
    errors.clear()
    built = builder.build_serialized_network(network, config)
    if cache is not None:
        keep(bytes(cache.serialize()))
    if failures:
        raise failures[0]
    if built is None:
        raise DeviceError(_refusal(trt, model, errors))
    return Plan(
        data=built,
        size=int(built.nbytes),
        quantised=tuple(quantised_convolutions(trt, network)),
        timing_cache_used=used,
        seconds=time.monotonic() - started,
    )


def _give_cache(config: tensorrt.IBuilderConfig, timing_cache: bytes) -> tuple[tensorrt.ITimingCache | None, bool]:
    """(the cache in use, whether it is the given one). The caller must hold it: not every version keeps it alive.

    A refused cache is replaced by an empty one, so that the measurements of this build can be kept.
    """
    for data in (timing_cache, b"") if timing_cache else (b"",):
        cache: tensorrt.ITimingCache | None = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache, bool(data)
    return None, False


def _safely(report: ProgressCallback, stop: threading.Event, failures: list[BaseException]) -> ProgressCallback:
    """`report` for a caller in C++, which no exception may pass: it goes to `failures` and ends the build."""

    def safe_report(done: int, total: int, text: str) -> None:
        try:
            # TensorRT counts a phase that is broken off as finished; the bar must not run to its end.
            if not stop.is_set():
                report(done, total, text)
        except BaseException as error:
            failures.append(error)
            stop.set()

    return safe_report


def _configuration(
    trt: ModuleType, builder: tensorrt.Builder, network: tensorrt.INetworkDefinition, options: BuildOptions
) -> tensorrt.IBuilderConfig:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # fp32 means fp32: TF32 keeps 10 bits of the mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    entry = network.get_input(0)
    shape: Any = entry.shape
    rest = tuple(shape)[1:]
    sizes: list[Any] = [(batch, *rest) for batch in (1, options.opt_batch, options.max_batch)]
    profile = builder.create_optimization_profile()
    profile.set_shape(entry.name, *sizes)
    config.add_optimization_profile(profile)
    return config


def _refusal(trt: ModuleType, model: Path, errors: list[str]) -> str:
    reason = errors[0] if errors else "without a reason"
    return (
        f"{model.name}: TensorRT {library.version(trt)} builds no engine ({reason}); "
        "see that memory is free, and `edgeasd doctor` for driver and GPU"
    )
