"""What goes into a built engine and what comes out, in rows, and the batch sizes it is made ready for.

Nothing here touches a GPU: shapes, bytes, and the choice of a size.
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
"""Up to here every batch has a size of its own; above, it is filled up to a multiple of this."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float32 tensor whose first dimension is the batch: its name and the shape of one row."""

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
    """One input and some outputs, with the largest batch that the engine was built for."""

    input: Tensor
    outputs: tuple[Tensor, ...]
    largest: int


def read_io_tensors(engine: trt.ICudaEngine, module: Any, place: str) -> IOTensors:
    """IOTensors of a deserialised engine; `module` is TensorRT.

    Raises BundleError for one with other than one input, without outputs, or with a tensor that is not float32
    in rows: such an engine was not built from a bundle's ONNX.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dims = engine.get_tensor_shape(name)
        shape = tuple(dims[axis] for axis in range(len(dims)))
        if engine.get_tensor_dtype(name) != module.float32:
            raise _strange(place, f"{name} is {engine.get_tensor_dtype(name)}, expected float32")
        if not shape or shape[0] != -1 or any(size < 1 for size in shape[1:]):
            raise _strange(place, f"{name} has the shape {shape}, expected rows of a free batch")
        is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(Tensor(name, shape[1:]))
    if len(inputs) != 1 or not outputs:
        raise _strange(place, f"{len(inputs)} inputs and {len(outputs)} outputs, expected one input")
    # Of the first and only profile: smallest, most frequent and largest shape.
    _, _, most = engine.get_tensor_profile_shape(inputs[0].name, 0)
    return IOTensors(inputs[0], tuple(outputs), most[0])


def _strange(place: str, what: str) -> BundleError:
    return BundleError(f"{place}: {what}; not built from this bundle: build again with `edgeasd build`")


def prepared_sizes(largest: int) -> tuple[int, ...]:
    """Batch sizes to make ready for batches of 1 to `largest`, ascending; the last is `largest`.

    Each costs a context and a CUDA graph, so large batches share: a few rows are then computed for nothing.
    """
    sizes = {*range(1, min(largest, _EXACT) + 1), *range(_EXACT, largest, _EXACT), largest}
    return tuple(sorted(sizes))


def size_for(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest prepared size that holds `count` rows."""
    return sizes[bisect_left(sizes, count)]


def checked_rows(batch: Float32Array, tensor: Tensor, largest: int) -> int:
    """Number of rows of a batch. Raises InputError where it is not float32 of this shape, 1 to `largest` rows."""
    if not isinstance(batch, np.ndarray) or batch.dtype != np.float32 or batch.shape[1:] != tensor.row:
        kind = f"{batch.dtype} {batch.shape}" if isinstance(batch, np.ndarray) else type(batch).__name__
        raise InputError(f"{tensor.name}: {kind}, the engine takes float32 {('N', *tensor.row)}; check the features")
    if not 1 <= len(batch) <= largest:
        raise InputError(f"{tensor.name}: a batch of {len(batch)}, the engine takes 1 to {largest}; split it")
    return len(batch)


REMEDY = "build again with `edgeasd build`"


class Log:
    """What TensorRT complains of: kept and not printed, to become part of our errors. `module` is TensorRT."""

    def __init__(self, module: ModuleType) -> None:
        self.errors: list[str] = []
        self.logger: trt.ILogger = make_logger(module, self.errors)
        """TensorRT keeps a bare pointer to it, so it lives as long as whatever was made with it."""

    def reason(self) -> str:
        """The first error since the last call, in brackets; what follows it is its consequence."""
        found = f" ({self.errors[0]})" if self.errors else ""
        self.errors.clear()
        return found


@dataclass(frozen=True, slots=True)
class SerializedEngine:
    """The bytes of an engine and where they lie, as errors say it."""

    plan: bytes
    place: str

    @classmethod
    def of(cls, path: Path, plan: bytes | None = None) -> SerializedEngine:
        """The engine at `path`, or `plan`, its bytes, where they have been read."""
        return cls(path.read_bytes() if plan is None else plan, f"{path.parent.name}/{path.name}")


