"""The look into an ONNX file: no data outside it, and no way to crash the one who looks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.onnx_check import OnnxHeader, inspect_onnx
from edgeasd.runtime.errors import BundleError

pytestmark = pytest.mark.core

# A few lines of protobuf, enough to build ONNX by hand (field numbers: onnx.proto3).


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(content)) + content


HEADER = number(1, 9) + message(8, number(2, 19))
LOCATION = message(13, message(1, b"location"), message(2, b"../../etc/passwd"))
INSIDE = number(1, 1) + number(2, 1) + message(8, b"weight") + message(9, bytes(4))
EXTERNAL = message(8, b"weight") + LOCATION + number(14, 1)


def graph_with_initializer(tensor: bytes) -> bytes:
    return message(5, tensor)


def graph_with_attribute(*attribute: bytes) -> bytes:
    return message(1, message(4, b"Constant"), message(5, message(1, b"value"), *attribute))


def model(*parts: bytes) -> bytes:
    return HEADER + b"".join(parts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def inspect(data: bytes, path: Path) -> OnnxHeader:
    path.write_bytes(data)
    return inspect_onnx(path)


def nested(levels: int, innermost: bytes) -> bytes:
    """`levels` graphs, each in an attribute of a node of the next."""
    graph = innermost
    for _ in range(levels):
        graph = message(1, message(5, message(6, graph)))
    return graph


# Good files


def test_the_files_of_a_bundle_pass_and_name_their_versions(small_bundle: Path) -> None:
    for name in ("encoder.fp32.onnx", "head.onnx"):
        header = inspect_onnx(small_bundle / name)
        assert header.opsets == {"": 19}
        assert 1 <= header.ir_version <= 10


def test_domains_and_their_opsets_are_listed(path: Path) -> None:
    other = message(8, message(1, b"com.microsoft"), number(2, 1))
    assert inspect(model(other), path) == OnnxHeader(9, {"": 19, "com.microsoft": 1})


@pytest.mark.parametrize(
    "graph",
    [
        graph_with_initializer(INSIDE),
        graph_with_attribute(message(5, INSIDE)),
        nested(5, graph_with_initializer(INSIDE)),
        # data_location DEFAULT, said aloud
        graph_with_initializer(INSIDE + number(14, 0)),
    ],
)
def test_weights_inside_the_file_pass(graph: bytes, path: Path) -> None:
    assert inspect(model(message(7, graph)), path).ir_version == 9


# External data, wherever a tensor can be

PLACES = {
    "initializer": message(7, graph_with_initializer(EXTERNAL)),
    "second initializer": message(7, graph_with_initializer(INSIDE), graph_with_initializer(EXTERNAL)),
    "second graph field": message(7, graph_with_initializer(INSIDE)) + message(7, graph_with_initializer(EXTERNAL)),
    "attribute": message(7, graph_with_attribute(message(5, EXTERNAL))),
    "attribute list": message(7, graph_with_attribute(message(10, INSIDE), message(10, EXTERNAL))),
    "subgraph": message(7, nested(1, graph_with_initializer(EXTERNAL))),
    "subgraph of subgraph": message(7, nested(3, graph_with_attribute(message(5, EXTERNAL)))),
    "subgraph list": message(7, graph_with_attribute(message(11, graph_with_initializer(EXTERNAL)))),
    "sparse values": message(7, message(15, message(1, EXTERNAL))),
    "sparse indices": message(7, message(15, message(1, INSIDE), message(2, EXTERNAL))),
    "sparse attribute": message(7, graph_with_attribute(message(22, message(1, EXTERNAL)))),
    "sparse attribute list": message(7, graph_with_attribute(message(23, message(2, EXTERNAL)))),
    "function": message(25, message(7, message(5, message(5, EXTERNAL)))),
    "function attribute": message(25, message(11, message(5, EXTERNAL))),
    "training": message(20, message(1, graph_with_initializer(EXTERNAL))),
    "training algorithm": message(20, message(2, graph_with_initializer(EXTERNAL))),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_in_every_place(place: str, path: Path) -> None:
    with pytest.raises(BundleError, match=r"^model.onnx: tensor 'weight' has its data outside the file; export"):
        inspect(model(PLACES[place]), path)


@pytest.mark.parametrize(
    "tensor",
    [
        LOCATION,
        number(14, 1),
        number(14, 2),
        number(14, 1) + number(14, 0),
        number(14, (1 << 32) + 1),
        varint(14 << 3) + b"\x81\x80\x00",
    ],
    ids=["location only", "flag only", "unknown flag", "taken back", "33 bits", "padded varint"],
)
def test_any_sign_of_external_data_is_enough(tensor: bytes, path: Path) -> None:
    with pytest.raises(BundleError, match="outside the file"):
        inspect(model(message(7, graph_with_initializer(message(8, b"w") + tensor))), path)


@pytest.mark.parametrize("high", [1 << 32, 1 << 33, 1 << 34, 1 << 40, 1 << 63])
@pytest.mark.parametrize("level", ["tensor", "graph", "model"])
def test_high_bits_in_a_field_number_hide_no_external_data(high: int, level: str, path: Path) -> None:
    """ONNX Runtime cuts a 5-byte key to 32 bits: it loads this data, so the guard must not read past it."""

    def hidden(field: int, content: bytes) -> bytes:
        return varint((field << 3 | 2) | high) + varint(len(content)) + content

    data = {
        "tensor": message(7, graph_with_initializer(message(8, b"w") + hidden(13, LOCATION[2:]))),
        "graph": message(7, hidden(5, EXTERNAL)),
        "model": hidden(7, graph_with_initializer(EXTERNAL)),
    }[level]
    with pytest.raises(BundleError):
        inspect(model(data), path)


def test_a_hostile_tensor_name_is_one_short_line(path: Path) -> None:
    tensor = message(8, b"a\nb\x1b[2J\xff" + b"x" * 10_000) + number(14, 1)
    with pytest.raises(BundleError) as error:
        inspect(model(message(7, graph_with_initializer(tensor))), path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


# Not ONNX


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"no model at all", number(1, 9), message(8, number(2, 19)), b"\x80" * 11, bytes(1000), b"\x0b\x0c"],
    ids=["empty", "zero", "text", "no opset", "no IR version", "endless varint", "zeros", "group"],
)
def test_what_is_not_onnx_is_refused(data: bytes, path: Path) -> None:
    with pytest.raises(BundleError, match=r"^model.onnx: .*export the bundle again"):
        inspect(data, path)


def test_every_truncation_is_refused_or_ends_between_fields(small_bundle: Path, path: Path) -> None:
    data = (small_bundle / "head.onnx").read_bytes()
    passed = []
    for length in range(len(data)):
        try:
            inspect(data[:length], path)
            passed.append(length)
        except BundleError:
            pass
    # A cut between two fields of the model leaves valid protobuf; size and hash find that one.
    assert len(passed) <= 3
    with pytest.raises(BundleError):
        inspect((small_bundle / "encoder.fp32.onnx").read_bytes()[:-5000], path)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=120))
def test_random_bytes_raise_nothing_but_bundle_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    refused_or_fine(data, tmp_path_factory.getbasetemp() / "random.onnx")


@settings(max_examples=300, deadline=None)
@given(
    place=st.sampled_from(sorted(PLACES)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
)
def test_damaged_models_raise_nothing_but_bundle_errors(
    tmp_path_factory: pytest.TempPathFactory, place: str, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(model(PLACES[place]))
    for at, byte in changes:
        data[at % len(data)] = byte
    refused_or_fine(bytes(data), tmp_path_factory.getbasetemp() / "damaged.onnx")


def refused_or_fine(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    try:
        header = inspect_onnx(path)
    except BundleError:
        return
    assert header.ir_version
    assert header.opsets


def test_nesting_is_bounded_and_quick(path: Path) -> None:
    assert inspect(model(message(7, nested(15, graph_with_initializer(INSIDE)))), path).ir_version == 9
    deep = model(message(7, nested(3000, graph_with_initializer(EXTERNAL))))
    began = time.monotonic()
    with pytest.raises(BundleError, match="not an ONNX file"):
        inspect(deep, path)
    assert time.monotonic() - began < 5.0


def test_weights_are_skipped_and_not_read(path: Path) -> None:
    weights = message(7, graph_with_initializer(INSIDE + message(9, bytes(30_000_000))))
    path.write_bytes(model(weights))
    began = time.monotonic()
    inspect_onnx(path)
    assert time.monotonic() - began < 2.0
