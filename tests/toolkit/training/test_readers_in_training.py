"""Published data in the commands: the channel of a run, labels published later, clips of 6 to 18 s, copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.cli.export import _provenance, _score_clips
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.evaluation.evaluate import evaluate
from edgeasd.toolkit.evaluation.trained import load_trained_model
from edgeasd.toolkit.presets import load_preset
from edgeasd.toolkit.progress import no_progress
from edgeasd.toolkit.runs import Run, load_run
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.session import train_one

SECONDS = (6, 8, 10, 12, 18)
"""Lengths of DCASE clips; the first two are shorter than a segment."""
PRESET = load_preset("quick").changed(iterations=2, batch_normal=2, batch_outlier=2)


def write(path: Path, seed: int, colour: float, seconds: float, channels: int = 1) -> None:
    """Noise through a one-tap filter, louder in each channel; `colour` sets machines and faults apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal((int(16000 * seconds) + 1, channels))
    sound = 0.02 * (noise[1:] + colour * noise[:-1]) * np.arange(1, channels + 1)
    soundfile.write(path, sound, 16000)


def load(root: Path, machine: str, channel: int | None = None) -> MachineData:
    return load_machine(
        root,
        machine,
        cache_folder=root.parent / "cache",
        seed=0,
        holdout_fraction=PRESET.holdout_fraction,
        test_fraction=PRESET.test_fraction,
        channel=channel,
    )


def train(data: MachineData, id: str, folder: Path, *, resume: bool = False) -> Run:
    fabric = open_fabric("cpu")
    return train_one(data, id, PRESET, 0, folder, fabric, resume=resume, report=no_progress, should_stop=lambda: False)


