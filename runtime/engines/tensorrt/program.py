"""Built engines in memory, one or a chain of them, ready for every batch size: contexts, buffers and CUDA graphs.

In a chain the output buffer of each engine is the input buffer of the next. Everything is on one stream, and one
CUDA graph holds a whole call: rows to the GPU, the engines in order, rows back.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html (CUDA graphs)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.device import Device
from edgeasd.runtime.engines.tensorrt.layout import Layout, Tensor, checked_rows, prepared_sizes, size_for
from edgeasd.runtime.engines.tensorrt.stage import REMEDY, Log, Serialised, Stage
from edgeasd.runtime.errors import BundleError, DeviceError, InputError
from edgeasd.runtime.logmel import Float32Array

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True, slots=True)
class _Buffer:
    """A tensor of the largest batch, pinned on this side and on the GPU."""

    tensor: Tensor
    array: Float32Array
    address: int


class Program:
    """Engines on one GPU, each after the other. Stateless between calls; from one thread at a time.

    Every prepared batch size has contexts of its own, because a recorded graph belongs to the state of its
    contexts. All contexts share one block of working memory: only one runs at a time.
    """

    def __init__(self, parts: Sequence[Serialised], *, index: int, max_batch: int) -> None:
        """Load, run and record every batch size once. Raises DeviceError, InputError or BundleError."""
        self._trt: Any = library.load()
        self._log = Log(self._trt)
        self._stages: list[Stage] = []
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

    def _load(self, parts: Sequence[Serialised], max_batch: int) -> None:
        device = self._device
        device.on_close(self._stages.clear)
        for part in parts:
            self._stages.append(Stage(self._trt, part, self._log))
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


def _chained(stages: Sequence[Stage]) -> Layout:
    """What goes into the first and comes out of the last. Raises BundleError where two do not fit together."""
    for one, other in pairwise(stages):
        given, taken = one.layout.outputs, other.layout.input
        if [tensor.row for tensor in given] != [taken.row]:
            shapes = ", ".join(str(("N", *tensor.row)) for tensor in given)
            raise BundleError(f"{one.place}: gives {shapes}, {other.place} takes {('N', *taken.row)}; {REMEDY}")
    largest = min(stage.layout.largest for stage in stages)
    return Layout(stages[0].layout.input, stages[-1].layout.outputs, largest)
