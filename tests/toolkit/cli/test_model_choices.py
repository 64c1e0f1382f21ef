"""Presets, --set, α, comparisons and seeds as a user types them, on a small tree with a test split of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")


CLIPS = 4
BASE = ("--data", "data", "--machine", "gear", "--cache", "cache")
SMALL = ("--set", "batch_normal=2", "--set", "batch_outlier=2", "--set", "holdout_fraction=0.4")
RUN = "runs/gear/id_00"


def write(path: Path, seed: int, colour: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).standard_normal(16_000 * 9 + 1)
    soundfile.write(path, (0.05 * (noise[1:] + colour * noise[:-1])).astype(np.float32), 16_000)


Edgeasd = Callable[..., Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`: sections 00 and 01 of the machine gear."""
    home = tmp_path_factory.mktemp("choices")
    for k, colour in enumerate((0.0, 0.9)):
        for i in range(6):
            write(home / f"data/gear/train/section_{k:02}_source_train_normal_{i:04}.wav", 1000 * k + i, colour)
        for i in range(CLIPS):
            for j, (label, shade) in enumerate((("normal", 0.0), ("anomaly", 0.02 + 0.2 * (i % 2)))):
                path = home / f"data/gear/test/section_{k:02}_source_test_{label}_{i:04}.wav"
                write(path, 1000 * k + 100 * (j + 1) + i, colour + shade)
    return home


@pytest.fixture
def home(data: Path, edgeasd: Edgeasd) -> Path:
    """The same with the workspaces `zero` and `one`, in which section 00 is trained and judged with two seeds."""
    for seed, workspace in enumerate(("zero", "one")):
        if not (data / workspace / RUN / "evaluation.json").is_file():
            words = (*BASE, "--id", "00", "--workspace", workspace)
            fixed = ("--accelerator", "cpu", "--iterations", 6, "--seed", seed, *SMALL)
            assert edgeasd("train", *words, *fixed, "--lam", 0.5, cwd=data).code == 0
            assert edgeasd("evaluate", *words, cwd=data).code == 0
    return data


@pytest.fixture
def own(home: Path) -> Iterator[Path]:
    """`home` with a workspace `own` that a test may change: a copy of `zero`."""
    shutil.copytree(home / "zero", home / "own")
    yield home
    shutil.rmtree(home / "own")


def listed(home: Path, *names: str) -> Path:
    path = home / "validation.txt"
    path.write_text("".join(f"gear/{name}.wav\n" for name in ("# of the data root", *names))[len("gear/") :])
    return path


def judging(*clips: tuple[str, int], section: str = "00") -> list[str]:
    return [f"test/section_{section}_source_test_{label}_{i:04}" for label, i in clips]


BOTH = (("normal", 0), ("normal", 1), ("anomaly", 0), ("anomaly", 1))


# Presets


def test_every_field_of_a_preset_is_printed_with_its_meaning(tmp_path: Path, edgeasd: Edgeasd) -> None:
    shown = edgeasd("preset", "show", "paper", cwd=tmp_path)
    assert shown.code == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.out.split("\n\n")[0].splitlines()[1:]}
    plain = json.loads(edgeasd("preset", "show", "paper", "--json", cwd=tmp_path).out)
    assert set(rows) == set(plain["fields"])
    assert rows["learning_rate"] == ["0.0001", "Learning rate of the encoder (Adam), at the start."]
    assert rows["finetune.batch_outlier"][0] == "31"
    assert all(len(one["meaning"]) > 15 and one["meaning"] != "None" for one in plain["fields"].values())
    assert plain["table_1_alpha"]["bce+ddcsad"]["pump"] == 1.0
    assert "ToyConveyor" in shown.out
    assert (
        edgeasd("preset", "list", "--json", cwd=tmp_path).out
        == '["paper", "quick", "medium", "classify", "knn", "pretrained", "pretrained-tuned", "pretrained-classify"]\n'
    )
    unknown = edgeasd("preset", "show", "fast", cwd=tmp_path)
    known = "paper, quick, medium, classify, knn, pretrained, pretrained-tuned, pretrained-classify"
    assert (unknown.code, unknown.lines) == (2, [f"edgeasd: --preset fast: unknown; use one of {known}"])


