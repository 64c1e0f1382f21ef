"""A small data set in the field layout for tests of `reproduce`, and its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


def write_clip(path: Path, seed: int, colour: float, seconds: float = 8.5) -> None:
    """Noise through a one-tap filter; `colour` sets machines and faults apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(16_000 * seconds) + 1)
    soundfile.write(path, 0.05 * (noise[1:] + colour * noise[:-1]), 16_000)


@pytest.fixture(scope="session")
def write_gears() -> Callable[..., Path]:
    """(root, ids=, normals=, anomalies=) writes one machine type, `gear`, and returns root."""

    def write(root: Path, ids: tuple[str, ...] = ("00", "01"), normals: int = 10, anomalies: int = 4) -> Path:
        for number, id in enumerate(ids):
            colour = 0.9 * number
            for k in range(normals):
                write_clip(root / "gear" / id / "normal" / f"{k:02d}.wav", 1000 * number + k, colour)
            for k in range(anomalies):
                write_clip(root / "gear" / id / "anomaly" / f"{k:02d}.wav", 1000 * number + 500 + k, colour + 0.4)
        return root

    return write


@pytest.fixture(scope="session")
def reproduce() -> Callable[..., subprocess.Popen[str]]:
    """(what, data, workspace, *options) starts `edgeasd reproduce` with the small backbone and one thread."""

    def start(what: str, data: Path, workspace: Path, *options: str) -> subprocess.Popen[str]:
        fixed = ["--data", str(data), "--workspace", str(workspace), "--preset", "quick"]
        return subprocess.Popen(
            [sys.executable, "-m", "edgeasd", "reproduce", what, *fixed, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return start
