"""The part of CUDA that an engine needs, through NVIDIA's own bindings.

Source: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeasd.runtime.errors import DeviceError, printable
from edgeasd.runtime.features.logmel import Float32Array


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """A GPU: name ("Orin"), compute capability ("8.7"), memory in bytes."""

    name: str
    compute_capability: str
    memory: int


def bindings() -> Any:
    """The module cuda.bindings.runtime. Raises DeviceError if it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise DeviceError(
            f"CUDA bindings: not installed ({printable(error, 200)}); pip install 'edgeasd[tensorrt]'"
        ) from None


def checked(result: tuple[Any, ...], doing: str) -> Any:
    """The values of a CUDA runtime call, which returns (error, *values). Raises DeviceError if it failed."""
    error, *values = result
    if int(error) != 0:
        name = getattr(error, "name", error)
        raise DeviceError(f"CUDA: {doing} failed with {name}; `edgeasd doctor` looks at driver and GPU")
    return values[0] if len(values) == 1 else tuple(values)


def gpu_info(index: int = 0) -> GpuInfo:
    """Name, compute capability and memory of a GPU. Raises DeviceError without driver, GPU or bindings."""
    cuda = bindings()
    try:
        count = checked(cuda.cudaGetDeviceCount(), "counting the GPUs")
    except RuntimeError as error:
        # Without a driver library the bindings of CUDA 12 raise; later ones return an error.
        raise DeviceError(
            f"CUDA: no driver ({printable(error, 200)}); `edgeasd doctor` looks at driver and GPU"
        ) from None
    if not 0 <= index < count:
        raise DeviceError(f"--accelerator cuda:{index}: this machine has {count} GPUs; use cuda:0 or cpu")
    properties = checked(cuda.cudaGetDeviceProperties(index), f"reading the properties of GPU {index}")
    name = properties.name.decode("utf-8", "replace") if isinstance(properties.name, bytes) else str(properties.name)
    return GpuInfo(name.rstrip("\0"), f"{properties.major}.{properties.minor}", int(properties.totalGlobalMem))


_MIB = 1 << 20


class Device:
    """A GPU with one stream. For one thread at a time; call `select` first in each thread.

    `close` frees everything, last allocated first.
    """

    def __init__(self, index: int) -> None:
        """Raises DeviceError without driver, GPU or bindings."""
        self.index = index
        self.info = gpu_info(index)
        self._cuda = bindings()
        self._release = ExitStack()
        self._open = True
        self.select()
        # A waiting thread sleeps: spinning would take a whole core day and night.
        checked(self._cuda.cudaSetDeviceFlags(self._cuda.cudaDeviceScheduleBlockingSync), "setting up the GPU")
        # Not the default stream, which cannot be recorded into a graph.
        flags = self._cuda.cudaStreamNonBlocking
        self.stream = checked(self._cuda.cudaStreamCreateWithFlags(flags), "making a stream")
        self._release.callback(self._cuda.cudaStreamDestroy, self.stream)

    def select(self) -> None:
        """Make this the GPU of the calling thread."""
        checked(self._cuda.cudaSetDevice(self.index), f"selecting GPU {self.index}")

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback` at close, before what was allocated earlier is freed."""
        self._release.callback(callback)

    def memory(self, size: int) -> int:
        """Address of `size` bytes on the GPU, aligned to 256 bytes."""
        address = int(checked(self._cuda.cudaMalloc(max(size, 256)), f"taking {_mib(size)} of GPU memory"))
        self._release.callback(self._cuda.cudaFree, address)
        return address

    def pinned(self, shape: tuple[int, ...]) -> Float32Array:
        """An array float32 of zeros in page-locked memory; must not be used after close."""
        count = math.prod(shape)
        address = int(checked(self._cuda.cudaMallocHost(4 * count), f"pinning {_mib(4 * count)} of memory"))
        self._release.callback(self._cuda.cudaFreeHost, address)
        array: Float32Array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
        array.fill(0.0)
        return array

    def upload(self, target: int, source: Float32Array, size: int) -> None:
        """Enqueue a copy of `size` bytes from a pinned array to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(self._cuda.cudaMemcpyAsync(target, source.ctypes.data, size, kind, self.stream), "copying to the GPU")

    def download(self, target: Float32Array, source: int, size: int) -> None:
        """Enqueue a copy of `size` bytes from the GPU to a pinned array."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(self._cuda.cudaMemcpyAsync(target.ctypes.data, source, size, kind, self.stream), "copying from the GPU")

    def synchronise(self) -> None:
        """Wait for the stream. Raises DeviceError if anything on it failed."""
        checked(self._cuda.cudaStreamSynchronize(self.stream), "running the engine")

    def record(self, work: Callable[[], None]) -> Any:
        """Record what `work` enqueues as a CUDA graph, without running it. Raises DeviceError, or what `work` raises."""
        cuda = self._cuda
        # Of this thread only: other threads of the process may use CUDA meanwhile.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cuda.cudaStreamBeginCapture(self.stream, mode), "recording a graph")
        try:
            work()
        except BaseException:
            # A stream that stays in recording refuses everything from then on.
            self._abandon()
            raise
        graph = checked(cuda.cudaStreamEndCapture(self.stream), "recording a graph")
        try:
            executable = checked(cuda.cudaGraphInstantiate(graph, 0), "making a graph ready")
        finally:
            cuda.cudaGraphDestroy(graph)
        self._release.callback(cuda.cudaGraphExecDestroy, executable)
        return executable

    def _abandon(self) -> None:
        error, graph = self._cuda.cudaStreamEndCapture(self.stream)
        if int(error) == 0 and graph is not None:
            self._cuda.cudaGraphDestroy(graph)
        self._cuda.cudaGetLastError()

    def launch(self, graph: Any) -> None:
        """Enqueue a recorded graph."""
        checked(self._cuda.cudaGraphLaunch(graph, self.stream), "starting a graph")

    def close(self) -> None:
        """Wait, then free everything. Safe to call twice.

        Errors are ignored: after a fault of the GPU every call fails, and the user needs to see the first one.
        """
        if not self._open:
            return
        self._open = False
        self._cuda.cudaSetDevice(self.index)
        self._cuda.cudaStreamSynchronize(self.stream)
        self._release.close()


def _mib(size: int) -> str:
    return f"{math.ceil(size / _MIB)} MiB"
