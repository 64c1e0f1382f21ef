"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def small_bundle() -> Path:
    """A trained bundle with the quick backbone, read-only: see tests/data/README.md."""
    return TESTS / "data" / "valve-id_00"


@pytest.fixture
def bundle_copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `small_bundle` that a test may damage."""
    return Path(shutil.copytree(small_bundle, tmp_path / "valve-id_00"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real machine sound; the test is skipped, and says so, where it is absent."""
    root = Path(os.environ.get("EDGEASD_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / "dcase2023_toycar").is_dir():
        pytest.skip(f"REAL SOUND ABSENT: no dcase2023_toycar in {root}; set EDGEASD_TEST_DATA to run this test")
    return root


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """With EDGEASD_CORE_ONLY=1, look only at files that say they need core packages alone.

    The others import torch or onnx at their top and could not even be collected.
    """
    if os.environ.get("EDGEASD_CORE_ONLY") != "1" or not collection_path.name.startswith("test_"):
        return None
    return None if "mark.core" in collection_path.read_text("utf-8") else True
