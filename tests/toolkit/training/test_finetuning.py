"""Updates with known anomalies, on a tiny data set: where they start, what they leave, who judges them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.data.offered import KnownAnomalies, choose_known, offered_files, offered_hashes
from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset
from edgeasd.toolkit.evaluation.evaluate import evaluate
from edgeasd.toolkit.evaluation.trained import load_trained_model
from edgeasd.toolkit.presets import load_preset
from edgeasd.toolkit.progress import no_progress
from edgeasd.toolkit.runs import Run, update_folder
from edgeasd.toolkit.training.checkpoint import latest_checkpoint
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.session import finetune_one, train_one
from edgeasd.toolkit.training.trainer import Interrupted

PRESET = load_preset("quick").changed(iterations=2, batch_normal=4, batch_outlier=4, least_epoch_iterations=2)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def data(workspace: Path) -> MachineData:
    root = workspace / "recordings"
    write_dataset(root, DatasetPlan(kinds=("valve",), ids=("00", "02"), normals=7, anomalies=9, seed=4))
    return load_machine(
        root, "valve", cache_folder=workspace / "cache", seed=0, holdout_fraction=0.15, test_fraction=0.2
    )


@pytest.fixture(scope="module")
def base(workspace: Path, data: MachineData) -> Run:
    folder = workspace / "runs" / "valve" / "id_00"
    return train_one(data, "00", PRESET, 0, folder, open_fabric("cpu"), report=no_progress, should_stop=lambda: False)


@pytest.fixture(scope="module")
def update(workspace: Path, data: MachineData, base: Run) -> Callable[..., Run]:
    def make(known: KnownAnomalies, iterations: int = 2, **options: Any) -> Run:
        preset = PRESET.for_finetuning().changed(iterations=iterations, batch_outlier=3)
        folder = update_folder(workspace, "valve", "00", len(known.used), 0)
        options = {"report": no_progress, "should_stop": lambda: False, **options}
        return finetune_one(data, base, known, preset, 0, folder, open_fabric("cpu"), **options)

    return make


def known(data: MachineData, count: int) -> KnownAnomalies:
    folder = data.root / "valve" / "00" / "anomaly"
    offered = offered_hashes(offered_files(folder, "--anomalies"), folder, "--anomalies")
    return choose_known(data, "00", offered, count=count, seed=0)


def test_an_update_stands_beside_its_base_and_is_the_newest(
    data: MachineData, base: Run, update: Callable[..., Run]
) -> None:
    before = latest_checkpoint(base.checkpoints).model
    run = update(known(data, 2))
    after = latest_checkpoint(base.checkpoints).model
    assert all(torch.equal(before[name], after[name]) for name in before), "the base model was touched"
    assert run.known_anomalies == 2
    assert len(run.candidates) == 9
    assert base.chosen(None).folder == run.folder
    assert base.chosen("none") is base
    assert base.chosen("n002-s0").folder == run.folder
    with pytest.raises(InputError, match=r"--update n064-s0: .*n002-s0"):
        base.chosen("n064-s0")


def test_no_offered_anomaly_judges_an_update(data: MachineData, base: Run, update: Callable[..., Run]) -> None:
    run = update(known(data, 3))
    judged = evaluate(load_trained_model(run), data)
    assert judged.anomalies == 0
    assert judged.figures["paper"].auc is None
    alone = evaluate(load_trained_model(base), data)
    assert alone.anomalies == 9
    same = evaluate(load_trained_model(base), data, excluded=run.candidates)
    assert (same.normals, same.anomalies) == (judged.normals, judged.anomalies)


def test_features_and_amplitude_are_those_of_the_base(data: MachineData, base: Run, update: Callable[..., Run]) -> None:
    run = update(known(data, 1))
    assert run.amplitude == base.amplitude
    assert run.segments == base.segments
    assert json.loads((run.folder / "run.json").read_text())["update"]["base_iteration"] == 2


def test_eight_known_anomalies_set_d_max(data: MachineData, update: Callable[..., Run]) -> None:
    outcome = load_trained_model(update(known(data, 8))).result
    assert len(outcome.anomalies) == 8


def test_an_interrupted_update_resumes_to_the_same_weights(data: MachineData, update: Callable[..., Run]) -> None:
    whole = latest_checkpoint(update(known(data, 4), iterations=4).checkpoints).model
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        update(known(data, 4), iterations=4, overwrite=True, should_stop=lambda: next(asked))
    resumed = latest_checkpoint(update(known(data, 4), iterations=4, resume=True).checkpoints).model
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_anomalies_do_not_resume_an_update(data: MachineData, update: Callable[..., Run]) -> None:
    update(known(data, 5))
    others = known(data, 6)
    with pytest.raises(InputError, match="another update"):
        update(KnownAnomalies(others.used[1:], others.candidates), resume=True)
