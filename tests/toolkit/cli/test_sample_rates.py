"""Recordings of a lower rate than the front end's, from training to listening: one line says so, one rule reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.scoring.clip import score_sound
from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset

PLAN = DatasetPlan(kinds=("valve",), ids=("00",), normals=12, anomalies=2, seconds=10.0, fault_snr_db=0.0)
SAID = "8000 Hz resampled to 16000 Hz, nothing above 4000 Hz"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lone machine, recorded at 8 kHz."""
    return write_at_8_khz(tmp_path_factory.mktemp("low") / "recordings", PLAN)


def write_at_8_khz(root: Path, plan: DatasetPlan) -> Path:
    write_dataset(root, plan)
    for path in root.rglob("*.flac"):
        sound, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, soxr.resample(sound, rate, 8_000), 8_000, subtype="PCM_16")
    return root


@pytest.fixture(scope="module")
def workspace(recordings: Path, edgeasd: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    trained = edgeasd("train", "--data", recordings, "--machine", "valve", cwd=folder)
    assert trained.code == 0, trained.said
    assert [line for line in trained.lines if "recordings:" in line] == [f"edgeasd: recordings: {SAID}"]
    exported = edgeasd("export", "--machine", "valve", cwd=folder)
    assert exported.code == 0, exported.said
    return folder


@pytest.fixture
def bundle(workspace: Path) -> Path:
    return workspace / "bundles" / "valve-id_00"


def scores(result: Any) -> dict[str, float]:
    assert result.code == 0, result.said
    return {Path(row["file"]).name: row["score"] for row in map(json.loads, result.out.splitlines())}


def test_the_manifest_has_the_rate_of_the_recordings(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["features"]["sample_rate"] == 16_000
    assert manifest["features"]["recorded_rate"] == 8_000
    # an older program would hear what is above 4 kHz
    assert manifest["schema_version"] == 2


def test_evaluate_and_calibrate_read_the_clips_alike(
    recordings: Path, workspace: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(workspace, tmp_path / "copy")
    evaluated = edgeasd("evaluate", "--data", recordings, "--machine", "valve", cwd=folder)
    assert evaluated.code == 0, evaluated.said
    clips = write_at_8_khz(tmp_path / "new", replace(PLAN, anomalies=0, seed=5)) / "valve" / "00" / "normal"
    calibrated = edgeasd("calibrate", "--machine", "valve", "--clips", clips, "--precision", "none", cwd=folder)
    assert calibrated.code == 0, calibrated.said


def test_a_better_microphone_is_no_fault(
    recordings: Path, bundle: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    """What is above 4 kHz at a better microphone is not heard: without the rule it would be an anomaly."""
    source = sorted((recordings / "valve" / "00" / "normal").glob("*.flac"))[0]
    low, _ = soundfile.read(source, dtype="float32")
    soundfile.write(tmp_path / "8000.wav", low, 8_000, subtype="FLOAT")
    for rate in (16_000, 44_100, 48_000):
        wide = soxr.resample(low, 8_000, rate)
        hiss = 0.05 * np.sin(2 * np.pi * 6500 * np.arange(wide.size) / rate)
        soundfile.write(tmp_path / f"{rate}.wav", (wide + hiss).astype(np.float32), rate, subtype="FLOAT")
    found = scores(edgeasd("score", bundle, tmp_path, "--json", cwd=tmp_path))
    with Bundle(bundle) as opened:
        scorer, _ = opened.open_scorer(engine="onnxruntime")
        as_it_is = score_sound(scorer, read_audio(tmp_path / "16000.wav", sample_rate=16_000)).score
        scorer.close()
    beyond = abs(as_it_is - found["8000.wav"])
    for rate in (16_000, 44_100, 48_000):
        # Filters of both ways differ a little just below 4 kHz.
        assert abs(found[f"{rate}.wav"] - found["8000.wav"]) < 0.2 * beyond, (rate, found, as_it_is)


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_live_is_offline(
    recordings: Path, bundle: Path, edgeasd: Callable[..., Any], tmp_path: Path, rate: int
) -> None:
    source = sorted((recordings / "valve" / "00" / "normal").glob("*.flac"))[0]
    sound, _ = soundfile.read(source, dtype="float32")
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, soxr.resample(sound, 8_000, rate), rate, subtype="FLOAT")
    offline = scores(edgeasd("score", bundle, clip, "--json", cwd=tmp_path))["clip.wav"]
    ran = edgeasd("run", "--bundle", bundle, "--input", clip, "--jsonl", "-", cwd=tmp_path)
    assert ran.code == 0, ran.said
    rows = [json.loads(line) for line in ran.out.splitlines()]
    live = [row["body"]["clip_score"] for row in rows if row["kind"] == "segment"]
    assert live[9] == pytest.approx(offline, rel=1e-6)
    assert "nothing above 4000 Hz" in ran.said + ran.out


def test_clips_that_hold_less_are_refused(
    bundle: Path, recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "low.wav", np.zeros(44_000, np.float32), 4_000)
    refused = edgeasd("score", bundle, tmp_path / "low.wav", cwd=tmp_path)
    assert refused.code == 2
    assert "low.wav: 4000 Hz, the bundle expects 8000 Hz; resample it or pass --resample" in refused.said
    mixed = shutil.copytree(recordings, tmp_path / "mixed")
    shutil.copy(tmp_path / "low.wav", mixed / "valve/00/normal/low.wav")
    refused = edgeasd("train", "--data", mixed, "--machine", "valve", cwd=tmp_path)
    assert refused.code == 2
    assert "low.wav: 4000 Hz, the model hears 8000 Hz; convert the file to that rate" in refused.said
