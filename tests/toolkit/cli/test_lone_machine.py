"""One machine and its normal sound alone: from a folder of clips to a bundle that scores, without any other machine."""

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

from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset
from edgeasd.toolkit.evaluation.metrics import auc

PLAN = DatasetPlan(kinds=("valve",), ids=("00",), normals=24, anomalies=6, seconds=10.0, fault_snr_db=-6.0)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lone") / "recordings"
    write_dataset(root, PLAN)
    return root


def test_a_lone_machine_goes_all_the_way(recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    trained = edgeasd("train", "--data", recordings, "--machine", "valve", cwd=tmp_path)
    assert trained.code == 0, trained.said
    assert any("no other machine beside it" in line and "--preset knn" in line for line in trained.lines)
    evaluated = edgeasd("evaluate", "--data", recordings, "--machine", "valve", "--json", cwd=tmp_path)
    assert evaluated.code == 0, evaluated.said
    exported = edgeasd("export", "--machine", "valve", cwd=tmp_path)
    assert exported.code == 0, exported.said
    bundle = tmp_path / "bundles" / "valve-id_00"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["network"]["backbone"] == "logmel-stats"
    assert manifest["score"]["alpha"] == 0.0
    assert [bank["normals"] for bank in manifest["score"]["banks"]] == [48, 48, 48]  # 16 clips, 3 segments of each
    scored = edgeasd("score", bundle, recordings / "valve" / "00", "--json", cwd=tmp_path)
    assert scored.code == 0, scored.said
    rows = [json.loads(line) for line in scored.out.splitlines()]
    values = {Path(row["file"]).as_posix(): row["score"] for row in rows}
    normal = np.array([value for name, value in values.items() if "/normal/" in name])
    faulty = np.array([value for name, value in values.items() if "/anomaly/" in name])
    assert len(normal) == 24
    assert auc(normal, faulty) > 0.9
    verified = edgeasd("verify", bundle, cwd=tmp_path)
    assert verified.code == 0, verified.said


def test_the_same_clips_give_the_same_bank(recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = edgeasd("train", "--data", recordings, "--machine", "valve", "--workspace", name, cwd=tmp_path)
        assert done.code == 0, done.said
    first, second = ((tmp_path / name / "runs/valve/id_00/bank.npz").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--preset", "quick"), "0 outlier clips"),
        (("--loss", "bce"), "0 outlier clips"),
        (("--preset", "knn", "--loss", "bce"), "logmel-stats has nothing to train and goes with knn"),
        (("--preset", "knn", "--iterations", "5"), "knn trains nothing and takes 0"),
        (("--backbone", "logmel-stats"), "logmel-stats has nothing to train and goes with knn"),
    ],
)
def test_what_was_asked_for_is_never_replaced(
    recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    done = edgeasd("train", "--data", recordings, "--machine", "valve", *options, cwd=tmp_path)
    assert done.code == 2
    assert len(done.lines) == 1
    assert line in done.lines[0]
    assert not (tmp_path / "runs").exists()


def test_a_stored_machine_cannot_be_updated(recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    assert edgeasd("train", "--data", recordings, "--machine", "valve", cwd=tmp_path).code == 0
    faults = recordings / "valve" / "00" / "anomaly"
    options = ("--data", recordings, "--machine", "valve", "--id", "00", "--anomalies", faults)
    done = edgeasd("finetune", *options, cwd=tmp_path)
    assert done.code == 2
    assert "so there is no update" in done.lines[-1]


def test_too_few_clips_say_how_many_are_missing(recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    few = tmp_path / "few" / "valve" / "00" / "normal"
    few.mkdir(parents=True)
    for path in sorted((recordings / "valve/00/normal").iterdir())[:5]:
        shutil.copy(path, few)
    done = edgeasd("train", "--data", tmp_path / "few", "--machine", "valve", cwd=tmp_path)
    assert done.code == 2
    assert "3 normal clips for a bank" in done.lines[-1]
    assert "record 2 more" in done.lines[-1]
    assert not (tmp_path / "runs" / "valve" / "id_00" / "bank.npz").exists()


def test_statistics_have_no_weights_to_round(recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    assert edgeasd("train", "--data", recordings, "--machine", "valve", cwd=tmp_path).code == 0
    for precision in ("fp16", "fp32,int8"):
        done = edgeasd("export", "--machine", "valve", "--precision", precision, cwd=tmp_path)
        assert done.code == 2
        assert "has no weights to round; leave it at fp32" in done.lines[-1]
    assert not (tmp_path / "bundles").exists()
    assert edgeasd("export", "--machine", "valve", cwd=tmp_path).code == 0
    write_dataset(tmp_path / "new", replace(PLAN, normals=12, anomalies=0, seed=5))
    clips = tmp_path / "new" / "valve" / "00" / "normal"
    refused = edgeasd("calibrate", "--machine", "valve", "--clips", clips, cwd=tmp_path)
    assert refused.code == 2
    assert "pass --precision none" in refused.lines[-1]
    found = edgeasd("calibrate", "--machine", "valve", "--clips", clips, "--precision", "none", cwd=tmp_path)
    assert found.code == 0, found.said


SHORT = ("--iterations", "3", "--set", "batch_normal=4", "--set", "batch_outlier=4")


@pytest.mark.parametrize("source", ["self", "folder"])
def test_a_lone_machine_trains_with_lent_outliers(
    source: str, recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    outliers = source
    if source == "folder":
        outliers = str(tmp_path / "hall")
        (tmp_path / "hall" / "deep").mkdir(parents=True)
        noise = np.random.default_rng(0).standard_normal((12, 44_100 * 9)).astype(np.float32)
        for index, one in enumerate(noise):  # another rate, two channels, any name
            soundfile.write(tmp_path / "hall" / "deep" / f"take {index}.wav", 0.05 * np.stack([one, one], 1), 44_100)
    for name in ("a", "b"):
        done = edgeasd(
            *("train", "--data", recordings, "--machine", "valve", "--outliers", outliers, *SHORT),
            *("--workspace", name, "--cache", tmp_path / f"cache-{name}"),
            cwd=tmp_path,
        )
        assert done.code == 0, done.said
        assert any("bce+ddcsad" in line for line in done.lines)
    facts = [json.loads((tmp_path / name / "runs/valve/id_00/run.json").read_text()) for name in ("a", "b")]
    assert facts[0]["data_fingerprint"] == facts[1]["data_fingerprint"]
    assert facts[0]["clips"]["outliers"] > 0
    assert facts[0]["clips"]["holdout_outliers"] > 0
    judged = edgeasd(
        *("evaluate", "--data", recordings, "--machine", "valve", "--workspace", "a", "--cache", tmp_path / "cache-a"),
        cwd=tmp_path,
    )
    assert judged.code == 0, judged.said


def test_outliers_that_hold_the_machine_are_refused(
    recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    own = next((recordings / "valve" / "00" / "normal").iterdir())
    (tmp_path / "hall").mkdir()
    shutil.copy(own, tmp_path / "hall" / "harmless.flac")
    (tmp_path / "empty").mkdir()
    for folder, line in (
        ("hall", "harmless.flac is a clip of the machine itself"),
        ("empty", "holds no WAV or FLAC"),
        ("nowhere", "not a folder"),
    ):
        done = edgeasd(
            "train", "--data", recordings, "--machine", "valve", "--outliers", tmp_path / folder, *SHORT, cwd=tmp_path
        )
        assert done.code == 2
        assert line in done.lines[-1]
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("seed", range(12))
def test_an_odd_clip_is_as_loud_and_not_the_same(seed: int) -> None:
    from edgeasd.toolkit.data.outliers import made_odd

    sound = 0.05 * np.random.default_rng(99).standard_normal(3 * 16_000).astype(np.float32)
    one, other = (made_odd(sound, 16_000, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(one, other)
    assert one.shape == sound.shape
    assert one.dtype == np.float32
    assert np.abs(one).max() < 1.0
    assert np.sqrt(np.mean(one**2)) == pytest.approx(0.05, rel=0.02)
    assert np.sqrt(np.mean((one - sound) ** 2)) > 0.005