def deserialise(module: ModuleType, plan: bytes, place: str, log: Log) -> trt.ICudaEngine:
    """The engine of a serialised one; `module` is TensorRT. Raises DeviceError with its words where it refuses."""
    with library.without_collection():
        runtime: trt.Runtime = module.Runtime(log.logger)
    engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceError(f"{place}: TensorRT {library.version(module)} cannot load it{log.reason()}; {REMEDY}")
    return engine


class EngineContext:
    """An engine in memory. `module` is TensorRT."""

    def __init__(self, module: Any, serialised: SerializedEngine, log: Log) -> None:
        """Raises DeviceError where TensorRT refuses it, BundleError where it was not built from a bundle."""
        self._trt, self._log, self.place = module, log, serialised.place
        self._engine = deserialise(module, serialised.plan, serialised.place, log)
        self.layout = read_io_tensors(self._engine, module, serialised.place)
        self.working_bytes = int(self._engine.device_memory_size_v2)
        """What a context of it works in."""

    def context(self, size: int, addresses: Mapping[str, int], working: int) -> trt.IExecutionContext:
        """A context for batches of `size`, with the addresses of its tensors and of its working memory on the GPU."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: trt.IExecutionContext | None = self._engine.create_execution_context(strategy)
        if context is None:
            raise DeviceError(f"{self.place}: TensorRT makes no context{self._log.reason()}; free memory on the device")
        context.set_device_memory(working, self.working_bytes)
        accepted = context.set_input_shape(self.layout.input.name, self.layout.input.shape(size))
        for name, address in addresses.items():
            accepted = context.set_tensor_address(name, address) and accepted
        if not accepted:
            raise DeviceError(f"{self.place}: TensorRT refuses a batch of {size}{self._log.reason()}; {REMEDY}")
        return context

    def enqueue(self, context: trt.IExecutionContext, size: int, stream: int) -> None:
        """Put a run of `context` on the stream."""
        if not context.execute_async_v3(stream):
            raise DeviceError(f"{self.place}: TensorRT does not run a batch of {size}{self._log.reason()}; {REMEDY}")


@dataclass(frozen=True, slots=True)
class _Buffer:
    """A tensor of the largest batch, pinned on this side and on the GPU."""

    tensor: Tensor
    array: Float32Array
    address: int


class ExecutionPipeline:
    """Engines on one GPU, each after the other. Stateless between calls; from one thread at a time.

    Every prepared batch size has contexts of its own, because a recorded graph belongs to the state of its
    contexts. All contexts share one block of working memory: only one runs at a time.
    """

    def __init__(self, parts: Sequence[SerializedEngine], *, index: int, max_batch: int) -> None:
        """Load, run and record every batch size once. Raises DeviceError, InputError or BundleError."""
        self._trt: Any = library.load()
        self._log = Log(self._trt)
        self._stages: list[EngineContext] = []
        self._ready: dict[int, tuple[list[trt.IExecutionContext], Any]] = {}
        self.graphs = "CUDA graphs"
        """ "CUDA graphs", or "no CUDA graph: " and the reason."""
        self._device = Device(index)
        self.gpu = self._device.facts
        self.version = library.version(self._trt)
        try:
            self._load(parts, max_batch)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _load(self, parts: Sequence[SerializedEngine], max_batch: int) -> None:
        device = self._device
        device.on_close(self._stages.clear)
        for part in parts:
            self._stages.append(EngineContext(self._trt, part, self._log))
        self.layout = _chained(self._stages)
        narrow = min(self._stages, key=lambda stage: stage.layout.largest)
        self._place = self._stages[-1].place
        if not 1 <= max_batch <= self.layout.largest:
            raise InputError(
                f"{narrow.place}: built for batches of 1 to {self.layout.largest}, asked for {max_batch}; "
                f"`edgeasd build --max-batch {max_batch}`"
            )
        self.max_batch = max_batch
        self._sizes = prepared_sizes(max_batch)
        # What goes in at each engine, and what comes out of the last.
        slots = [*((stage.layout.input,) for stage in self._stages), self.layout.outputs]
        pinned = [[device.pinned(tensor.shape(max_batch)) for tensor in slot] for slot in slots]
        self._slots = [
            [
                _Buffer(tensor, array, device.memory(tensor.nbytes(max_batch)))
                for tensor, array in zip(slot, arrays, strict=True)
            ]
            for slot, arrays in zip(slots, pinned, strict=True)
        ]
        self._working = device.memory(max(stage.working_bytes for stage in self._stages))

    def _prepare(self) -> None:
        """Contexts for each size, run once, since the first run after a change of shape cannot be recorded."""
        self._device.on_close(self._ready.clear)
        for size in self._sizes:
            contexts = [
                stage.context(size, self._addresses(at), self._working) for at, stage in enumerate(self._stages)
            ]
            self._ready[size] = (contexts, None)
            self._enqueue(contexts, size, 0, len(contexts))
            self._device.synchronise()
        try:
            self._record()
        except DeviceError as error:
            # Not fatal, as each size has just run without; and not silent, as the engine's name says so.
            self.graphs = f"no CUDA graph: {str(error).partition(';')[0]}"
            for size, (contexts, _) in self._ready.items():
                self._ready[size] = (contexts, None)

    def _record(self) -> None:
        for size, (contexts, _) in self._ready.items():
            graph = self._device.record(partial(self._enqueue, contexts, size, 0, len(contexts)))
            self._ready[size] = (contexts, graph)

    def _addresses(self, at: int) -> dict[str, int]:
        """Where the engine at `at` reads and writes. In a chain its output has the name of the next one's input or not."""
        layout = self._stages[at].layout
        found = {layout.input.name: self._slots[at][0].address}
        given = zip(layout.outputs, self._slots[at + 1], strict=True)
        return found | {tensor.name: buffer.address for tensor, buffer in given}

    def _enqueue(self, contexts: list[trt.IExecutionContext], size: int, first: int, end: int) -> None:
        """Put a run of engines `first` to `end` on the stream: rows to the GPU, the engines, rows back."""
        device = self._device
        for buffer in self._slots[first]:
            device.upload(buffer.address, buffer.array, buffer.tensor.nbytes(size))
        for stage, context in zip(self._stages[first:end], contexts[first:end], strict=True):
            stage.enqueue(context, size, int(device.stream))
        for buffer in self._slots[end]:
            device.download(buffer.array, buffer.address, buffer.tensor.nbytes(size))

    def __call__(self, rows: Float32Array) -> dict[str, Float32Array]:
        """Rows (N, ...) float32, 1 <= N <= max_batch, to all outputs by name, each (N, ...) float32.

        Raises InputError for another shape, DeviceError for a fault of the GPU, RuntimeError after close.
        """
        return self._run(rows, 0, len(self._slots) - 1)

    def part(self, rows: Float32Array, first: int, end: int) -> dict[str, Float32Array]:
        """Engines `first` to `end` of the chain alone, without a graph. For proofs; as a call otherwise."""
        return self._run(rows, first, end)

    def _run(self, rows: Float32Array, first: int, end: int) -> dict[str, Float32Array]:
        if not self._ready:
            raise RuntimeError(f"{self._place}: closed")
        into = self._slots[first][0]
        count = checked_rows(rows, into.tensor, self.max_batch)
        size = size_for(count, self._sizes)
        contexts, graph = self._ready[size]
        # What was said in an earlier call explains nothing, and would pile up over months.
        self._log.errors.clear()
        self._device.select()
        # Rows of an earlier batch may fill up this one; every row is computed by itself.
        into.array[:count] = rows
        if graph is None or end - first < len(contexts):
            self._enqueue(contexts, size, first, end)
        else:
            self._device.launch(graph)
        self._device.synchronise()
        return {buffer.tensor.name: buffer.array[:count].copy() for buffer in self._slots[end]}

    def close(self) -> None:
        """Give back everything, graphs before contexts, contexts before engines and memory. Safe to call twice."""
        self._device.close()


def _chained(stages: Sequence[EngineContext]) -> IOTensors:
    """What goes into the first and comes out of the last. Raises BundleError where two do not fit together."""
    for one, other in pairwise(stages):
        given, taken = one.layout.outputs, other.layout.input
        if [tensor.row for tensor in given] != [taken.row]:
            shapes = ", ".join(str(("N", *tensor.row)) for tensor in given)
            raise BundleError(f"{one.place}: gives {shapes}, {other.place} takes {('N', *taken.row)}; {REMEDY}")
    largest = min(stage.layout.largest for stage in stages)
    return IOTensors(stages[0].layout.input, stages[-1].layout.outputs, largest)
