"""Sidecars: read with suspicion, compared point by point."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.engines.tensorrt.engine_file import (
    LARGEST_SIDECAR,
    DeviceInfo,
    Sidecar,
    differences,
    engine_paths,
    read_sidecar,
)
from edgeasd.runtime.errors import BundleError

pytestmark = pytest.mark.core

HERE = DeviceInfo("10.3.0", "Orin", "8.7", "36.4.3")
SHA = "a1" * 32
FACTS: dict[str, Any] = {
    "schema_version": 1,
    "tensorrt": "10.3.0",
    "gpu": "Orin",
    "compute_capability": "8.7",
    "l4t": "36.4.3",
    "onnx_sha256": SHA,
    "precision": "int8",
    "max_batch": 10,
    "flags": {"tf32": False, "optimisation_level": 3},
    "engine_sha256": "b2" * 32,
    "engine_size": 1234,
    "built_at": "2026-01-01T00:00:00+00:00",
    "edgeasd": "0.1.0",
}
SIDECAR = Sidecar(**FACTS)


def read(tmp_path: Path, data: bytes) -> Sidecar:
    path = tmp_path / "engines" / "encoder.int8.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return read_sidecar(path)


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        read(tmp_path, data)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 500
    assert text.startswith("engines/encoder.int8.json: ")
    assert text.endswith("; build again with `edgeasd build`")
    return text


def test_a_sidecar_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read(tmp_path, SIDECAR.model_dump_json().encode()) == SIDECAR


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps({**FACTS, "clocks": "MAXN"}).encode())
    assert found.model_dump()["clocks"] == "MAXN"


def test_where_engines_lie() -> None:
    engine, sidecar = engine_paths(Path("b"), "int8")
    assert (str(engine), str(sidecar)) == ("b/engines/encoder.int8.engine", "b/engines/encoder.int8.json")
    assert str(engine_paths(Path("b"), "fp32", "head")[0]) == "b/engines/head.fp32.engine"


def test_the_machine_it_was_built_on_differs_in_nothing() -> None:
    assert differences(SIDECAR, HERE, onnx_sha256=SHA, precision="int8") == []
    assert differences(SIDECAR, HERE, onnx_sha256=SHA, precision="int8", flags=dict(SIDECAR.flags)) == []


@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"tensorrt": "10.16.1"}, "TensorRT 10.3.0, here 10.16.1"),
        ({"gpu": "NVIDIA H200"}, "GPU Orin, here NVIDIA H200"),
        ({"compute_capability": "9.0"}, "compute capability 8.7, here 9.0"),
        ({"l4t": "36.5"}, "L4T 36.4.3, here 36.5"),
        ({"l4t": None}, "L4T 36.4.3, here none"),
    ],
)
def test_each_point_of_the_machine_is_told(changed: dict[str, Any], phrase: str) -> None:
    assert differences(SIDECAR, replace(HERE, **changed), onnx_sha256=SHA, precision="int8") == [phrase]


def test_another_onnx_precision_and_flags_are_told() -> None:
    other = "a1" * 6 + "c3" * 26
    assert differences(SIDECAR, HERE, onnx_sha256="c3" * 32, precision="int8") == [
        "ONNX sha256 a1a1a1a1a1a1, here c3c3c3c3c3c3"
    ]
    assert len(differences(SIDECAR, HERE, onnx_sha256=other, precision="int8")) == 1, "alike in what is shown of it"
    assert differences(SIDECAR, HERE, onnx_sha256=SHA, precision="fp16") == ["precision int8, here fp16"]
    asked = {"tf32": False, "optimisation_level": 5, "opt_batch": 1}
    assert differences(SIDECAR, HERE, onnx_sha256=SHA, precision="int8", flags=asked) == [
        "opt_batch None, asked for 1",
        "optimisation_level 3, asked for 5",
    ]


def test_every_difference_has_a_phrase_of_its_own() -> None:
    there = DeviceInfo("11.4.0", "Thor", "11.0", None)
    assert len(differences(SIDECAR, there, onnx_sha256="0" * 64, precision="fp16", flags={})) == 8


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "bytes, so not a sidecar"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "schema_version None"),
        (b"{}", "schema_version None"),
        (b" " * (LARGEST_SIDECAR + 1), "bytes, so not a sidecar"),
        (json.dumps({**FACTS, "schema_version": 2}).encode(), "schema_version 2, this edgeasd reads 1"),
        (json.dumps({**FACTS, "schema_version": True}).encode(), "schema_version True"),
        (json.dumps({**FACTS, "schema_version": "\x1b[31m" * 99}).encode(), "schema_version [31m"),
        (json.dumps({**FACTS, "gpu": "a\nb"}).encode(), "gpu: "),
        (json.dumps({**FACTS, "engine_sha256": "A" * 64}).encode(), "engine_sha256: "),
        (json.dumps({**FACTS, "engine_size": 0}).encode(), "engine_size: "),
        (json.dumps({**FACTS, "max_batch": 10**9}).encode(), "max_batch: "),
        (json.dumps({**FACTS, "flags": {"x": [1]}}).encode(), "flags.x"),
        (json.dumps({k: v for k, v in FACTS.items() if k != "tensorrt"}).encode(), "tensorrt: "),
    ],
)
def test_what_is_no_sidecar_is_refused_in_one_line(tmp_path: Path, data: bytes, part: str) -> None:
    assert part in refusal(tmp_path, data)


def test_a_missing_sidecar_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing; build again"):
        read_sidecar(tmp_path / "encoder.int8.json")
    (tmp_path / "encoder.int8.json").mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        read_sidecar(tmp_path / "encoder.int8.json")


Values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional={name: Values for name in FACTS}))
def test_any_value_in_any_field_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("sidecar")
    data = json.dumps({**FACTS, **changed}).encode()
    try:
        read(folder, data)
    except BundleError:
        refusal(folder, data)
