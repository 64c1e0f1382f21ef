"""Evaluation: the figures are those of the clip scores it lists, in every way of scoring."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics import roc_auc_score

from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.logmel import logmel
from edgeasd.runtime.scoring.clip import score_features
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.evaluate import collect, evaluate
from edgeasd.toolkit.evaluation.trained import UNFITTED, TorchHead, TrainedModel, load_trained_model
from edgeasd.toolkit.models.backbones import build_network
from edgeasd.toolkit.presets import load_preset
from edgeasd.toolkit.progress import no_progress
from edgeasd.toolkit.reports.evaluation import evaluation_report
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.session import train_one

SHORT = 16000 * 4


def write_sound(path: Path, seed: int, colour: float, samples: int = 16000 * 9) -> None:
    """Noise through a one-tap filter: `colour` is what sets machines and faults apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(samples + 1)
    sound = 0.05 * (noise[1:] + colour * noise[:-1])
    soundfile.write(path, sound.astype(np.float32), 16000)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate") / "data"
    for i in range(10):
        write_sound(root / "valve" / "00" / "normal" / f"{i}.wav", i, 0.0)
        write_sound(root / "valve" / "02" / "normal" / f"{i}.wav", 100 + i, 0.9)
    for i in range(4):
        # One anomaly is shorter than a segment.
        write_sound(root / "valve" / "00" / "anomaly" / f"{i}.wav", 200 + i, 0.4, SHORT if i == 3 else 16000 * 9)
    return root


def load(root: Path) -> MachineData:
    preset = load_preset("quick")
    return load_machine(
        root,
        "valve",
        cache_folder=root.parent / "cache",
        seed=0,
        holdout_fraction=preset.holdout_fraction,
        test_fraction=preset.test_fraction,
    )


def long_clip(data: MachineData) -> Clip:
    return next(clip for clip in data.split_for("00").test if clip.label == "normal")


@pytest.fixture(scope="module")
def data(root: Path) -> MachineData:
    return load(root)


