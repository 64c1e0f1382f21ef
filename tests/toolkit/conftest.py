"""A trained workspace on a small DCASE tree, for tests of what `evaluate` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

HOSTILE = "note_<img src=x onerror=alert(1)> &\u202e\x07"
"""In a file name: markup, a mark that reverses the writing, and a bell."""


@dataclass(frozen=True)
class Workspace:
    """Two sections of the machine `gear`, trained for a few steps; both domains in the test."""

    folder: Path
    data: Path
    hostile: str
    unlabelled: str


def _write(path: Path, seed: int, colour: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(16_000 * 9 + 1)
    soundfile.write(path, (0.05 * (noise[1:] + colour * noise[:-1])).astype(np.float32), 16_000, format="WAV")


@pytest.fixture(scope="session")
def dcase_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Read-only but for what commands write into it."""
    torch = pytest.importorskip("torch")
    from edgeasd.toolkit.data.machine import load_machine
    from edgeasd.toolkit.presets import load_preset
    from edgeasd.toolkit.progress import no_progress
    from edgeasd.toolkit.runs import run_folder
    from edgeasd.toolkit.training.fabric import open_fabric
    from edgeasd.toolkit.training.session import train_one

    folder = tmp_path_factory.mktemp("dcase")
    data = folder / "data"
    seed = 0
    for section, colour in (("00", 0.0), ("01", 0.9)):
        for i in range(6):
            domain = "source" if i < 4 else "target"
            _write(data / "gear" / "train" / f"section_{section}_{domain}_train_normal_{i:04d}.wav", seed + i, colour)
        for i, (domain, label) in enumerate(
            [(d, k) for d in ("source", "target") for k in ("normal", "anomaly") for _ in range(2)]
        ):
            name = f"section_{section}_{domain}_test_{label}_{i:04d}.wav"
            # Every other anomaly is as loud and as coloured as a normal clip.
            shade = colour + (0.5 if label == "anomaly" and i % 2 else 0.0)
            _write(data / "gear" / "test" / name, seed + 100 + i, shade)
        seed += 1000
    hostile = f"section_00_source_test_anomaly_0050_{HOSTILE}.wav"
    unlabelled = "section_00_0099.wav"
    _write(data / "gear" / "test" / hostile, 5000, 0.0)
    _write(data / "gear" / "test" / unlabelled, 5001, 0.0)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    preset = load_preset("quick").changed(iterations=6, batch_normal=2, batch_outlier=2)
    loaded = load_machine(
        data,
        "gear",
        cache_folder=folder / "cache",
        seed=0,
        holdout_fraction=0.4,
        test_fraction=preset.test_fraction,
    )
    preset = preset.model_copy(update={"holdout_fraction": 0.4})
    for id in ("00", "01"):
        run = run_folder(folder, "gear", id)
        train_one(loaded, id, preset, 0, run, open_fabric("cpu"), report=no_progress, should_stop=lambda: False)
    torch.set_num_threads(threads)
    return Workspace(folder, data, hostile, unlabelled)
