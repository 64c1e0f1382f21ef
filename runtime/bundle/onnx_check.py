"""Checks an ONNX file before it is loaded: the versions it needs, and that no data lies outside the file.

Reads the protobuf wire format directly, because the runtime does not depend on the onnx package,
and skips over weights without copying them.
Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3 (field numbers).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeasd.runtime.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64

# Message -> {field number: message in it}. Only the paths that lead to tensors.
_NESTED = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION, _TENSOR_NAME = 13, 14, 8
_MODEL_IR_VERSION, _MODEL_OPSET = 1, 8


@dataclass
class OnnxHeader:
    """Versions an ONNX file asks for: IR version and opset version by domain ("" is ai.onnx)."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)


class _Malformed(Exception):
    pass


def _varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _Malformed


def _fields(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, value or start, end) of each field in data[at:end]."""
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        # Some protobuf readers cut a longer key down to 32 bits and would see another field than we do.
        if number == 0 or key >= 1 << 32:
            raise _Malformed
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, kind, value, at
            continue
        if kind == _BYTES:
            length, at = _varint(data, at, end)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise _Malformed
        if at + length > end:
            raise _Malformed
        yield number, kind, at, at + length
        at += length


def _tensor_is_external(data: mmap.mmap | bytes, at: int, end: int) -> str | None:
    name, external = "?", False
    for number, kind, value, stop in _fields(data, at, end):
        if number == _TENSOR_NAME and kind == _BYTES:
            name = bytes(data[value : min(stop, value + 80)]).decode("utf-8", "replace")
        elif (number == _TENSOR_DATA_LOCATION and kind == _VARINT and value != 0) or number == _TENSOR_EXTERNAL_DATA:
            external = True
    return name if external else None


def _walk(data: mmap.mmap | bytes, message: str, at: int, end: int, depth: int) -> str | None:
    """Name of the first tensor with external data in this message, or None."""
    if depth > _DEEPEST:
        raise _Malformed
    if message == "tensor":
        return _tensor_is_external(data, at, end)
    nested = _NESTED[message]
    for number, kind, value, stop in _fields(data, at, end):
        if kind == _BYTES and number in nested:
            found = _walk(data, nested[number], value, stop, depth + 1)
            if found is not None:
                return found
    return None


def _header(data: mmap.mmap | bytes) -> OnnxHeader:
    header = OnnxHeader()
    for number, kind, value, stop in _fields(data, 0, len(data)):
        if number == _MODEL_IR_VERSION and kind == _VARINT:
            header.ir_version = value
        elif number == _MODEL_OPSET and kind == _BYTES:
            domain, version = "", 0
            for inner, inner_kind, inner_value, inner_stop in _fields(data, value, stop):
                if inner == 1 and inner_kind == _BYTES:
                    domain = bytes(data[inner_value:inner_stop]).decode("utf-8", "replace")
                elif inner == 2 and inner_kind == _VARINT:
                    version = inner_value
            header.opsets[domain] = version
    return header


def inspect_onnx(path: Path) -> OnnxHeader:
    """Check `path` and return the versions it needs.

    Raises BundleError if it is not ONNX, or if a tensor has its data outside the file: the bundle's hashes do not
    cover such data, and its path can lead out of the bundle.
    """
    try:
        with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _header(data)
            external = _walk(data, "model", 0, len(data), 0)
    except (_Malformed, ValueError):
        raise BundleError(f"{path.name}: not an ONNX file; export the bundle again") from None
    if external is not None:
        raise BundleError(f"{path.name}: tensor {external!r} has its data outside the file; export with weights inside")
    if header.ir_version == 0 or not header.opsets:
        raise BundleError(f"{path.name}: names no IR version or opset, so not an ONNX model; export the bundle again")
    return header
