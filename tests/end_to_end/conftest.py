"""What the tests of the whole plant share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "runtime" / "outputs"))

from grounds import Plant, make_plant


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """Of one test."""
    with ExitStack() as stack:
        yield make_plant(tmp_path, stack)