def test_clips_of_six_to_eighteen_seconds_train_and_are_judged(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for id, colour in (("00", 0.0), ("01", 0.9)):
        for i, seconds in enumerate(SECONDS):
            write(root / f"fan/train/section_{id}_source_train_normal_{i:04}_noAttribute.wav", 10 * i, colour, seconds)
    for i, seconds in enumerate(SECONDS):
        for label, colour in (("normal", 0.0), ("anomaly", 0.5)):
            path = root / f"fan/test/section_00_source_test_{label}_{i:04}_noAttribute.wav"
            write(path, 10 * i + (5 if label == "normal" else 6), colour, seconds)
    data = load(root, "fan")
    run = train(data, "00", tmp_path / "run")
    assert {len(data.features(clip)) < 256 for clip in data.split_for("00").normals} == {True, False}
    found = evaluate(load_trained_model(run), data)
    assert (found.normals, found.anomalies) == (5, 5)
    assert found.tiled == 4
    assert all(np.isfinite(clip["paper"]) for clip in found.clips)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MIMII as it unpacks, eight channels, and runs/fan/id_00 trained on channel 5."""
    home = tmp_path_factory.mktemp("home")
    for k, id in enumerate(("id_00", "id_02")):
        for i in range(6):
            write(home / f"data/6_dB_fan/fan/{id}/normal/{i:08}.wav", 100 * k + i, 0.9 * k, 8.5, channels=8)
        for i in range(2):
            write(home / f"data/6_dB_fan/fan/{id}/abnormal/{i:08}.wav", 100 * k + 50 + i, 0.5, 8.5, channels=8)
    train(load(home / "data", "fan", channel=5), "00", home / "runs/fan/id_00")
    return home


def test_a_run_remembers_its_channel_and_resumes_on_no_other(home: Path) -> None:
    folder = home / "runs/fan/id_00"
    assert json.loads((folder / "run.json").read_text("utf-8"))["channel"] == 5
    assert load_run(folder).channel == 5
    with pytest.raises(InputError, match=r"another channel \(5, now 2\)"):
        train(load(home / "data", "fan", channel=2), "00", folder, resume=True)


@pytest.mark.parametrize("value", [-1, "5", True, 1.5])
def test_a_channel_that_is_none_is_refused_with_its_file(home: Path, tmp_path: Path, value: object) -> None:
    shutil.copytree(home / "runs/fan/id_00", tmp_path / "run")
    path = tmp_path / "run/run.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "channel": value}))
    with pytest.raises(InputError, match=r"run\.json: channel.*train again"):
        load_run(tmp_path / "run")


def test_evaluate_takes_the_channel_of_the_run(home: Path, edgeasd: Callable[..., Any]) -> None:
    refused = edgeasd("train", "--data", "data", "--machine", "fan", "--workspace", "new", cwd=home)
    assert refused.code == 2
    assert "8 channels, a model hears one; choose it with --channel 0 to 7" in refused.said
    assert not (home / "new/runs").exists()
    same = edgeasd("evaluate", "--data", "data", "--machine", "fan", "--json", cwd=home)
    assert same.code == 0, same.said
    assert json.loads(same.out)["ids"][0]["notes"] == []
    other = edgeasd("evaluate", "--data", "data", "--machine", "fan", "--channel", "0", "--json", cwd=home)
    (note, *rest) = json.loads(other.out)["ids"][0]["notes"]
    assert note == "the clips were read from channel 0, the model was trained on channel 5"
    assert rest == []
    assert json.loads(other.out)["ids"][0]["clips"] != json.loads(same.out)["ids"][0]["clips"]


def test_evaluate_takes_labels_published_later_and_names_copies(tmp_path: Path, edgeasd: Callable[..., Any]) -> None:
    root = tmp_path / "data"
    for id, colour in (("01", 0.0), ("03", 0.9)):
        for i in range(4):
            write(root / f"eval_data/fan/train/normal_id_{id}_{i:08}.wav", int(id) * 100 + i, colour, 8.5)
            write(root / f"eval_data/fan/test/id_{id}_{i:08}.wav", int(id) * 100 + 50 + i, colour + 0.3 * (i % 2), 8.5)
    shutil.copy(root / "eval_data/fan/test/id_01_00000002.wav", root / "eval_data/fan/train/normal_id_01_00000009.wav")
    train(load(root, "fan"), "01", tmp_path / "runs/fan/id_01")
    words = ("evaluate", "--data", "data", "--machine", "fan", "--json")
    without = edgeasd(*words, cwd=tmp_path)
    labels = tmp_path / "labels"
    labels.mkdir()
    rows = [f"id_{id}_{i:08}.wav,{i % 2}" for id in ("01", "03") for i in (3, 1, 0, 2)]
    for id in ("01", "03"):
        text = "\n".join(row for row in rows if row.startswith(f"id_{id}"))
        (labels / f"ground_truth_fan_id_{id}_test.csv").write_text(text)
    given = edgeasd(*words, "--ground-truth", "labels", cwd=tmp_path)
    assert given.code == 0, given.said
    assert "edgeasd: 1 training clips are copies of test clips and are not trained on: " in given.said
    (one,) = json.loads(given.out)["ids"]
    found = {clip["file"]: clip["label"] for clip in one["clips"]}
    assert found == {f"id_01_{i:08}.wav": "anomaly" if i % 2 else "normal" for i in range(4)}
    assert without.code == 2
    assert "0 labelled test clips in data; add some to judge by, or label 4 that are there with" in without.said
    (labels / "ground_truth_fan_id_03_test.csv").unlink()
    partial = edgeasd(*words, "--ground-truth", "labels", cwd=tmp_path)
    assert partial.code == 2
    assert "4 test clips without a label: id_03_00000000.wav, " in partial.said


def test_an_update_and_an_export_hear_the_channel_of_the_run(home: Path, edgeasd: Callable[..., Any]) -> None:
    words = ("finetune", "--data", "data", "--machine", "fan", "--id", "00", "--iterations", 1, "--accelerator", "cpu")
    faults = home / "data/6_dB_fan/fan/id_00/abnormal"
    done = edgeasd(*words, "--anomalies", faults, "--count", 1, cwd=home)
    assert done.code == 0, done.said
    assert load_run(home / "runs/fan/id_00/updates/n001-s0").channel == 5
    trained = load_trained_model(load_run(home / "runs/fan/id_00"))
    assert _provenance(trained)["channel"] == 5
    own, same, other = (_score_clips(trained, faults, channel)[0] for channel in (None, 5, 0))
    np.testing.assert_array_equal(own[0].d, same[0].d)
    assert not np.array_equal(own[0].d, other[0].d)