@pytest.fixture(scope="module")
def trained(data: MachineData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainedModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    preset = load_preset("quick").changed(iterations=25, batch_normal=4, batch_outlier=4)
    folder = tmp_path_factory.mktemp("run") / "id_00"
    run = train_one(data, "00", preset, 0, folder, open_fabric("cpu"), report=no_progress, should_stop=lambda: False)
    yield load_trained_model(run)
    torch.set_num_threads(threads)


def test_the_figures_are_those_of_the_listed_clip_scores(trained: TrainedModel, data: MachineData) -> None:
    found = evaluate(trained, data, baseline=True)
    labels = [clip["label"] == "anomaly" for clip in found.clips]
    assert (found.normals, found.anomalies, found.tiled) == (2, 4, 1)
    assert set(found.figures) == {"deploy", "paper", "baseline"}
    for name, figures in found.figures.items():
        scores = [clip[name] for clip in found.clips]
        assert figures.auc == pytest.approx(roc_auc_score(labels, scores))
        assert figures.interval is not None
        assert 0.0 <= figures.interval[0] <= figures.auc <= figures.interval[1] <= 1.0
        assert figures.pauc == pytest.approx(roc_auc_score(labels, scores, max_fpr=0.1))
    assert found.notes == []
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["figures"]["deploy"]["pauc_0.1"] == found.figures["deploy"].pauc
    assert [clip["file"] for clip in plain["clips"]] == [c.path.name for c in data.split_for("00").test]


def test_a_baseline_that_cannot_be_fitted_is_a_remark(
    trained: TrainedModel, data: MachineData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_clip(_self: object, _clips: object) -> None:
        raise InputError("1 normal clips cannot give a covariance; train on 2 or more")

    monkeypatch.setattr(MahalanobisBaseline, "fit", one_clip)
    found = evaluate(trained, data, baseline=True)
    assert set(found.figures) == {"deploy", "paper"}
    assert found.notes == ["no baseline: 1 normal clips cannot give a covariance; train on 2 or more"]


def test_each_mode_says_which_constants_it_used(trained: TrainedModel, data: MachineData) -> None:
    found = evaluate(trained, data)
    outputs = collect(trained.scorer(UNFITTED), data, data.split_for("00").test)
    d = np.concatenate([one.d for one in outputs])
    paper, deploy = found.figures["paper"].facts, found.figures["deploy"].facts
    assert (paper["d_min"], paper["d_max"]) == pytest.approx((d.min(), d.max()))
    assert (paper["alpha"], paper["alpha_source"]) == (1.0, "Table I")
    fit = trained.deploy()
    assert (deploy["d_min"], deploy["d_max"]) == (fit.score.d_min, fit.score.d_max)
    assert deploy["alpha"] == 0.5
    assert fit.threshold is not None
    assert deploy["threshold"] == fit.threshold.clip


def test_clip_scores_are_equation_5_over_ten_sections(trained: TrainedModel, data: MachineData) -> None:
    found = evaluate(trained, data)
    fit = trained.deploy().score
    clip = long_clip(data)
    features = data.features(clip)
    step = (len(features) - 256) // 9
    segments = np.stack([features[i * step : i * step + 256] for i in range(10)])
    network = trained.network.eval()
    with torch.no_grad():
        logit, z = network(torch.from_numpy(segments)[:, None])
        q = torch.sigmoid(-logit.double()).numpy()
        d = torch.sum((z.double() - trained.centroid.double()) ** 2, dim=1).numpy()
    expected = np.mean(0.5 * q + 0.5 * (d - fit.d_min) / (fit.d_max - fit.d_min))
    listed = {one["file"]: one["deploy"] for one in found.clips if one["label"] == "normal"}
    assert listed[clip.path.name] == pytest.approx(float(expected), rel=1e-5)


def test_a_second_scorer_is_compared_pair_by_pair(trained: TrainedModel, data: MachineData) -> None:
    same = evaluate(trained, data, bundle=trained.scorer(trained.deploy().score)).figures["bundle"].facts
    assert (same["pairs"], same["pairs_in_another_order"], same["largest_score_difference"]) == (8, 0, 0.0)
    torch.manual_seed(4)
    other = replace(trained, centroid=torch.randn_like(trained.centroid) * 5)
    shifted = other.scorer(trained.deploy().score)
    facts = evaluate(trained, data, bundle=shifted).figures["bundle"].facts
    assert facts["largest_score_difference"] > 1e-3


def test_a_run_loads_to_the_network_that_was_trained(trained: TrainedModel) -> None:
    again = load_trained_model(trained.run)
    assert again.iteration == 25
    assert not again.network.training
    ours, theirs = trained.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(again.centroid, trained.centroid)


def test_held_out_clips_are_scored_by_the_final_network(trained: TrainedModel, data: MachineData) -> None:
    split = data.split_for("00")
    fresh = collect(trained.scorer(UNFITTED), data, split.holdout_normals)
    assert trained.result.held_out
    for one, two in zip(trained.result.normals, fresh, strict=True):
        np.testing.assert_allclose(one.d, two.d, rtol=1e-4)
        np.testing.assert_allclose(one.q, two.q, rtol=1e-4)


def test_one_kind_of_test_clip_leaves_the_auc_undefined(trained: TrainedModel, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "valve" / "00" / "anomaly")
    data = load(tmp_path / "data")
    found = evaluate(trained, data, live=True)
    deploy = found.figures["deploy"]
    assert (deploy.auc, deploy.interval, deploy.pauc) == (None, None, None)
    assert deploy.facts["undefined"] == "AUC undefined: 2 normal and 0 anomalous test clips"
    assert found.at_threshold is not None
    assert found.at_threshold["false_alarms"]["hours"] > 0
    json.dumps(found.to_json(), allow_nan=False)
    page = evaluation_report([(found, data)], {}, audio=True).decode()
    for words in ("At the shipped threshold", "hours behind it", "Normal clips with the highest scores", "audio/flac"):
        assert words in page
    assert "Anomalous clips" not in page
    assert page.count("<svg") == 1


def test_other_training_clips_than_those_trained_on_are_noted(
    trained: TrainedModel, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "data")
    write_sound(tmp_path / "data" / "valve" / "02" / "normal" / "new.wav", 999, 0.9)
    found = evaluate(trained, load(tmp_path / "data"))
    assert found.notes == ["the training clips in the data folder are not those the model was trained on"]


def test_no_test_clips_is_an_input_error(trained: TrainedModel, data: MachineData) -> None:
    splits = {"valve": {id: replace(split, test=[]) for id, split in data.splits["valve"].items()}}
    with pytest.raises(InputError, match="valve ID 00: 0 labelled test clips in .*; add some to judge by"):
        evaluate(trained, replace(data, splits=splits))


def test_a_model_that_does_not_separate_has_paper_figures(trained: TrainedModel, data: MachineData) -> None:
    far = [SegmentOutputs(c.q, c.d + 1000) for c in trained.result.normals]
    useless = replace(trained, result=replace(trained.result, normals=far))
    with pytest.raises(CheckFailed, match="does not separate"):
        useless.deploy()
    found = evaluate(useless, data)
    assert set(found.figures) == {"paper"}
    assert found.notes[0].startswith("no deploy mode: the model does not separate")


def test_given_normals_take_the_place_of_the_held_out_ones(trained: TrainedModel) -> None:
    given = [SegmentOutputs(c.q, c.d + 0.25) for c in trained.result.normals]
    fit = trained.deploy(given)
    assert fit.score.d_min == pytest.approx(trained.deploy().score.d_min + 0.25)
    assert "given normal" in fit.score.d_min_source
    assert "held-out outlier" in fit.score.d_max_source


def test_a_damaged_preset_in_a_run_is_an_input_error(trained: TrainedModel) -> None:
    run = replace(trained.run, facts={**trained.run.facts, "preset": {"name": "quick"}})
    with pytest.raises(InputError, match=r"run\.json: "):
        load_trained_model(run)


def test_the_torch_head_keeps_q_where_one_minus_p_is_zero() -> None:
    torch.manual_seed(0)
    network = build_network("quick")
    torch.nn.init.constant_(network.head.weight, 1 / 64)
    logits = np.array([-80.0, -17.0, 0.0, 17.0, 40.0, 80.0])
    z = np.repeat(logits[:, None], 64, axis=1).astype(np.float32)
    found = TorchHead(network, torch.zeros(64))(z)
    exact = 1.0 / (1.0 + np.exp(logits))
    np.testing.assert_allclose(found["q"], exact, rtol=2e-5)
    np.testing.assert_allclose(found["d"], 64 * logits**2, rtol=1e-6)
    np.testing.assert_allclose(found["p"], 1.0 / (1.0 + np.exp(-logits)), rtol=2e-5)


def test_the_torch_head_ranks_clips_with_one_minus_p_zero() -> None:
    network = build_network("quick")
    torch.nn.init.constant_(network.head.weight, 1 / 64)
    logits = np.linspace(18.0, 80.0, 200)
    found = TorchHead(network, torch.zeros(64))(np.repeat(logits[:, None], 64, axis=1).astype(np.float32))
    assert not np.any(1 - found["p"])
    assert np.all(np.diff(found["q"]) < 0)


def test_the_torch_scorer_is_the_runtime_clip_rule(trained: TrainedModel, data: MachineData) -> None:
    scorer = trained.scorer(trained.deploy().score)
    clip = long_clip(data)
    sound, _ = soundfile.read(clip.path, dtype="float32")
    scored = score_features(scorer, logmel(sound, scorer.features, scorer.amplitude))
    listed = {one["file"]: one["deploy"] for one in evaluate(trained, data).clips if one["label"] == "normal"}
    assert listed[clip.path.name] == pytest.approx(scored.score, rel=1e-9)
