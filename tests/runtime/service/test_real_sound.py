"""Clips of a real machine through a sound device: `run` and the service say what `score --live` says of the same audio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = [pytest.mark.core, pytest.mark.shared_data, pytest.mark.timeout(120)]
RATE = 16_000
Record = dict[str, Any]
SAME = ("index", "start_sample", "end_sample", "end_seconds", "averaged", "complete", "threshold", "above_threshold")
NEAR = ("score", "clip_score", "q", "d", "d_prime", "logit")


@pytest.fixture(scope="module")
def clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """A normal and an anomalous clip of the toy car after each other, int16."""
    folder = shared_data / "dcase2023_toycar" / "ToyCar" / "test"
    found = [sorted(folder.glob(f"*_{kind}_*.flac"))[0] for kind in ("normal", "anomaly")]
    parts = [soundfile.read(path, dtype="int16") for path in found]
    assert {rate for _, rate in parts} == {RATE}
    return np.concatenate([samples for samples, _ in parts])


@pytest.fixture(scope="module")
def expected(clips: np.ndarray, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """What `score --live` says."""
    folder = tmp_path_factory.mktemp("clips")
    soundfile.write(folder / "clips.wav", clips, RATE, subtype="PCM_16")
    command = [sys.executable, "-m", "edgeasd", "score", small_bundle, "clips.wav", "--live"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return [one["body"] for one in map(json.loads, done.stdout.splitlines()) if one["kind"] == "segment"]


def encoded(clips: np.ndarray, format: str) -> bytes:
    """The very same samples in a format of ALSA."""
    if format == "S16_LE":
        return clips.astype("<i2").tobytes()
    if format == "S24_3LE":
        return (clips.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    if format == "S24_LE":
        return (clips.astype("<i4") << 8).tobytes()
    if format == "S32_LE":
        return (clips.astype("<i4") << 16).tobytes()
    return (clips / 32768).astype("<f4").tobytes()


def assert_same(ours: list[Record], theirs: list[Record]) -> None:
    assert len(theirs) > 60
    for one, two in zip(ours, theirs, strict=True):
        assert [one[name] for name in SAME] == [two[name] for name in SAME]
        assert [one[name] for name in NEAR] == pytest.approx([two[name] for name in NEAR], rel=1e-6, abs=1e-9)


FORMATS = [
    "S16_LE",
    *(pytest.param(format, marks=pytest.mark.slow) for format in ("S24_3LE", "S24_LE", "S32_LE", "FLOAT_LE")),
]


@pytest.mark.parametrize("format", FORMATS)
def test_run_on_a_device_gives_the_scores_of_score_live(
    format: str,
    clips: np.ndarray,
    expected: list[Record],
    small_bundle: Path,
    playing: Callable[[bytes], str],
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "edgeasd", "run", "--device", "hw:1", "--bundle", str(small_bundle)]
    command += ["--jsonl", "-", "--pace", "block", "--duration", str(len(clips) / RATE)]
    command += ["--alsa-format", format]
    given = {**os.environ, "ALSA_CONFIG_PATH": playing(encoded(clips, format))}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=given)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["body"]["source"].startswith(f"hw:1 through arecord, {format}, 16000 Hz")
    assert_same([one["body"] for one in found if one["kind"] == "segment"], expected)
    last = found[-1]["body"]
    assert (last["samples"], last["dropped_samples"], last["overruns"]) == (len(clips), 0, 0)


@pytest.mark.parametrize("format", FORMATS)
def test_the_service_on_a_device_gives_the_scores_of_score_live(
    format: str, clips: np.ndarray, expected: list[Record], site: Any, playing: Callable[[bytes], str]
) -> None:
    chosen = f'alsa_format = "{format}"\n'
    site.write(f'device = "hw:1"\npace = "block"\nid = "00"\n{chosen}')
    process = site.start(ALSA_CONFIG_PATH=playing(encoded(clips, format)))
    site.until(lambda: len(site.records("segment")) >= len(expected), 60.0)
    _, said = site.end(process)
    assert process.returncode == 0, said
    assert f"hw:1 through arecord, {format}, 16000 Hz" in said
    # The device goes on with silence behind the clips, without an end.
    assert_same(site.records("segment")[: len(expected)], expected)
