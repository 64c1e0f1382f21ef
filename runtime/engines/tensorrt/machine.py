"""What a built engine fits: this TensorRT, this GPU, this release of Jetson Linux."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from edgeasd.runtime.board import l4t_release
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.cuda import gpu_facts


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """TensorRT version ("10.3.0"), GPU ("Orin"), compute capability ("8.7"), L4T ("36.4.3", None off a Jetson)."""

    tensorrt: str
    gpu: str
    compute_capability: str
    l4t: str | None


def this_machine(index: int = 0, trt: ModuleType | None = None) -> MachineFacts:
    """Facts of this machine with the GPU `index`. Raises DeviceError without TensorRT, CUDA or that GPU.

    `trt` is a TensorRT module that was loaded before.
    """
    version = library.version(trt if trt is not None else library.load())
    gpu = gpu_facts(index)
    return MachineFacts(version, gpu.name, gpu.compute_capability, l4t_release())
