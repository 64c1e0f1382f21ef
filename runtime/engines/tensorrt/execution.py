"""Runs serialized TensorRT engines, one after the other, on one CUDA stream.

`ExecutionPipeline` is what the engines of edgeasd use: it holds the buffers, a context and a CUDA graph for each batch
size. `read_io_tensors`, `prepared_sizes` and `checked_rows` decide about shapes and touch no GPU.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.cuda import Device
from edgeasd.runtime.engines.tensorrt.library import make_logger
from edgeasd.runtime.errors import BundleError, DeviceError, InputError
from edgeasd.runtime.features.logmel import Float32Array

if TYPE_CHECKING:
    import tensorrt as trt


_EXACT = 16
"""Batches up to this size are run as they are; larger ones are padded to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float32 tensor whose first dimension is the batch: name and shape of one row."""

    name: str
    row: tuple[int, ...]

    def shape(self, size: int) -> tuple[int, ...]:
        """Shape of a batch."""
        return (size, *self.row)

    def nbytes(self, size: int) -> int:
        """Bytes of a batch."""
        return 4 * size * math.prod(self.row)


@dataclass(frozen=True, slots=True)
class IOTensors:
    """The input and the outputs of an engine, and the largest batch it was built for."""

    input: Tensor
    outputs: tuple[Tensor, ...]
    largest: int


def read_io_tensors(engine: trt.ICudaEngine, module: Any, place: str) -> IOTensors:
    """The tensors of a deserialized engine; `module` is TensorRT.

    Raises BundleError unless it has one input, at least one output, and float32 rows: another engine was not built
    from a bundle's ONNX.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dims = engine.get_tensor_shape(name)
        shape = tuple(dims[axis] for axis in range(len(dims)))
        if engine.get_tensor_dtype(name) != module.float32:
            raise _not_ours(place, f"{name} is {engine.get_tensor_dtype(name)}, expected float32")
        if not shape or shape[0] != -1 or any(size < 1 for size in shape[1:]):
            raise _not_ours(place, f"{name} has the shape {shape}, expected rows of a free batch")
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(Tensor(name, shape[1:]))
    if len(inputs) != 1 or not outputs:
        raise _not_ours(place, f"{len(inputs)} inputs and {len(outputs)} outputs, expected one input")
    # Of the only profile: smallest, most frequent and largest shape.
    _, _, most = engine.get_tensor_profile_shape(inputs[0].name, 0)
    return IOTensors(inputs[0], tuple(outputs), most[0])


def _not_ours(place: str, what: str) -> BundleError:
    return BundleError(f"{place}: {what}; not built from this bundle: build again with `edgeasd build`")


def prepared_sizes(largest: int) -> tuple[int, ...]:
    """Batch sizes to prepare for batches of 1 to `largest`, ascending; the last is `largest`.

    Each costs a context and a CUDA graph, so large batches share one and compute a few rows for nothing.
    """
    sizes = {*range(1, min(largest, _EXACT) + 1), *range(_EXACT, largest, _EXACT), largest}
    return tuple(sorted(sizes))


