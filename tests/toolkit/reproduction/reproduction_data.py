"""A small data set in the field layout for tests of `reproduce`, and its command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import soundfile


def write_clip(path: Path, seed: int, colour: float, seconds: float = 8.5) -> None:
    """Noise through a one-tap filter; `colour` sets machines and faults apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(int(16_000 * seconds) + 1)
    soundfile.write(path, 0.05 * (noise[1:] + colour * noise[:-1]), 16_000)


def write_gears(root: Path, ids: tuple[str, ...] = ("00", "01"), normals: int = 10, anomalies: int = 4) -> Path:
    """One machine type, `gear`; returns `root`."""
    for number, id in enumerate(ids):
        colour = 0.9 * number
        for k in range(normals):
            write_clip(root / "gear" / id / "normal" / f"{k:02d}.wav", 1000 * number + k, colour)
        for k in range(anomalies):
            write_clip(root / "gear" / id / "anomaly" / f"{k:02d}.wav", 1000 * number + 500 + k, colour + 0.4)
    return root


def command(what: str, data: Path, workspace: Path, *options: str) -> list[str]:
    """`edgeasd reproduce` with the small backbone and one thread."""
    fixed = ["--data", str(data), "--workspace", str(workspace), "--preset", "quick"]
    return [sys.executable, "-m", "edgeasd", "reproduce", what, *fixed, *options]


def one_thread() -> dict[str, str]:
    """The environment of such a command."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
