"""What the tests of sources share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def alsa_file_pcm() -> ModuleType:
    """The module `alsa_file_pcm.py` beside this file."""
    spec = importlib.util.spec_from_file_location("alsa_file_pcm", Path(__file__).with_name("alsa_file_pcm.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