def size_for(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest prepared size that holds `count` rows."""
    return sizes[bisect_left(sizes, count)]


def checked_rows(batch: Float32Array, tensor: Tensor, largest: int) -> int:
    """Number of rows of a batch. Raises InputError unless it is float32 of this shape with 1 to `largest` rows."""
    if not isinstance(batch, np.ndarray) or batch.dtype != np.float32 or batch.shape[1:] != tensor.row:
        kind = f"{batch.dtype} {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
        raise InputError(f"{tensor.name}: {kind}, the engine takes float32 {('N', *tensor.row)}; check the features")
    if not 1 <= len(batch) <= largest:
        raise InputError(f"{tensor.name}: a batch of {len(batch)}, the engine takes 1 to {largest}; split it")
    return len(batch)


REMEDY = "build again with `edgeasd build`"


class ErrorLog:
    """Collects TensorRT's errors, which become part of ours. `module` is TensorRT."""

    def __init__(self, module: ModuleType) -> None:
        self.errors: list[str] = []
        self.logger: trt.ILogger = make_logger(module, self.errors)
        """TensorRT keeps a bare pointer to it: it must live as long as anything made with it."""

    def reason(self) -> str:
        """The first error since the last call, in brackets; later ones are its consequences."""
        reason = f" ({self.errors[0]})" if self.errors else ""
        self.errors.clear()
        return reason


@dataclass(frozen=True, slots=True)
class SerializedEngine:
    """The bytes of an engine, and the place that errors name."""

    plan: bytes
    place: str

    @classmethod
    def of(cls, path: Path, plan: bytes | None = None) -> SerializedEngine:
        """The engine at `path`; `plan` is its bytes if they have been read already."""
        return cls(path.read_bytes() if plan is None else plan, f"{path.parent.name}/{path.name}")


def deserialize(module: ModuleType, plan: bytes, place: str, log: ErrorLog) -> trt.ICudaEngine:
    """Load a serialized engine; `module` is TensorRT. Raises DeviceError with TensorRT's reason if it refuses."""
    with library.without_collection():
        runtime: trt.Runtime = module.Runtime(log.logger)
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceError(f"{place}: TensorRT {library.version(module)} cannot load it{log.reason()}; {REMEDY}")
    return engine


class EngineContext:
    """A loaded engine, which makes execution contexts. `module` is TensorRT."""

    def __init__(self, module: Any, serialized: SerializedEngine, log: ErrorLog) -> None:
        """Raises DeviceError if TensorRT refuses it, BundleError if it was not built from a bundle."""
        self._trt, self._log, self.place = module, log, serialized.place
        self._engine = deserialize(module, serialized.plan, serialized.place, log)
        self.io = read_io_tensors(self._engine, module, serialized.place)
        self.working_bytes = int(self._engine.device_memory_size_v2)
        """Working memory of a context."""

    def make_context(self, size: int, addresses: Mapping[str, int], working: int) -> trt.IExecutionContext:
        """A context for batches of `size`; `addresses` of tensors and `working` memory are on the GPU."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: trt.IExecutionContext | None = self._engine.create_execution_context(strategy)
        if context is None:
            raise DeviceError(f"{self.place}: TensorRT makes no context{self._log.reason()}; free memory on the device")
        context.set_device_memory(working, self.working_bytes)
        accepted = context.set_input_shape(self.io.input.name, self.io.input.shape(size))
        for name, address in addresses.items():
            accepted = context.set_tensor_address(name, address) and accepted
        if not accepted:
            raise DeviceError(f"{self.place}: TensorRT refuses a batch of {size}{self._log.reason()}; {REMEDY}")
        return context

    def enqueue(self, context: trt.IExecutionContext, size: int, stream: int) -> None:
        """Enqueue a run of `context`."""
        if not context.execute_async_v3(stream):
            raise DeviceError(f"{self.place}: TensorRT does not run a batch of {size}{self._log.reason()}; {REMEDY}")


@dataclass(frozen=True, slots=True)
class _Buffer:
    """A tensor of the largest batch, in pinned memory and on the GPU."""

    tensor: Tensor
    array: Float32Array
    address: int


class ExecutionPipeline:
    """Engines on one GPU that run one after the other. Stateless between calls; for one thread at a time.

    Every prepared batch size has its own contexts, because a recorded graph depends on the state of its contexts.
    All contexts share one block of working memory, as only one runs at a time.
    """

    def __init__(self, parts: Sequence[SerializedEngine], *, index: int, max_batch: int) -> None:
        """Load, run and record every batch size once. Raises DeviceError, InputError or BundleError."""
        self._trt: Any = library.load()
        self._log = ErrorLog(self._trt)
        self._engines: list[EngineContext] = []
        self._ready: dict[int, tuple[list[trt.IExecutionContext], Any]] = {}
        self.graphs = "CUDA graphs"
        """ "CUDA graphs", or "no CUDA graph: " and the reason."""
        self._device = Device(index)
        self.gpu = self._device.info
        self.version = library.version(self._trt)
        try:
            self._load(parts, max_batch)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _load(self, parts: Sequence[SerializedEngine], max_batch: int) -> None:
        device = self._device
        device.on_close(self._engines.clear)
        for part in parts:
            self._engines.append(EngineContext(self._trt, part, self._log))
        self.io = _pipeline_io(self._engines)
        narrow = min(self._engines, key=lambda engine: engine.io.largest)
        self._place = self._engines[-1].place
        if not 1 <= max_batch <= self.io.largest:
            raise InputError(
                f"{narrow.place}: built for batches of 1 to {self.io.largest}, asked for {max_batch}; "
                f"`edgeasd build --max-batch {max_batch}`"
            )
        self.max_batch = max_batch
        self._sizes = prepared_sizes(max_batch)
        # The input of each engine, and the outputs of the last.
        slots = [*((engine.io.input,) for engine in self._engines), self.io.outputs]
        pinned = [[device.pinned(tensor.shape(max_batch)) for tensor in slot] for slot in slots]
        self._slots = [
            [
                _Buffer(tensor, array, device.memory(tensor.nbytes(max_batch)))
                for tensor, array in zip(slot, arrays, strict=True)
            ]
            for slot, arrays in zip(slots, pinned, strict=True)
        ]
        self._working = device.memory(max(engine.working_bytes for engine in self._engines))

    def _prepare(self) -> None:
        """Make and run contexts for each size: the first run after a change of shape cannot be recorded."""
        self._device.on_close(self._ready.clear)
        for size in self._sizes:
            contexts = [
                engine.make_context(size, self._addresses(at), self._working) for at, engine in enumerate(self._engines)
            ]
            self._ready[size] = (contexts, None)
            self._enqueue(contexts, size, 0, len(contexts))
            self._device.synchronise()
        try:
            self._record()
        except DeviceError as error:
            # Not fatal: each size has just run without a graph. Not silent: the engine's name says so.
            self.graphs = f"no CUDA graph: {str(error).partition(';')[0]}"
            for size, (contexts, _) in self._ready.items():
                self._ready[size] = (contexts, None)

    def _record(self) -> None:
        for size, (contexts, _) in self._ready.items():
            graph = self._device.record(partial(self._enqueue, contexts, size, 0, len(contexts)))
            self._ready[size] = (contexts, graph)

    def _addresses(self, at: int) -> dict[str, int]:
        """Addresses of the tensors of engine `at`. Its output may be named otherwise than the next one's input."""
        io = self._engines[at].io
        outputs = zip(io.outputs, self._slots[at + 1], strict=True)
        return {io.input.name: self._slots[at][0].address} | {tensor.name: buf.address for tensor, buf in outputs}

    def _enqueue(self, contexts: list[trt.IExecutionContext], size: int, first: int, end: int) -> None:
        """Enqueue engines `first` to `end`: rows to the GPU, the engines, rows back."""
        device = self._device
        for buffer in self._slots[first]:
            device.upload(buffer.address, buffer.array, buffer.tensor.nbytes(size))
        for engine, context in zip(self._engines[first:end], contexts[first:end], strict=True):
            engine.enqueue(context, size, int(device.stream))
        for buffer in self._slots[end]:
            device.download(buffer.array, buffer.address, buffer.tensor.nbytes(size))

    def __call__(self, rows: Float32Array) -> dict[str, Float32Array]:
        """Rows (N, ...) float32, 1 <= N <= max_batch, to all outputs by name, each (N, ...) float32.

        Raises InputError for another shape, DeviceError for a fault of the GPU, RuntimeError after close.
        """
        return self._run(rows, 0, len(self._slots) - 1)

    def part(self, rows: Float32Array, first: int, end: int) -> dict[str, Float32Array]:
        """Engines `first` to `end` of the pipeline alone, without a graph, for verification."""
        return self._run(rows, first, end)

    def _run(self, rows: Float32Array, first: int, end: int) -> dict[str, Float32Array]:
        if not self._ready:
            raise RuntimeError(f"{self._place}: closed")
        into = self._slots[first][0]
        count = checked_rows(rows, into.tensor, self.max_batch)
        size = size_for(count, self._sizes)
        contexts, graph = self._ready[size]
        # Errors of an earlier call explain nothing, and would pile up over months.
        self._log.errors.clear()
        self._device.select()
        # Rows of an earlier batch pad this one; every row is computed by itself.
        into.array[:count] = rows
        if graph is None or end - first < len(contexts):
            self._enqueue(contexts, size, first, end)
        else:
            self._device.launch(graph)
        self._device.synchronise()
        return {buffer.tensor.name: buffer.array[:count].copy() for buffer in self._slots[end]}

    def close(self) -> None:
        """Free everything: graphs, then contexts, then engines and memory. Safe to call twice."""
        self._device.close()


def _pipeline_io(engines: Sequence[EngineContext]) -> IOTensors:
    """The input of the first engine and the outputs of the last. Raises BundleError if two do not fit together."""
    for first, second in pairwise(engines):
        given, taken = first.io.outputs, second.io.input
        if [tensor.row for tensor in given] != [taken.row]:
            shapes = ", ".join(str(("N", *tensor.row)) for tensor in given)
            raise BundleError(f"{first.place}: gives {shapes}, {second.place} takes {('N', *taken.row)}; {REMEDY}")
    largest = min(engine.io.largest for engine in engines)
    return IOTensors(engines[0].io.input, engines[-1].io.outputs, largest)
