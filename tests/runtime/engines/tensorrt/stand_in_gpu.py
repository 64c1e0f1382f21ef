"""Stand-ins for CUDA and TensorRT that keep books and compute nothing of a network.

They are no proof that anything runs on a GPU. They show what edgeasd does around one: what is taken, that it is
given back once and in order, what goes where, and what is recorded when. Memory is real, so that a wrong address
or size is a wrong number or worse. "The engine" doubles the first values of each row, or calls what it is given.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureInvalidated = 901


OK = (Error.cudaSuccess,)


class Cuda:
    """The names of cuda.bindings.runtime that edgeasd uses. `events` is the book; `fails` maps a call to its error."""

    cudaDeviceScheduleBlockingSync = 4
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails: dict[str, Error] = {}
        self.held: dict[int, Any] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.copied: list[int] = []

    def _answer(self, name: str, *values: Any) -> tuple[Any, ...]:
        if name in self.fails:
            return (self.fails[name], *(None for _ in values))
        self.events.append(name)
        return (Error.cudaSuccess, *values)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (Error.cudaSuccess, 2)

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, ...]:
        return (Error.cudaSuccess, SimpleNamespace(name=b"Stand-in", major=8, minor=7, totalGlobalMem=1 << 30))

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:
        return self._answer("cudaSetDevice")

    def cudaSetDeviceFlags(self, flags: int) -> tuple[Any, ...]:
        return self._answer("cudaSetDeviceFlags")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._answer("cudaStreamCreate", 7)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        assert stream == 7
        return self._answer("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._answer("cudaStreamSynchronize")

    def _take(self, name: str, size: int) -> tuple[Any, ...]:
        block = ctypes.create_string_buffer(b"\xff" * size, size)
        error, address = self._answer(name, ctypes.addressof(block))
        if address is not None:
            self.held[address] = block
        return error, address

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._take("cudaMalloc", size)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._take("cudaMallocHost", size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.held[address]
        return self._answer("cudaFree")

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.held[address]
        return self._answer("cudaFreeHost")

    def enqueue(self, name: str, work: Callable[[], None]) -> None:
        self.events.append(f"{name} recorded" if self.recording is not None else name)
        work() if self.recording is None else self.recording.append(work)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:
        self.copied.append(size)
        self.enqueue(f"copy {kind}", lambda: ctypes.memmove(target, source, size) and None)
        return OK

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        assert self.recording is None
        self.recording = []
        return self._answer("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        recorded, self.recording = self.recording, None
        return self._answer("cudaStreamEndCapture", recorded)

    def cudaGraphInstantiate(self, graph: list[Callable[[], None]], flags: int) -> tuple[Any, ...]:
        self.graphs[100 + len(self.graphs)] = graph
        return self._answer("cudaGraphInstantiate", 99 + len(self.graphs))

    def cudaGraphDestroy(self, graph: object) -> tuple[Any, ...]:
        return self._answer("cudaGraphDestroy")

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.graphs[graph]
        return self._answer("cudaGraphExecDestroy")

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:
        for work in self.graphs[graph]:
            work()
        return self._answer("cudaGraphLaunch")

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return self._answer("cudaGetLastError")


class Context:
    """An execution context: it runs only with memory, a shape, and addresses for every tensor."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses, self.size, self.memory, self.runs = engine, {}, 0, 0, 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == self.engine.device_memory_size_v2
        self.memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self.engine.input
        assert shape[1:] == self.engine.row
        self.size = shape[0]
        return 1 <= shape[0] <= self.engine.largest

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.outputs or name == self.engine.input

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self.engine.cuda
        assert stream == 7
        assert self.memory in cuda.held
        if cuda.recording is not None:
            assert self.runs > 0, "recorded before it had run: TensorRT forbids it"
            if not self.engine.capturable:
                return False
        self.runs += 1
        cuda.enqueue("execute", self._compute)
        return True

    def _compute(self) -> None:
        width = math.prod(self.engine.row)
        source = (ctypes.c_float * (self.size * width)).from_address(self.addresses[self.engine.input])
        rows = np.ctypeslib.as_array(source).reshape(self.size, width)
        made = self.engine.compute(rows.reshape(self.size, *self.engine.row)) if self.engine.compute else {}
        for name, values in self.engine.outputs.items():
            target = (ctypes.c_float * (self.size * values)).from_address(self.addresses[name])
            found = made.get(name, 2 * rows[:, :values])
            np.ctypeslib.as_array(target).reshape(self.size, values)[:] = found.reshape(self.size, values)


class Engine:
    """An engine with one input, "logmel" (-1, 1, 4, 3) unless told otherwise."""

    device_memory_size_v2 = 1000
    input = "logmel"
    row: tuple[int, ...] = (1, 4, 3)
    compute: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    flat: frozenset[str] = frozenset()
    """Outputs without a dimension beside the batch."""
    shaped: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """Outputs with several: the shape of a row."""

    def __init__(self, cuda: Cuda, outputs: dict[str, int], largest: int, capturable: bool) -> None:
        self.cuda, self.outputs, self.largest, self.capturable = cuda, outputs, largest, capturable
        self.contexts: list[Context] = []

    @property
    def num_io_tensors(self) -> int:
        return 1 + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [self.input, *self.outputs][index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name == self.input:
            return (-1, *self.row)
        return (-1,) if name in self.flat else (-1, *self.shaped.get(name, (self.outputs[name],)))

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_mode(self, name: str) -> int:
        return 1 if name == self.input else 2

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == (self.input, 0)
        return [(1, *self.row), (1, *self.row), (self.largest, *self.row)]

    def create_execution_context(self, strategy: str) -> Context:
        assert strategy == "USER_MANAGED"
        self.contexts.append(Context(self))
        return self.contexts[-1]


class ILogger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1)


def tensorrt(engine: Engine | Callable[[bytes], Engine] | None) -> Any:
    """A module `tensorrt` that deserialises anything into `engine`, or into what `engine` makes of it."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if engine is None:
                self.logger.log(ILogger.Severity.ERROR, "Serialization assertion\nfailed")
            return engine(plan) if callable(engine) else engine

    return SimpleNamespace(
        __version__="10.3.0",
        ILogger=ILogger,
        Runtime=Runtime,
        float32="float32",
        TensorIOMode=SimpleNamespace(INPUT=1, OUTPUT=2),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
    )
