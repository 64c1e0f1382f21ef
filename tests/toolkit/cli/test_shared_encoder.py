"""One training for all IDs: an encoder that tells them apart, a bank for each, and a new ID without training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset

PLAN = DatasetPlan(kinds=("valve",), ids=("00", "02", "04"), normals=10, anomalies=0, seconds=10.0)
SHORT = ("--loss", "classify", "--iterations", "4", "--set", "batch_normal=4")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes") / "recordings"
    write_dataset(root, PLAN)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(recordings: Path, cache: Path, edgeasd: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def run(*options: object, root: Path = recordings) -> Any:
        return edgeasd("train", "--data", root, "--machine", "valve", "--cache", cache, *options, cwd=tmp_path)

    return run


def without_id(recordings: Path, folder: Path, id: str) -> Path:
    root = folder / "some"
    shutil.copytree(recordings, root)
    shutil.rmtree(root / "valve" / id)
    return root


def test_a_new_id_needs_a_bank_and_no_training(
    train: Callable[..., Any], recordings: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    first = train(*SHORT, root=without_id(recordings, tmp_path, "04"))
    assert first.code == 0, first.said
    runs = tmp_path / "runs" / "valve"
    assert sorted(path.name for path in runs.iterdir()) == ["encoder", "id_00", "id_02"]
    facts = json.loads((runs / "encoder" / "run.json").read_text())
    assert list(facts["classes"]) == ["valve 00", "valve 02"]
    added = train("--id", "04", "--encoder-run", runs / "encoder")
    assert added.code == 0, added.said
    taken = json.loads((runs / "id_04" / "run.json").read_text())
    assert taken["amplitude"]["mean"] == facts["amplitude"]["mean"]
    assert taken["shared_encoder"]["started"] == facts["started"]
    done = edgeasd("export", "--machine", "valve", "--id", "04", cwd=tmp_path)
    assert done.code == 0, done.said
    manifest = json.loads((tmp_path / "bundles" / "valve-id_04" / "manifest.json").read_text())
    assert manifest["score"]["method"] == "classify"
    hashes = [path.read_bytes() for path in sorted(tmp_path.glob("runs/valve/id_*/checkpoints/*/model.safetensors"))]
    assert len(hashes) == 3
    assert len(set(hashes)) == 1


def test_stopped_and_resumed_it_ends_with_the_same_banks(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train(*SHORT, "--workspace", "whole").code == 0
    assert train(*SHORT, "--workspace", "again").code == 0
    shutil.rmtree(tmp_path / "again" / "runs" / "valve" / "id_02")
    refused = train(*SHORT, "--workspace", "again")
    assert refused.code == 2
    assert "holds a run; pass" in refused.lines[-1]
    assert train(*SHORT, "--workspace", "again", "--resume").code == 0
    for id in ("id_00", "id_02", "id_04"):
        with (
            np.load(tmp_path / "whole" / "runs" / "valve" / id / "bank.npz") as one,
            np.load(tmp_path / "again" / "runs" / "valve" / id / "bank.npz") as other,
        ):
            assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_training_begins_with_the_encoder_of_another_run(train: Callable[..., Any], tmp_path: Path) -> None:
    assert train(*SHORT, "--id", "00").code == 0
    encoder = tmp_path / "runs" / "valve" / "encoder"
    options = ("--id", "02", "--loss", "bce+ddcsad", "--iterations", "2", "--set", "batch_normal=4")
    options = (*options, "--set", "batch_outlier=4")
    assert train(*options, "--init-from", encoder, "--workspace", "two").code == 0
    facts = json.loads((tmp_path / "two" / "runs" / "valve" / "id_02" / "run.json").read_text())
    assert facts["init_from"]["method"] == "classify"
    assert train(*options, "--workspace", "alone").code == 0
    weights = [(tmp_path / one / "runs/valve/id_02/outcome.npz").read_bytes() for one in ("two", "alone")]
    assert weights[0] != weights[1]
    refused = train(*options, "--backbone", "medium", "--init-from", encoder, "--workspace", "three")
    assert refused.code == 2
    assert "its backbone is quick, that of this training medium" in refused.lines[-1]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--loss", "classify", "--scoring", "centroid"), "its IDs share no centroid"),
        (("--encoder-run", "nowhere"), "no training run here"),
        (("--encoder-run", "nowhere", "--lam", "1"), "nothing is trained"),
        (("--loss", "classify", "--id", "07"), "no ID '07'"),
    ],
)
def test_what_does_not_fit_is_one_line(
    train: Callable[..., Any], tmp_path: Path, options: tuple[str, ...], line: str
) -> None:
    done = train(*options)
    assert done.code == 2
    assert line in done.lines[-1]
    assert not (tmp_path / "runs").exists()


def test_a_single_class_is_refused(
    recordings: Path, train: Callable[..., Any], edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "one"
    shutil.copytree(recordings / "valve" / "00", root / "valve" / "00")
    done = train(*SHORT, root=root)
    assert done.code == 2
    assert "makes 1 class (valve 00), two are needed" in done.lines[-1]
    assert not (tmp_path / "runs").exists()