def test_what_was_set_is_stated_and_stored_with_the_run(home: Path, edgeasd: Edgeasd) -> None:
    preset = json.loads((home / "zero" / RUN / "run.json").read_text())["preset"]
    assert (preset["lam"], preset["batch_normal"], preset["iterations"]) == (0.5, 2, 6)
    words = (*BASE, "--id", "00", "--workspace", "stated", "--accelerator", "cpu", "--iterations", 1, *SMALL)
    told = edgeasd("train", *words, "--eta", 3, "--set", "estimate_norms_first=false", cwd=home)
    assert told.code == 0, told.said
    assert "eta = 3.0" in told.said
    assert "estimate_norms_first = False" in told.said
    again = edgeasd("train", *words, "--eta", 4, "--set", "estimate_norms_first=false", "--resume", cwd=home)
    assert again.code == 2
    assert "eta 3.0, now 4.0" in again.said


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("nope=1", "unknown field 'nope'; use one of anomalies_in_centroid, backbone, bank_neighbours, "),
        ("lam", "--set lam: expected FIELD=VALUE, such as lam=0.5"),
        ("lam=", "--set lam=: expected FIELD=VALUE"),
        ("lam=much", "lam = 'much': Input should be a valid number"),
        ("lam=nan", "lam = 'nan': Input should be a finite number"),
        ("eta=-1", "eta = '-1': Input should be greater than 0"),
        ("finetune.iterations=0", "finetune.iterations = '0': Input should be greater than or equal to 1"),
        ("iterations=7", "iterations is given twice, the other time by an option of its own"),
        ("batch_anomaly=1", "batch_anomaly stays as it is: training knows no anomalies"),
        ("name=mine", "name stays as it is"),
        ("method=triplet", "--loss triplet: unknown"),
        ("backbone=vgg", "--backbone vgg: unknown"),
        ("segment_frames=8", "segment_frames = 8: too few for the backbone quick"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(data: Path, edgeasd: Edgeasd, option: str, expected: str) -> None:
    done = edgeasd("train", *BASE, "--iterations", 1, "--workspace", "refused", "--set", option, cwd=data)
    assert done.code == 2
    (line,) = done.lines
    assert expected in line
    assert not (data / "refused").exists()


def test_an_update_takes_settings_but_keeps_its_network(home: Path, edgeasd: Edgeasd) -> None:
    faults = listed(home, *judging(("anomaly", 0)))
    faults.write_text(faults.read_text().replace("gear/", "data/gear/"))
    words = ("finetune", *BASE, "--id", "00", "--workspace", "zero", "--anomalies", faults, "--accelerator", "cpu")
    for option, expected in (
        ("backbone=resnet38", "backbone stays as it is: an update begins with the network and the split"),
        ("finetune.iterations=3", "finetune.iterations stays as it is: this is an update; set iterations"),
        ("batch_anomaly=0", "batch_anomaly=0: an update has known anomalies in every batch"),
    ):
        done = edgeasd(*words, "--set", option, cwd=home)
        assert done.code == 2
        assert expected in done.lines[0]
    settings = ("--set", "iterations=1", "--set", "batch_outlier=1", "--set", "eta=5", "--seed", 3)
    done = edgeasd(*words, *settings, cwd=home)
    assert done.code == 0, done.said
    update = home / "zero" / RUN / "updates" / "n001-s3"
    preset = json.loads((update / "run.json").read_text())["preset"]
    assert (preset["iterations"], preset["eta"], preset["lam"], preset["batch_anomaly"]) == (1, 5.0, 0.5, 1)
    shutil.rmtree(update)


# A loss that is no number


def test_a_nan_loss_stops_and_names_iteration_and_checkpoint(home: Path, edgeasd: Edgeasd) -> None:
    words = ("train", *BASE, "--id", "00", "--workspace", "nan", "--accelerator", "cpu", *SMALL)
    rates = ("--set", "learning_rate=1e30", "--set", "head_learning_rate=1e30", "--set", "checkpoint_every=1")
    early = edgeasd(*words, *rates, "--iterations", 9, cwd=home)
    assert early.code == 1
    assert "iteration 1: the loss is nan" in early.lines[-1]
    # A checkpoint was written after the step that ruined the weights; it must not pass for a good one.
    assert "it came before the first checkpoint" in early.lines[-1]
    assert list((home / "nan" / RUN / "checkpoints").iterdir()) == []
    last = edgeasd(*words, *rates, "--iterations", 1, "--overwrite", cwd=home)
    assert last.code == 1
    assert "iteration 1: the trained network gives logits or distances that are not finite" in last.lines[-1]
    assert not (home / "nan" / RUN / "outcome.npz").exists()


def test_the_checkpoint_before_failed_weights_is_kept(
    home: Path, edgeasd: Edgeasd, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeasd.toolkit.training import trainer

    real, calls = trainer.method_loss, iter(range(99))

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        parts = real(*args, **kwargs)
        return replace(parts, total=parts.total * float("nan")) if next(calls) == 4 else parts

    monkeypatch.setattr(trainer, "method_loss", poisoned)
    words = ("train", *BASE, "--id", "00", "--workspace", "kept", "--accelerator", "cpu", *SMALL)
    done = edgeasd(*words, "--set", "checkpoint_every=2", "--iterations", 6, cwd=home)
    assert done.code == 1
    assert "iteration 4: the loss is nan" in done.lines[-1]
    assert "the checkpoint step-000002 is good and stands; train anew with --overwrite" in done.lines[-1]
    assert [path.name for path in (home / "kept" / RUN / "checkpoints").iterdir()] == ["step-000002"]


# α


def test_alpha_is_chosen_on_clips_that_then_no_longer_judge(own: Path, edgeasd: Edgeasd) -> None:
    words = (*BASE, "--id", "00", "--workspace", "own")
    done = edgeasd("alpha", *words, "--clips", listed(own, *judging(*BOTH)), "--json", cwd=own)
    assert done.code == 0, done.said
    assert "2 validation clips of a kind: a choice from fewer than 10 is little more than chance" in done.said
    told = json.loads(done.out)
    assert told["alpha_source"] == "chosen on 2 normal and 2 anomalous validation clips"
    assert told["aucs"][told["alphas"].index(told["alpha"])] == max(told["aucs"])
    judged = edgeasd("evaluate", *words, "--json", cwd=own)
    (one,) = json.loads(judged.out)["ids"]
    names = {clip["file"] for clip in one["clips"]}
    assert (one["normals"], one["anomalies"]) == (CLIPS - 2, CLIPS - 2)
    assert names.isdisjoint(f"{Path(name).name}.wav" for name in judging(*BOTH))
    assert one["figures"]["deploy"]["alpha"] == told["alpha"]
    assert one["figures"]["deploy"]["alpha_source"] == told["alpha_source"]
    assert one["figures"]["paper"]["alpha_source"] == "0.5: Table I has no gear"
    # A finished training that is resumed keeps its weights, and so its α.
    resumed = edgeasd(
        "train", *words, "--accelerator", "cpu", "--iterations", 6, *SMALL, "--lam", 0.5, "--resume", cwd=own
    )
    assert resumed.code == 0, resumed.said
    assert "none of them is in the test" in edgeasd("evaluate", *words, cwd=own).out


def test_the_bundle_scores_with_the_chosen_or_given_alpha(own: Path, edgeasd: Edgeasd) -> None:
    pytest.importorskip("onnxscript")
    path = own / "own" / RUN / "alpha.json"
    folder = own / "validation"
    for label in ("normal", "anomaly"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in (0, 1):
            name = f"section_00_source_test_{label}_{i:04}.wav"
            shutil.copy(own / "data/gear/test" / name, folder / label / f"renamed-{i}.wav")
    assert edgeasd("alpha", *BASE, "--id", "00", "--workspace", "own", "--clips", folder, cwd=own).code == 0
    chosen = json.loads(path.read_text())
    path.write_text(json.dumps({**chosen, "alpha": 0.15}))
    done = edgeasd("export", "--machine", "gear", "--workspace", "own", cwd=own)
    assert done.code == 0, done.said
    manifest = json.loads((own / "own/bundles/gear-id_00/manifest.json").read_text())
    assert manifest["score"]["alpha"] == 0.15
    assert manifest["score"]["alpha_source"] == "chosen on 2 normal and 2 anomalous validation clips"
    assert "judged with α 0.5, the bundle scores with 0.15; its figures are left out" in done.said
    assert manifest["metrics"] == {}
    judged = edgeasd("evaluate", *BASE, "--id", "00", "--workspace", "own", "--alpha", 0.25, "--json", cwd=own)
    figures = json.loads(judged.out)["ids"][0]["figures"]
    assert {(one["alpha"], one["alpha_source"]) for one in figures.values()} == {(0.25, "given by the user")}
    path.write_text(json.dumps({**chosen, "outcome": "0" * 64}))
    old = edgeasd("export", "--machine", "gear", "--workspace", "own", cwd=own)
    assert old.code == 2
    assert "was chosen for an earlier training of this folder; choose again with `edgeasd alpha`" in old.lines[0]
    path.write_text('{"format": 1, "alpha": 7}')
    damaged = edgeasd("export", "--machine", "gear", "--workspace", "own", cwd=own)
    assert (damaged.code, "alpha.json: alpha: Input should be less" in damaged.lines[0]) == (2, True)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
def test_an_alpha_outside_zero_to_one_is_refused(home: Path, edgeasd: Edgeasd, value: str) -> None:
    for words in (("export", "--machine", "gear"), ("evaluate", *BASE)):
        done = edgeasd(*words, "--workspace", "zero", "--alpha", value, cwd=home)
        assert done.code == 2
        assert done.lines == [
            f"edgeasd: --alpha {value}: outside 0 to 1; 0 is the distance alone, 1 the classifier alone"
        ]


def test_a_method_without_a_choice_of_alpha_says_so(home: Path, edgeasd: Edgeasd) -> None:
    words = (*BASE, "--id", "00", "--workspace", "fixed")
    fixed = ("--accelerator", "cpu", "--iterations", 2, "--loss", "bce", *SMALL)
    assert edgeasd("train", *words, *fixed, cwd=home).code == 0
    why = "gear ID 00 was trained with bce, whose α is always 1; only bce+dsad and bce+ddcsad leave a choice"
    for who, command in (
        ("edgeasd alpha", ("alpha", *words, "--clips", listed(home, *judging(*BOTH)))),
        ("--alpha", ("evaluate", *words, "--alpha", 0.5)),
    ):
        done = edgeasd(*command, cwd=home)
        assert (done.code, done.lines) == (2, [f"edgeasd: {who}: {why}"])


def test_validation_clips_that_cannot_choose_are_refused(own: Path, edgeasd: Edgeasd, tmp_path: Path) -> None:
    (tmp_path / "one" / "normal").mkdir(parents=True)
    wrong = tmp_path / "wrong"
    for label in ("normal", "anomaly"):
        (wrong / label).mkdir(parents=True)
        shutil.copy(own / "data/gear/test/section_00_source_test_normal_0000.wav", wrong / label / "a.wav")
    cases: list[tuple[object, str]] = [
        ("nowhere", "--clips nowhere: not a folder or a list of paths"),
        (tmp_path / "one", "has no folder anomaly/; name a folder with normal/ and anomaly/"),
        (wrong, "anomaly/a.wav: is anomaly here and normal in data; remove the wrong one"),
        ([*judging(("normal", 0))], "0 anomaly clips of 1; α is chosen on both kinds"),
        ([*judging(*BOTH), "test/none"], "none.wav: cannot be read (No such file or directory)"),
        ([*judging(*BOTH), *judging(*BOTH, section="01")], "is of gear ID 01, α is chosen for ID 00; leave it out"),
    ]
    for clips, expected in cases:
        source = listed(own, *clips) if isinstance(clips, list) else clips
        done = edgeasd("alpha", *BASE, "--id", "00", "--workspace", "own", "--clips", source, cwd=own)
        assert done.code == 2
        assert expected in done.lines[-1], done.said
    for section, use in (("00", "a training normal"), ("01", "an outlier in training")):
        folder = tmp_path / f"train-{section}"
        (folder / "normal").mkdir(parents=True)
        for path in (own / "data/gear/train").glob(f"section_{section}_*"):
            shutil.copy(path, folder / "normal")
        (folder / "anomaly").mkdir()
        shutil.copy(own / f"data/gear/{judging(('anomaly', 0))[0]}.wav", folder / "anomaly")
        done = edgeasd("alpha", *BASE, "--id", "00", "--workspace", "own", "--clips", folder, cwd=own)
        assert done.code == 2
        assert f"the same recording is {use}; α is chosen on clips the model has not seen" in done.lines[-1]


# Comparisons


def test_two_models_are_compared_on_the_same_clips_in_words(home: Path, edgeasd: Edgeasd) -> None:
    first, second = f"zero/{RUN}", f"one/{RUN}/evaluation.json"
    found = json.loads(edgeasd("compare", first, second, "--json", cwd=home).out)
    assert (found["normals"], found["anomalies"], found["test"]) == (CLIPS, CLIPS, "DeLong")
    assert found["difference"] == pytest.approx(found["auc_a"] - found["auc_b"])
    text = edgeasd("compare", first, second, cwd=home).out
    assert found["verdict"] == text.splitlines()[-1]
    same = edgeasd("compare", first, first, cwd=home)
    assert same.out.splitlines()[-1] == "no difference: both have the same AUC on these clips"


def test_the_verdict_follows_the_test(home: Path, edgeasd: Edgeasd, tmp_path: Path) -> None:
    stored = json.loads((home / "zero" / RUN / "evaluation.json").read_text())
    labels = ["normal", "anomaly"] * 30

    def evaluation(name: str, gap: float, seed: int) -> Path:
        noise = np.random.default_rng(seed).standard_normal(60)
        clips = [
            {
                "file": f"{i}.wav",
                "path": f"{i}.wav",
                "label": label,
                "deploy": gap * (label == "anomaly") + noise[i],
            }
            for i, label in enumerate(labels)
        ]
        figures = {"deploy": stored["figures"]["deploy"]}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**stored, "clips": clips, "figures": figures}))
        return path

    good, poor, alike = evaluation("good", 3, 1), evaluation("poor", 0.1, 1), evaluation("alike", 0.1, 2)
    verdicts = [edgeasd("compare", a, b, cwd=home).out for a, b in ((good, poor), (poor, good), (poor, alike))]
    assert [text.splitlines()[-1].split(":")[0] for text in verdicts] == [
        "a is better on these clips",
        "b is better on these clips",
        "the clips cannot tell which is better",
    ]


