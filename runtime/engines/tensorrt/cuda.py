"""The little of CUDA that an engine needs, through NVIDIA's own bindings.

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

from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.features.logmel import Float32Array


@dataclass(frozen=True, slots=True)
class GpuInfo:
    """What an engine depends on: name ("Orin"), compute capability ("8.7"), memory in bytes."""

    name: str
    compute_capability: str
    memory: int


def bindings() -> Any:
    """The module cuda.bindings.runtime. Raises DeviceError where it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise DeviceError(f"CUDA bindings: not installed ({reason}); pip install 'edgeasd[tensorrt]'") from None


def checked(result: tuple[Any, ...], doing: str) -> Any:
    """The values of a call of the CUDA runtime, (error, *values); raises DeviceError where it failed."""
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
        # Bindings of CUDA 12 raise where there is no driver library at all; later ones answer with an error.
        reason = " ".join(str(error).split())[:200]
        raise DeviceError(f"CUDA: no driver ({reason}); `edgeasd doctor` looks at driver and GPU") from None
    if not 0 <= index < count:
        raise DeviceError(f"--accelerator cuda:{index}: this machine has {count} GPUs; use cuda:0 or cpu")
    found = checked(cuda.cudaGetDeviceProperties(index), f"asking GPU {index} what it is")
    name = found.name.decode("utf-8", "replace") if isinstance(found.name, bytes) else str(found.name)
    return GpuInfo(name.rstrip("\0"), f"{found.major}.{found.minor}", int(found.totalGlobalMem))


_MIB = 1 << 20


class Device:
    """A GPU with one stream. For one thread at a time; `select` comes first in each thread.

    Whatever is taken is given back by `close`, last taken first.
    """

    def __init__(self, index: int) -> None:
        """Raises DeviceError without driver, GPU or bindings."""
        self.index = index
        self.facts = gpu_info(index)
        self._cuda = bindings()
        self._release = ExitStack()
        self._open = True
        self.select()
        # A waiting thread sleeps: spinning would take a core from a device that does this day and night.
        checked(self._cuda.cudaSetDeviceFlags(self._cuda.cudaDeviceScheduleBlockingSync), "setting up the GPU")
        # Not the default stream, which cannot be recorded into a graph.
        flags = self._cuda.cudaStreamNonBlocking
        self.stream = checked(self._cuda.cudaStreamCreateWithFlags(flags), "making a stream")
        self._release.callback(self._cuda.cudaStreamDestroy, self.stream)

    def select(self) -> None:
        """Make this the GPU of the calling thread."""
        checked(self._cuda.cudaSetDevice(self.index), f"selecting GPU {self.index}")

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call `callback` at close, before what was taken earlier is given back."""
        self._release.callback(callback)

    def memory(self, size: int) -> int:
        """Address of `size` bytes on the GPU, aligned to 256 bytes."""
        address = int(checked(self._cuda.cudaMalloc(max(size, 256)), f"taking {_mib(size)} of GPU memory"))
        self._release.callback(self._cuda.cudaFree, address)
        return address

    def pinned(self, shape: tuple[int, ...]) -> Float32Array:
        """An array float32 of zeros in page-locked memory; not to be used after close."""
        count = math.prod(shape)
        address = int(checked(self._cuda.cudaMallocHost(4 * count), f"pinning {_mib(4 * count)} of memory"))
        self._release.callback(self._cuda.cudaFreeHost, address)
        array: Float32Array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
        array.fill(0.0)
        return array

    def upload(self, target: int, source: Float32Array, size: int) -> None:
        """Put a copy of `size` bytes from a pinned array to the GPU on the stream."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        checked(self._cuda.cudaMemcpyAsync(target, source.ctypes.data, size, kind, self.stream), "copying to the GPU")

    def download(self, target: Float32Array, source: int, size: int) -> None:
        """Put a copy of `size` bytes from the GPU to a pinned array on the stream."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        checked(self._cuda.cudaMemcpyAsync(target.ctypes.data, source, size, kind, self.stream), "copying from the GPU")

    def synchronise(self) -> None:
        """Wait for the stream. Raises DeviceError for whatever failed on it."""
        checked(self._cuda.cudaStreamSynchronize(self.stream), "running the engine")

    def record(self, work: Callable[[], None]) -> Any:
        """What `work` puts on the stream as a CUDA graph, recorded and not run. Raises DeviceError, or what `work` does."""
        cuda = self._cuda
        # Of this thread only: other threads of the process may use CUDA meanwhile.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cuda.cudaStreamBeginCapture(self.stream, mode), "recording a graph")
        try:
            work()
        except BaseException:
            # A stream that is left recording refuses everything from then on.
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
        """Put a recorded graph on the stream."""
        checked(self._cuda.cudaGraphLaunch(graph, self.stream), "starting a graph")

    def close(self) -> None:
        """Wait, then give everything back. Safe to call twice.

        Errors are passed over: after a fault of the GPU every call fails, and the first is what the user should see.
        """
        if not self._open:
            return
        self._open = False
        self._cuda.cudaSetDevice(self.index)
        self._cuda.cudaStreamSynchronize(self.stream)
        self._release.close()


def _mib(size: int) -> str:
    return f"{math.ceil(size / _MIB)} MiB"
