"""A built engine in memory, ready for every batch size: contexts, buffers and CUDA graphs.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html (CUDA graphs)
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.device import Device
from edgeasd.runtime.engines.tensorrt.layout import checked_rows, prepared_sizes, read_layout, size_for
from edgeasd.runtime.engines.tensorrt.network import make_logger
from edgeasd.runtime.errors import DeviceError, InputError
from edgeasd.runtime.logmel import Float32Array

if TYPE_CHECKING:
    import tensorrt as trt

_REMEDY = "build again with `edgeasd build`"


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


def deserialise(module: ModuleType, plan: bytes, place: str, log: Log) -> trt.ICudaEngine:
    """The engine of a serialised one; `module` is TensorRT. Raises DeviceError with its words where it refuses."""
    engine: trt.ICudaEngine | None = module.Runtime(log.logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceError(f"{place}: TensorRT {library.version(module)} cannot load it{log.reason()}; {_REMEDY}")
    return engine


class Program:
    """One engine on one GPU. Stateless between calls; from one thread at a time.

    Every prepared batch size has a context of its own, because a recorded graph belongs to the state of its
    context. All contexts share one block of working memory: only one runs at a time.
    """

    def __init__(self, plan: bytes, *, place: str, index: int, max_batch: int) -> None:
        """Load, run and record every batch size once. Raises DeviceError, InputError or BundleError."""
        self._trt: Any = library.load()
        self._log = Log(self._trt)
        self._place = place
        self._ready: dict[int, tuple[trt.IExecutionContext, Any]] = {}
        self.graphs = "CUDA graphs"
        """ "CUDA graphs", or "no CUDA graph: " and the reason."""
        self._device = Device(index)
        self.gpu = self._device.facts
        self.version = library.version(self._trt)
        try:
            self._load(plan, max_batch)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _load(self, plan: bytes, max_batch: int) -> None:
        device = self._device
        self._engine = deserialise(self._trt, plan, self._place, self._log)
        device.on_close(self._forget_engine)
        self.layout = layout = read_layout(self._engine, self._trt, self._place)
        if not 1 <= max_batch <= layout.largest:
            raise InputError(
                f"{self._place}: built for batches of 1 to {layout.largest}, asked for {max_batch}; "
                f"`edgeasd build --max-batch {max_batch}`"
            )
        self.max_batch = max_batch
        self._sizes = prepared_sizes(max_batch)
        self._input = device.pinned(layout.input.shape(max_batch))
        self._outputs = [device.pinned(tensor.shape(max_batch)) for tensor in layout.outputs]
        tensors = (layout.input, *layout.outputs)
        self._addresses = {tensor.name: device.memory(tensor.nbytes(max_batch)) for tensor in tensors}
        self._working_bytes = int(self._engine.device_memory_size_v2)
        self._working = device.memory(self._working_bytes)

    def _prepare(self) -> None:
        """A context for each size, run once, since the first run after a change of shape cannot be recorded."""
        self._device.on_close(self._ready.clear)
        for size in self._sizes:
            context = self._context(size)
            self._enqueue(context, size)
            self._device.synchronise()
            self._ready[size] = (context, None)
        try:
            self._record()
        except DeviceError as error:
            # Not fatal, as each size has just run without; and not silent, as the engine's name says so.
            self.graphs = f"no CUDA graph: {str(error).partition(';')[0]}"
            for size, (context, _) in self._ready.items():
                self._ready[size] = (context, None)

    def _record(self) -> None:
        for size, (context, _) in self._ready.items():
            graph = self._device.record(partial(self._enqueue, context, size))
            self._ready[size] = (context, graph)

    def _context(self, size: int) -> trt.IExecutionContext:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context: trt.IExecutionContext | None = self._engine.create_execution_context(strategy)
        if context is None:
            raise DeviceError(
                f"{self._place}: TensorRT makes no context{self._log.reason()}; free memory on the device"
            )
        context.set_device_memory(self._working, self._working_bytes)
        accepted = context.set_input_shape(self.layout.input.name, self.layout.input.shape(size))
        for name, address in self._addresses.items():
            accepted = context.set_tensor_address(name, address) and accepted
        if not accepted:
            raise DeviceError(f"{self._place}: TensorRT refuses a batch of {size}{self._log.reason()}; {_REMEDY}")
        return context

    def _enqueue(self, context: trt.IExecutionContext, size: int) -> None:
        """Put one run on the stream: rows to the GPU, the engine, rows back."""
        device, layout = self._device, self.layout
        device.upload(self._addresses[layout.input.name], self._input, layout.input.nbytes(size))
        if not context.execute_async_v3(int(device.stream)):
            raise DeviceError(f"{self._place}: TensorRT does not run a batch of {size}{self._log.reason()}; {_REMEDY}")
        for tensor, array in zip(layout.outputs, self._outputs, strict=True):
            device.download(array, self._addresses[tensor.name], tensor.nbytes(size))

    def __call__(self, rows: Float32Array) -> dict[str, Float32Array]:
        """Rows (N, ...) float32, 1 <= N <= max_batch, to all outputs by name, each (N, ...) float32.

        Raises InputError for another shape, DeviceError for a fault of the GPU, RuntimeError after close.
        """
        if not self._ready:
            raise RuntimeError(f"{self._place}: closed")
        count = checked_rows(rows, self.layout.input, self.max_batch)
        size = size_for(count, self._sizes)
        context, graph = self._ready[size]
        # What was said in an earlier call explains nothing, and would pile up over months.
        self._log.errors.clear()
        self._device.select()
        # Rows of an earlier batch may fill up this one; every row is computed by itself.
        self._input[:count] = rows
        if graph is None:
            self._enqueue(context, size)
        else:
            self._device.launch(graph)
        self._device.synchronise()
        outputs = zip(self.layout.outputs, self._outputs, strict=True)
        return {tensor.name: array[:count].copy() for tensor, array in outputs}

    def _forget_engine(self) -> None:
        del self._engine

    def close(self) -> None:
        """Give back everything, graphs before contexts, contexts before engine and memory. Safe to call twice."""
        self._device.close()
