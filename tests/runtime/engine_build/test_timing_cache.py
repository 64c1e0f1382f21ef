"""The timing cache: taken back on the machine that made it, refused everywhere else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.engine_build.timing_cache import cache_path, read_cache, write_cache
from edgeasd.runtime.engines.tensorrt.engine_file import DeviceInfo

pytestmark = pytest.mark.core

HERE = DeviceInfo("10.3.0", "Orin", "8.7", "36.4.3")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return cache_path(tmp_path)


@pytest.mark.parametrize("data", [b"", b"x", b"a\nb\n\nc", os.urandom(10_000)])
def test_what_was_kept_comes_back(path: Path, data: bytes) -> None:
    write_cache(path, HERE, data)
    assert read_cache(path, HERE) == (data, "")


def test_no_cache_is_no_complaint(path: Path) -> None:
    assert read_cache(path, HERE) == (b"", "")


@pytest.mark.parametrize(
    "changed", [{"tensorrt": "10.16.1"}, {"gpu": "Thor"}, {"compute_capability": "8.6"}, {"l4t": None}]
)
def test_a_cache_of_another_machine_is_refused(path: Path, changed: dict[str, str | None]) -> None:
    write_cache(path, HERE, b"measured")
    assert read_cache(path, replace(HERE, **changed)) == (b"", "made on another machine or by another TensorRT")


def test_a_new_cache_replaces_the_old_one(path: Path) -> None:
    write_cache(path, HERE, b"old")
    write_cache(path, HERE, b"new")
    assert read_cache(path, HERE) == (b"new", "")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_in_its_place_is_said(path: Path) -> None:
    path.mkdir(parents=True)
    assert read_cache(path, HERE) == (b"", "cannot be read (Is a directory)")


@given(st.integers(0, 300), st.binary(max_size=3))
def test_a_damaged_cache_is_never_given_to_tensorrt(
    tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes
) -> None:
    path = cache_path(tmp_path_factory.mktemp("cache"))
    write_cache(path, HERE, b"measured" * 8)
    whole = path.read_bytes()
    damaged = whole[:at] + other + whole[at + len(other) + 1 :]
    path.write_bytes(damaged)
    found, why = read_cache(path, HERE)
    # A blank more or less in the line of JSON changes nothing that counts.
    assert found in (b"", b"measured" * 8)
    assert bool(found) != bool(why)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = cache_path(tmp_path_factory.mktemp("cache"))
    path.parent.mkdir()
    path.write_bytes(data)
    assert read_cache(path, HERE)[0] == b""
    path.write_bytes(b"edgeasd timing cache 1\n" + data)
    assert read_cache(path, HERE) == (b"", "damaged")
