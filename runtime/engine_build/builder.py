"""A strongly typed network from one of our ONNX files: the graph, and not the builder, says each layer's precision.

The TensorRT module is an argument everywhere here: TensorRT for RTX, which builds without a GPU, is another module
with the same names, and the tests give it.
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

from edgeasd.runtime.engine_build.progress import Phases, Report, make_monitor
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions
from edgeasd.runtime.engines.tensorrt.library import make_logger, one_line
from edgeasd.runtime.errors import BundleError, DeviceError

if TYPE_CHECKING:
    import tensorrt


def parse_onnx(
    trt: ModuleType, builder: tensorrt.Builder, logger: tensorrt.ILogger, model: Path, errors: list[str]
) -> tensorrt.INetworkDefinition:
    """Read an ONNX file into a strongly typed network with one input of a free batch.

    Raises BundleError, one line with the node, where TensorRT cannot read it or does not support it.
    """
    network = builder.create_network(_creation_flags(trt))
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    # From memory: the parser would follow paths to data outside a file.
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
    # TensorRT 10 still has it, as a mark without effect; in 11 it is gone.
    explicit = getattr(kinds, "EXPLICIT_BATCH", None)
    return flags if explicit is None else flags | 1 << int(explicit)


def _reason(parser: tensorrt.OnnxParser, errors: list[str]) -> str:
    """The first error of the parser with its node, and how many there are."""
    if not parser.num_errors:
        return errors[0] if errors else "it says no more"
    first: Any = parser.get_error(0)
    node = f"{first.node_operator()} {first.node_name()}: " if first.node_name() else ""
    more = f", and {parser.num_errors - 1} more" if parser.num_errors > 1 else ""
    return one_line(f"{node}{first.desc()}") + more


def quantised_convolutions(trt: ModuleType, network: tensorrt.INetworkDefinition) -> list[str]:
    """Names of the convolutions that read dequantised integers: those that should run as INT8."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = trt.LayerType
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == kinds.DEQUANTIZE}
    return [
        layer.name for layer in layers if layer.type == kinds.CONVOLUTION and layer.get_input(0).name in dequantised
    ]


LONGEST_STEP_SECONDS = 600.0
"""So long a build that was asked to stop may take to end; then it is left to itself."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Plan:
    """A built engine, not yet on disk."""

    data: Any
    """Its bytes, a buffer in TensorRT's own memory: a copy would cost a small device dear."""
    size: int
    """Bytes."""
    quantised: tuple[str, ...]
    """Names of the convolutions that should run as INT8."""
    timing_cache_used: bool
    """Whether the cache that was given fitted this machine."""
    seconds: float


def _nothing(*_: object) -> None:
    """Stands for a callback that was not given."""


def build_plan(
    trt: ModuleType,
    model: Path,
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    report: Report = _nothing,
    stopping: Callable[[], None] = _nothing,
    keep: Callable[[bytes], None] = _nothing,
    on_thread: Callable[[], None] = _nothing,
    configure: Callable[[Any], None] = _nothing,
) -> Plan:
    """Build the engine of `model`.

    An exception that reaches this call while it waits, such as Ctrl-C, calls `stopping`, ends the build after the
    step it is in, and is raised again. `keep` gets the timing cache when the builder ends, with an engine or
    without: what was measured before an interrupt need not be measured again. `on_thread` runs first in the thread
    that builds, as a CUDA device is chosen for each thread. `configure` gets the builder's configuration last, for
    what only one kind of TensorRT has.

    Raises BundleError for a graph that TensorRT refuses, DeviceError where it builds none.
    """
    options.check()
    stop = threading.Event()

    def work() -> Plan:
        on_thread()
        return _build(trt, model, options, timing_cache, report, keep, stop, configure)

    return _interruptible(work, stop, stopping)


def _interruptible(work: Callable[[], _Result], stop: threading.Event, stopping: Callable[[], None]) -> _Result:
    """Run `work` in a thread: TensorRT's call gives Python no chance to see a signal, waiting for a thread does.

    Not by an executor: an interrupt while it starts its thread leaves a thread that nobody waits for.
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
            # Nothing has begun; a thread that is there ends at once.
            go.set()
            raise
        if not finished.is_set():
            stopping()
        until = time.monotonic() + LONGEST_STEP_SECONDS
        while not finished.is_set() and time.monotonic() < until:
            try:
                finished.wait(until - time.monotonic())
            except (KeyboardInterrupt, SystemExit):
                # Asked twice. Leaving now would tear the library down under its own threads.
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
    report: Report,
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
        # Without a driver the constructor fails with a pybind11 error that says nothing.
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
    """(the cache in use, whether it is the one given). Not every version keeps it alive, so the caller holds it.

    What is refused is replaced by an empty one, so that what this build measures can be kept.
    """
    for data in (timing_cache, b"") if timing_cache else (b"",):
        cache: tensorrt.ITimingCache | None = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache, bool(data)
    return None, False


def _safely(report: Report, stop: threading.Event, failures: list[BaseException]) -> Report:
    """`report` for a caller in C++, through which no exception may travel: it is kept, and ends the build."""

    def safe_report(done: int, total: int, text: str) -> None:
        try:
            # A phase that is broken off counts as finished; nobody should see a bar that runs to its end.
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
    said = errors[0] if errors else "it says no more"
    return (
        f"{model.name}: TensorRT {library.version(trt)} builds no engine ({said}); "
        "see that memory is free, and `edgeasd doctor` for driver and GPU"
    )
