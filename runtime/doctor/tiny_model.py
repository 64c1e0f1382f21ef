"""A convolution small enough to write by hand, to prove that a provider of ONNX Runtime computes.

The core install has no onnx package. The few fields needed are encoded here: field numbers from
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3, the wire format from https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import numpy as np

from edgeasd.runtime.logmel import Float32Array

OPSET, IR_VERSION = 19, 10
SIDE, KERNEL = 8, 3
_FLOAT = 1
_BYTES = 2
"""Wire type of what carries its length before it: strings, bytes and messages."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _parts(field: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _value(name: bytes, shape: tuple[int, ...]) -> bytes:
    """The content of a ValueInfoProto: a name, and a float tensor of that shape."""
    dimensions = b"".join(_parts(1, _number(1, size)) for size in shape)
    return _parts(1, name) + _parts(2, _parts(1, _number(1, _FLOAT), _parts(2, dimensions)))


def weights() -> Float32Array:
    """The kernel, (1, 1, 3, 3): small whole numbers, so that every provider computes exactly the same."""
    return np.arange(1, 10, dtype=np.float32).reshape(1, 1, KERNEL, KERNEL)


def tiny_model() -> bytes:
    """An ONNX file: x (1, 1, 8, 8) float32, convolved without padding, gives y (1, 1, 6, 6)."""
    kernel = weights()
    tensor = b"".join(_number(1, size) for size in kernel.shape) + _number(2, _FLOAT)
    tensor += _parts(8, b"w") + _parts(9, kernel.astype("<f4").tobytes())
    node = _parts(1, b"x") + _parts(1, b"w") + _parts(2, b"y") + _parts(4, b"Conv")
    out = SIDE - KERNEL + 1
    graph = _parts(1, node) + _parts(2, b"tiny") + _parts(5, tensor)
    graph += _parts(11, _value(b"x", (1, 1, SIDE, SIDE))) + _parts(12, _value(b"y", (1, 1, out, out)))
    return _number(1, IR_VERSION) + _parts(7, graph) + _parts(8, _number(2, OPSET))


def expected(x: Float32Array) -> Float32Array:
    """What `tiny_model` must give for x (1, 1, 8, 8): the same convolution in numpy, (1, 1, 6, 6)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (KERNEL, KERNEL), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weights()).astype(np.float32)
