"""The little of CUDA that an engine needs, through NVIDIA's own bindings.

Source: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from edgeasd.runtime.errors import DeviceError


@dataclass(frozen=True, slots=True)
class GpuFacts:
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


def gpu_facts(index: int = 0) -> GpuFacts:
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
    return GpuFacts(name.rstrip("\0"), f"{found.major}.{found.minor}", int(found.totalGlobalMem))
