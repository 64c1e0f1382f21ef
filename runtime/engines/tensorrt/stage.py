"""One deserialised engine, alone or as a link of a chain: what it takes and gives, and its contexts.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.layout import read_layout
from edgeasd.runtime.engines.tensorrt.network import make_logger
from edgeasd.runtime.errors import DeviceError

if TYPE_CHECKING:
    import tensorrt as trt

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
class Serialised:
    """The bytes of an engine and where they lie, as errors say it."""

    plan: bytes
    place: str

    @classmethod
    def of(cls, path: Path, plan: bytes | None = None) -> Serialised:
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


class Stage:
    """An engine in memory. `module` is TensorRT."""

    def __init__(self, module: Any, serialised: Serialised, log: Log) -> None:
        """Raises DeviceError where TensorRT refuses it, BundleError where it was not built from a bundle."""
        self._trt, self._log, self.place = module, log, serialised.place
        self._engine = deserialise(module, serialised.plan, serialised.place, log)
        self.layout = read_layout(self._engine, module, serialised.place)
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
