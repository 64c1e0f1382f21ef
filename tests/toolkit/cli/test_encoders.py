"""A pretrained encoder as a user meets it: listed, fetched, trained with, exported and run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset
from edgeasd.toolkit.evaluation.metrics import auc

torch = pytest.importorskip("torch")

PLAN = DatasetPlan(kinds=("valve",), ids=("00",), normals=16, anomalies=4, seconds=10.0, fault_snr_db=0.0)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lone machine, recorded at half the rate of the encoder."""
    root = tmp_path_factory.mktemp("lone") / "recordings"
    write_dataset(root, PLAN)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the right names and shapes that have learnt nothing but how large their activations are."""
    from edgeasd.toolkit.models.backbones import build_pretrained

    torch.manual_seed(0)
    encoder = build_pretrained("mn04", classifier=True).train()
    for norm in (module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(3):
            encoder(torch.randn(8, 1, 200, 128).cumsum(dim=2) / 10)
    path = tmp_path_factory.mktemp("weights") / "mn04.pt"
    torch.save(encoder.state_dict(), path)
    return path


def test_encoders_are_listed(edgeasd: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEASD_ENCODERS", str(tmp_path / "encoders"))
    listed = edgeasd("encoders", cwd=tmp_path)
    assert listed.code == 0
    assert "mn04" in listed.out
    assert "CC BY 4.0" in listed.out
    assert "(hash not known)" in listed.out
    facts = json.loads(edgeasd("encoders", "--json", cwd=tmp_path).out)
    assert facts["folder"] == str(tmp_path / "encoders")
    assert [one["is_here"] for one in facts["encoders"]] == [False] * 7
    assert facts["encoders"][0]["front_end"]["preemphasis"] == 0.97


def test_a_fetch_that_fails_leaves_nothing(edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    done = edgeasd("encoders", "fetch", "mn04", "--to", "here", "--url", "http://127.0.0.1:9/x", cwd=tmp_path)
    assert done.code == 2
    assert "refused" in done.lines[-1]
    assert not list((tmp_path / "here").iterdir())
    unknown = edgeasd("encoders", "fetch", "mn99", cwd=tmp_path)
    assert unknown.code == 2
    assert "unknown; use one of mn04, mn05" in unknown.lines[-1]


def test_a_machine_goes_through_an_encoder_to_a_bundle(
    recordings: Path, weights: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--encoder", "mn04", "--weights", weights, "--trust-weights")
    trained = edgeasd("train", "--data", recordings, "--machine", "valve", *options, cwd=tmp_path)
    assert trained.code == 0, trained.said
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert any("taken on trust" in line and sha256 in line for line in trained.lines)
    evaluated = edgeasd("evaluate", "--data", recordings, "--machine", "valve", "--json", cwd=tmp_path)
    assert evaluated.code == 0, evaluated.said
    exported = edgeasd("export", "--machine", "valve", cwd=tmp_path)
    assert exported.code == 0, exported.said
    bundle = tmp_path / "bundles" / "valve-id_00"
    manifest = json.loads((bundle / "manifest.json").read_text())
    origin = manifest["provenance"]["encoder"]
    assert origin["name"] == "mn04"
    assert origin["sha256"] == sha256
    assert origin["licence"] == "MIT"
    assert origin["is_published_file"] is False
    assert manifest["features"]["mel_scale"] == "kaldi"
    assert manifest["segments"]["frames"] == 800
    assert [bank["name"] for bank in manifest["score"]["banks"]] == ["spread", "layer 5", "layer 9", "top"]
    verified = edgeasd("verify", bundle, cwd=tmp_path)
    assert verified.code == 0, verified.said
    scored = edgeasd("score", bundle, recordings / "valve" / "00", "--json", cwd=tmp_path)
    assert scored.code == 0, scored.said
    values = {row["file"]: row["score"] for row in map(json.loads, scored.out.splitlines())}
    normal = np.array([value for name, value in values.items() if "/normal/" in name])
    faulty = np.array([value for name, value in values.items() if "/anomaly/" in name])
    assert auc(normal, faulty) > 0.9  # the spread of the sound needs no weights
    clips = recordings / "valve" / "00" / "normal"
    found = edgeasd("calibrate", "--machine", "valve", "--clips", clips, "--precision", "none", cwd=tmp_path)
    assert found.code == 0, found.said
    again = edgeasd("train", "--data", recordings, "--machine", "valve", *options, "--resume", cwd=tmp_path)
    assert again.code == 0, again.said


def test_training_goes_on_from_published_weights(
    recordings: Path, weights: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "two"
    for id in ("00", "01"):
        shutil.copytree(recordings / "valve" / "00" / "normal", root / "valve" / id / "normal")
    tiny = ("--iterations", "3", "--set", "batch_normal=2", "--set", "batch_outlier=2", "--set", "segment_frames=128")
    options = ("--encoder", "mn04", "--weights", weights, "--trust-weights", "--loss", "bce+ddcsad", *tiny)
    done = edgeasd("train", "--data", root, "--machine", "valve", "--id", "00", *options, cwd=tmp_path)
    assert done.code == 0, done.said
    run = json.loads((tmp_path / "runs" / "valve" / "id_00" / "run.json").read_text())
    assert run["preset"]["name"] == "pretrained-tuned"
    assert run["encoder"]["name"] == "mn04"
    refused = edgeasd(
        *("train", "--data", root, "--machine", "valve", "--id", "00", "--loss", "bce", "--backbone", "mn04"),
        cwd=tmp_path,
    )
    assert refused.code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--encoder", "mn99"), "--encoder mn99: unknown; use one of mn04"),
        (("--encoder", "mn04", "--backbone", "quick"), "two encoders; leave one of them out"),
        (("--encoder", "mn04", "--weights", "nothing.pt"), "the weights of mn04 are not there"),
        (("--weights", "nothing.pt"), "of which encoder? name it with --encoder"),
        (("--preset", "quick", "--weights", "nothing.pt"), "of which encoder?"),
    ],
)
def test_a_wrong_encoder_is_one_line(
    options: tuple[str, ...], words: str, recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    done = edgeasd("train", "--data", recordings, "--machine", "valve", *options, cwd=tmp_path)
    assert done.code == 2
    assert len(done.lines) == 1
    assert words in done.lines[0]
    assert not (tmp_path / "runs").exists()


def test_published_weights_name_simple_sounds() -> None:
    """With the published weights, where EDGEASD_ENCODERS names a folder that holds them."""
    path = Path(os.environ.get("EDGEASD_ENCODERS", "/nowhere")) / "mn04_as_mAP_432.pt"
    if not path.is_file():
        pytest.skip("NO PRETRAINED WEIGHTS: set EDGEASD_ENCODERS to a folder with mn04_as_mAP_432.pt")
    from edgeasd.runtime.features.logmel import logmel
    from edgeasd.toolkit.encoders.weights import read_weights
    from edgeasd.toolkit.models.backbones import build_pretrained, load_pretrained

    weights = read_weights("mn04", path)
    encoder = build_pretrained("mn04", classifier=True).eval()
    load_pretrained(encoder, weights.state)
    seconds = np.arange(10 * 32_000) / 32_000
    noise = np.random.default_rng(0).standard_normal(len(seconds))
    # Indices of AudioSet's classes: sine wave; silence; static or white noise.
    sounds = ((0.3 * np.sin(2 * np.pi * 440 * seconds), {501}), (1e-6 * noise, {500}), (0.075 * noise, {515, 520}))
    for samples, expected in sounds:
        frames = logmel(samples.astype(np.float32), weights.encoder.features)
        with torch.inference_mode():
            found = encoder.tag(torch.from_numpy(frames)[None, None])[0]
        assert int(found.argmax()) in expected
