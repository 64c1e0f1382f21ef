"""Trees of system files for the doctor."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import pytest

from edgeasd.runtime.doctor import CheckResult

By = dict[str, CheckResult]


def _load() -> ModuleType:
    place = Path(__file__).with_name("doctor_trees.py")
    spec = importlib.util.spec_from_file_location("doctor_trees", place)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def trees() -> ModuleType:
    """The module doctor_trees.py beside this file."""
    return _load()


@pytest.fixture
def orin_nano(trees: ModuleType, tmp_path: Path) -> Path:
    """Orin Nano on JetPack 6.2."""
    return trees.orin_nano(tmp_path / "orin_nano")  # type: ignore[no-any-return]


@pytest.fixture
def agx_orin(trees: ModuleType, tmp_path: Path) -> Path:
    """AGX Orin on JetPack 7.2."""
    return trees.agx_orin(tmp_path / "agx_orin")  # type: ignore[no-any-return]


@pytest.fixture
def plain_box(trees: ModuleType, tmp_path: Path) -> Path:
    """No Jetson at all."""
    return trees.plain_box(tmp_path / "plain_box")  # type: ignore[no-any-return]


@pytest.fixture
def by_name() -> Callable[[Iterable[CheckResult]], By]:
    """Findings by "area name"."""
    return lambda findings: {f"{found.area} {found.name}": found for found in findings}
