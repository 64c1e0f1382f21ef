"""What goes into a built engine and what comes out, in rows, and the batch sizes it is made ready for.

Nothing here touches a GPU: shapes, bytes, and the choice of a size.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.logmel import Float32Array

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
class Layout:
    """One input and some outputs, with the largest batch that the engine was built for."""

    input: Tensor
    outputs: tuple[Tensor, ...]
    largest: int


def read_layout(engine: trt.ICudaEngine, module: Any, place: str) -> Layout:
    """Layout of a deserialised engine; `module` is TensorRT.

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
    return Layout(inputs[0], tuple(outputs), most[0])


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
