"""--scoring knn: a trained encoder whose distance is that to the nearest stored normal, from training to the device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset

PLAN = DatasetPlan(
    kinds=("valve",), ids=("00", "02"), normals=50, anomalies=8, anomaly_ids={"valve": ("00",)}, seconds=9.0
)
QUICK = ("--machine", "valve", "--id", "00")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scoring") / "recordings"
    write_dataset(root, PLAN)
    return root


@pytest.fixture(scope="module")
def workspace(recordings: Path, edgeasd: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a trained model whose normals are stored."""
    home = tmp_path_factory.mktemp("trained")
    done = edgeasd("train", "--data", recordings, *QUICK, "--iterations", 20, "--scoring", "knn", cwd=home)
    assert done.code == 0, done.said
    return home


def test_a_trained_model_is_compared_with_normals(
    recordings: Path, workspace: Path, edgeasd: Callable[..., Any]
) -> None:
    """Evaluated, exported, scored and verified with the nearest normal in place of the centroid."""
    for scoring, name in (("knn", "evaluation-knn.json"), ("centroid", "evaluation.json")):
        options = ("--data", recordings, *QUICK, "--scoring", scoring, "--json")
        done = edgeasd("evaluate", *options, cwd=workspace)
        assert done.code == 0, done.said
        assert (workspace / "runs/valve/id_00" / name).is_file()
    run = Path("runs/valve/id_00")
    compared = edgeasd("compare", run, run / "evaluation.json", "--json", cwd=workspace)
    assert compared.code == 0, compared.said
    assert json.loads(compared.out)["a"] == str(run / "evaluation-knn.json")
    exported = edgeasd("export", *QUICK, "--precision", "fp32,fp16", cwd=workspace)
    assert exported.code == 0, exported.said
    bundle = workspace / "bundles/valve-id_00"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["score"]["method"] == "bce+ddcsad"
    assert manifest["score"]["alpha"] == 0.5  # q and the bank's d' are blended
    assert [bank["name"] for bank in manifest["score"]["banks"]] == ["embedding"]
    assert manifest["status"] == "calibrated"
    judged = json.loads((workspace / run / "evaluation-knn.json").read_text())
    by_name = {row["path"]: row["deploy"] for row in judged["clips"]}
    scored = edgeasd("score", bundle, recordings / "valve/00/anomaly", "--json", cwd=workspace)
    rows = [json.loads(line) for line in scored.out.splitlines()]
    assert len(rows) == 8
    for row in rows:
        name = str(Path(row["file"]).relative_to(recordings))
        assert row["score"] == pytest.approx(by_name[name], abs=1e-3)
    assert edgeasd("verify", bundle, cwd=workspace).code == 0


def test_int8_of_a_bank_passes_the_drift_gate(
    recordings: Path, workspace: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    """The bank stays as float32 stored it; the gate says whether rounded embeddings still fit."""
    bundle = tmp_path / "valve"
    assert edgeasd("export", *QUICK, "--output", bundle, cwd=workspace).code == 0
    write_dataset(tmp_path / "new", DatasetPlan(("valve",), ("00",), 44, 0, seconds=9.0, seed=7))
    options = ("--machine", "valve", "--bundle", bundle, "--clips", tmp_path / "new", "--precision", "int8-cpu,fp16")
    # 20 iterations make no model whose ranks the default limits could be held to.
    limits = ("--min-rank-correlation", 0.5, "--max-score-change", 5, "--max-flipped", 1, "--budget", 0)
    done = edgeasd("calibrate", *options, *limits, "--segments", 16, "--refit-distance", cwd=workspace)
    assert done.code == 0, done.said
    with Bundle(bundle) as opened:
        opened.verify_files()
        for precision in ("fp32", "fp16", "int8-cpu"):
            scorer, _ = opened.open_scorer(precision=precision, engine="onnxruntime")
            scorer.close()


def test_normals_are_stored_beside_a_finished_training(
    recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    """Without another iteration; the centroid stays at hand."""
    train = ("train", "--data", recordings, *QUICK, "--iterations", 4)
    assert edgeasd(*train, cwd=tmp_path).code == 0
    run = tmp_path / "runs/valve/id_00"
    outcome = (run / "outcome.npz").read_bytes()
    refused = edgeasd("export", *QUICK, "--scoring", "knn", cwd=tmp_path)
    assert refused.code == 2
    assert "are not stored; store them with the same `edgeasd train` and --scoring knn --resume" in refused.lines[-1]
    assert edgeasd(*train, "--scoring", "knn", "--resume", cwd=tmp_path).code == 0
    assert (run / "bank.npz").is_file()
    assert json.loads((run / "run.json").read_text())["preset"]["scoring"] == "knn"
    with np.load(run / "outcome.npz") as again, np.load(run / "outcome-knn.npz") as banks:
        np.testing.assert_allclose(again["normals_q"], banks["normals_q"], atol=1e-6)
        assert not np.allclose(again["normals_d"], banks["normals_d"])
        assert len(banks["outliers_d"]) == len(again["outliers_d"])
    assert len(outcome) == len((run / "outcome.npz").read_bytes())
    done = edgeasd("export", *QUICK, "--scoring", "centroid", cwd=tmp_path)
    assert done.code == 0, done.said
    assert "banks" not in json.loads((tmp_path / "bundles/valve-id_00/manifest.json").read_text())["score"]


def test_alpha_is_chosen_for_each_scoring(
    recordings: Path, workspace: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    clips = tmp_path / "clips.txt"
    names = [f"valve/00/normal/{i:04d}.flac" for i in (45, 46, 47)]
    judged = json.loads((workspace / "runs/valve/id_00/evaluation-knn.json").read_text())["clips"]
    normals = [row["path"] for row in judged if row["label"] == "normal"][:3]
    faults = [row["path"] for row in judged if row["label"] == "anomaly"][:3]
    clips.write_text("".join(f"{recordings / name}\n" for name in (normals or names) + faults))
    done = edgeasd("alpha", "--data", recordings, *QUICK, "--clips", clips, "--scoring", "knn", cwd=workspace)
    assert done.code == 0, done.said
    run = workspace / "runs/valve/id_00"
    assert (run / "alpha-knn.json").is_file()
    assert not (run / "alpha.json").exists()
    (run / "alpha-knn.json").unlink()


def test_an_unknown_scoring_is_one_line(workspace: Path, edgeasd: Callable[..., Any]) -> None:
    for command in ("export", "train"):
        data = ("--data", workspace) if command == "train" else ()
        done = edgeasd(command, *data, *QUICK, "--scoring", "nearest", cwd=workspace)
        assert done.code == 2
        assert len(done.lines) == 1
        assert "centroid" in done.lines[0]
        assert "knn" in done.lines[0]
