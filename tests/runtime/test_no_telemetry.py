"""ONNX Runtime reports to its maker by default; under edgeasd it does not, and leaves no identifier of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core


def test_nothing_is_left_in_the_users_home(tmp_path: Path, small_bundle: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "edgeasd", "verify", str(small_bundle), "--engine", "onnxruntime"]
    done = subprocess.run(command, env=kept | home, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