def test_seeds_give_mean_and_spread(home: Path, edgeasd: Edgeasd) -> None:
    (row,) = json.loads(edgeasd("seeds", "zero", f"one/{RUN}", "--json", cwd=home).out)
    assert (row["machine"], row["id"], row["seeds"]) == ("gear", "00", [0, 1])
    aucs = [json.loads(Path(home, file).read_text())["figures"]["deploy"]["auc"] for file in row["files"]]
    spread = row["figures"]["deploy"]["auc"]
    assert spread["mean"] == pytest.approx(np.mean(aucs))
    assert spread["std"] == pytest.approx(np.std(aucs, ddof=1))
    text = edgeasd("seeds", "zero", "one", cwd=home).out
    assert "gear ID 00: 2 seeds (0, 1)" in text


def test_comparisons_that_mix_causes_are_refused(own: Path, edgeasd: Edgeasd, tmp_path: Path) -> None:
    def changed(**facts: object) -> None:
        path = own / "own" / RUN / "run.json"
        path.write_text(json.dumps({**json.loads((own / "zero" / RUN / "run.json").read_text()), **facts}))

    def refused(*words: object) -> str:
        done = edgeasd(*words, cwd=own)
        assert done.code == 2
        (line,) = done.lines
        return line

    assert "gear ID 00 with seed 0 twice; name each seed once" in refused("seeds", "zero", "own")
    preset = json.loads((own / "zero" / RUN / "run.json").read_text())["preset"]
    changed(seed=7, preset={**preset, "lam": 2.0})
    assert "with another preset (lam 0.5 and 2.0); a spread over seeds needs" in refused("seeds", "zero", "own")
    changed(seed=7, started="later")
    assert "is of an earlier training of this folder; run `edgeasd evaluate` again" in refused("seeds", "zero", "own")
    changed(seed=7)
    evaluation = own / "own" / RUN / "evaluation.json"
    stored = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps({**stored, "clips": stored["clips"][1:]}))
    line = refused("seeds", "zero", "own")
    assert "own/runs/gear/id_00/evaluation.json has other test clips than zero/runs/gear/id_00/evaluation.json" in line
    assert "is not judged alike in both evaluations" in refused("compare", f"zero/{RUN}", f"own/{RUN}")
    assert "not scored by 'bundle' (it has deploy, paper)" in refused(
        "compare", f"zero/{RUN}", f"one/{RUN}", "--scoring", "bundle"
    )
    assert "no evaluation here; make it with `edgeasd evaluate`" in refused("compare", "no.json", "no.json")
    assert "no training run here" in refused("compare", "data", "data")
    alone = Path(shutil.copy(evaluation, tmp_path / "evaluation.json"))
    assert "has no run.json beside it, so its seed is unknown" in refused("seeds", alone)
    for text, expected in (
        ("[]", "Input should be a valid dictionary"),
        ("{", "cannot be read"),
        (json.dumps({**stored, "figures": {"deploy": {"auc": 2}}}), "figures.deploy.auc"),
        (json.dumps({**stored, "clips": [{"file": "a", "label": "normal"}]}), "clips.0: score deploy is None"),
    ):
        evaluation.write_text(text)
        assert expected in refused("compare", f"own/{RUN}", f"zero/{RUN}")


