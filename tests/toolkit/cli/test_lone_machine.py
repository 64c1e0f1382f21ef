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
    assert [bank["normals"] for bank in manifest["score"]["banks"]] == [48, 48]  # 16 clips, 3 segments of each
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
