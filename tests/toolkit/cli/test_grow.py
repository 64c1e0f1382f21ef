"""A bundle learns a new normal state by one command: what changes, what is refused, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.calibration.fit.bank import bank_distances
from edgeasd.calibration.fit.stored_normals import StoredNormals
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.scoring.scorer import Head
from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset

PLAN = DatasetPlan(kinds=("valve",), ids=("00",), normals=24, anomalies=0, seconds=9.0)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """normal/ of valve 00, and new/: another valve, standing for a state it was not recorded in."""
    root = tmp_path_factory.mktemp("grow")
    write_dataset(root / "first", PLAN)
    write_dataset(root / "other", replace(PLAN, ids=("02",), normals=14, seed=3))
    shutil.copytree(root / "other/valve/02/normal", root / "new")
    return root


@pytest.fixture(scope="module")
def exported(sounds: Path, edgeasd: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("exported")
    assert edgeasd("train", "--data", sounds / "first", "--machine", "valve", cwd=home).code == 0
    done = edgeasd("export", "--machine", "valve", cwd=home)
    assert done.code == 0, done.said
    return home / "bundles/valve-id_00"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "valve-id_00")
    return tmp_path / "valve-id_00"


def clip_score(edgeasd: Callable[..., Any], bundle: Path, clip: Path) -> float:
    done = edgeasd("score", bundle, clip, "--json", cwd=bundle.parent)
    assert done.code == 0, done.said
    return float(json.loads(done.out.splitlines()[0])["score"])


def test_a_new_state_becomes_normal(bundle: Path, sounds: Path, edgeasd: Callable[..., Any]) -> None:
    new = sorted((sounds / "new").iterdir())
    unseen, given = new[0], new[1:]
    before = clip_score(edgeasd, bundle, unseen)
    threshold = json.loads((bundle / "manifest.json").read_text())["threshold"]["clip"]
    assert before > threshold
    done = edgeasd("grow", bundle, *given, "--json", cwd=bundle.parent)
    assert done.code == 0, done.said
    facts = json.loads(done.out)
    assert facts["added"] + facts["held_out"] == 13
    assert facts["held_out"] == 2
    assert facts["stored_segments"]["after"] == [n + 3 * facts["added"] for n in facts["stored_segments"]["before"]]
    assert any("lay above the old threshold" in line and "be sure that it is" in line for line in facts["warnings"])
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert clip_score(edgeasd, bundle, unseen) < manifest["threshold"]["clip"]
    assert manifest["threshold"]["clips"] == 3 + 2, manifest["threshold"]
    assert manifest["provenance"]["refits"][-1]["changed"] == "bank grown by 13 normal clips"
    assert edgeasd("verify", bundle, cwd=bundle.parent).code == 0
    head, kept = Head(bundle / "head.onnx"), (bundle / "normals.npz").read_bytes()
    normals = StoredNormals.from_bytes(kept, "normals.npz")
    banks, _ = normals.fit()
    np.testing.assert_allclose(
        head(normals.held_out.z)["d"], bank_distances(banks, normals.held_out.z), rtol=1e-4, atol=1e-4
    )
    said = edgeasd("grow", bundle, given[0], cwd=bundle.parent)
    assert said.code == 2
    assert "stored already; leave it out" in said.lines[-1]


def test_what_is_no_new_normal_is_refused(
    bundle: Path, sounds: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    """And the bundle stays as it was, to the byte."""
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    sound, rate = soundfile.read(next((sounds / "new").iterdir()), dtype="float32")
    stored, _ = soundfile.read(sounds / "first/valve/00/normal/0003.flac", dtype="float32")
    clips = tmp_path / "clips"
    clips.mkdir()
    soundfile.write(clips / "rate.wav", sound, 8000)
    soundfile.write(clips / "silent.wav", np.zeros_like(sound), rate)
    soundfile.write(clips / "loud.wav", np.clip(sound * 100, -1, 1), rate)
    holed = sound.copy()
    holed[100] = np.nan
    soundfile.write(clips / "nan.wav", holed, rate, subtype="FLOAT")
    (clips / "text.wav").write_text("no sound")
    for name, line in (
        ("rate.wav", "8000 Hz"),
        ("silent.wav", "digital_silence"),
        ("loud.wav", "clipping"),
        ("nan.wav", "nan.wav"),
        ("text.wav", "text.wav"),
    ):
        done = edgeasd("grow", bundle, clips / name, cwd=tmp_path)
        assert (done.code, len(done.lines)) == (2, 1), done.said
        assert line in done.lines[0]
    soundfile.write(clips / "again.wav", stored, rate, subtype="PCM_16")
    copy = edgeasd("grow", bundle, clips / "again.wav", cwd=tmp_path)
    held_out = "stored already" in copy.said or "sound is that of a stored clip" in copy.said
    assert copy.code == 2 if held_out else copy.code == 0
    if copy.code == 2:
        assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_bundle_without_stored_normals_cannot_grow(
    bundle: Path, sounds: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    small = Path(__file__).parents[2] / "data/valve-id_00"
    shutil.copytree(small, tmp_path / "small")
    done = edgeasd("grow", tmp_path / "small", sounds / "new", cwd=tmp_path)
    assert (done.code, len(done.lines)) == (2, 1)
    assert "scored by a centroid and has no bank" in done.lines[0]
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"]["normals.npz"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "normals.npz").unlink()
    with Bundle(bundle) as opened:  # a bundle of before
        opened.verify_files()
        opened.open_scorer(engine="onnxruntime")[0].close()
    done = edgeasd("grow", bundle, sounds / "new", cwd=tmp_path)
    assert (done.code, len(done.lines)) == (2, 1)
    assert "has no normals.npz, so its bank cannot grow; train again" in done.lines[0]


def test_a_tampered_bank_is_one_line(bundle: Path, sounds: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    path = bundle / "normals.npz"
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    done = edgeasd("grow", bundle, sounds / "new", cwd=tmp_path)
    assert (done.code, len(done.lines)) == (2, 1)
    assert "the file was changed or damaged" in done.lines[0]
    # Whoever also forges the hash is stopped by what the file holds.
    for forged in (b"", bytes(data[:3000])):
        path.write_bytes(forged)
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"]["normals.npz"] = {"sha256": hash_file(path), "size": len(forged)}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        done = edgeasd("grow", bundle, sounds / "new", cwd=tmp_path)
        assert (done.code, len(done.lines)) == (2, 1)
        assert "normals.npz: no stored normals" in done.lines[0]


@pytest.mark.parametrize("part", ["fitting the banks", "writing the bundle", "checking the bundle"])
def test_a_kill_leaves_a_whole_bundle(bundle: Path, sounds: Path, tmp_path: Path, part: str) -> None:
    before = {path.name: hash_file(path) for path in bundle.iterdir()}
    command = [sys.executable, "-m", "edgeasd", "grow", str(bundle), str(sounds / "new")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if part in line:
                break
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    after = {path.name: hash_file(path) for path in bundle.iterdir()}
    # The check may be over before the kill comes; then the new bundle is there, whole.
    is_new = part == "checking the bundle" and all(after[name] != before[name] for name in ("head.onnx", "normals.npz"))
    assert after == before or is_new
    with Bundle(bundle) as opened:
        opened.verify_files()