# Test sets with which nothing can be said


@pytest.mark.parametrize("missing", ["normal", "anomaly"])
def test_one_kind_of_test_clip_is_undefined_and_not_zero(
    own: Path, edgeasd: Edgeasd, missing: str, tmp_path: Path
) -> None:
    shutil.copytree(own / "data", tmp_path / "data")
    for path in (tmp_path / "data/gear/test").glob(f"section_00_*_{missing}_*"):
        path.unlink()
    words = ("evaluate", "--data", tmp_path / "data", "--machine", "gear", "--cache", "cache", "--workspace", "own")
    done = edgeasd(*words, "--report", tmp_path / "report.html", cwd=own)
    assert done.code == 0, done.said
    counts = (CLIPS, 0) if missing == "anomaly" else (0, CLIPS)
    assert f"AUC undefined: {counts[0]} normal and {counts[1]} anomalous test clips" in done.out
    assert "AUC undefined" in (tmp_path / "report.html").read_text()
    found = json.loads(edgeasd(*words, "--json", cwd=own).out)
    assert found["ids"][0]["figures"]["deploy"]["auc"] is None
    assert found["mean"] == {}
    assert "AUC undefined in every way of scoring" in edgeasd("seeds", "own", cwd=own).out


def test_unlabelled_tests_and_copies_across_the_split_are_named(own: Path, edgeasd: Edgeasd, tmp_path: Path) -> None:
    shutil.copytree(own / "data", tmp_path / "data")
    tests = tmp_path / "data/gear/test"
    shutil.copy(
        tests / "section_00_source_test_normal_0000.wav",
        tmp_path / "data/gear/train/section_00_source_train_normal_0099.wav",
    )
    words = ("--data", tmp_path / "data", "--machine", "gear", "--cache", "cache", "--id", "00")
    copied = edgeasd("train", *words, "--iterations", 1, "--workspace", tmp_path, *SMALL, cwd=own)
    assert copied.code == 0
    assert "1 training clips are copies of test clips and are not trained on: " in copied.said
    assert "train_normal_0099.wav = " in copied.said
    for i, path in enumerate(sorted(tests.glob("section_00_*"))):
        path.rename(tests / f"section_00_{i:04}.wav")
    unlabelled = edgeasd("evaluate", *words, "--workspace", "own", cwd=own)
    assert unlabelled.code == 2
    assert f"0 labelled test clips in {tmp_path}/data; add some to judge by, or label {2 * CLIPS}" in unlabelled.said
