"""From a folder of sounds to a bundle, with the commands a user types; interrupted, resumed and out of room."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from edgeasd.toolkit.demo.dataset import DatasetPlan, write_dataset

Edgeasd = Callable[..., Any]
ITERATIONS = 20
CHATTER = re.compile(r"edgeasd: (running the|writing ONNX|checking ONNX|training \w+ ID|fp32 on) ?")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeasd", *map(str, arguments)]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")}
    # One thread: sums in the same order wherever the test runs, and no spinning beside other tests.
    return kept | {"OMP_NUM_THREADS": "1"}


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def complaints(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("edgeasd: ") and not CHATTER.match(line)]


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(workspace: Path, machine: str = "valve", id: str = "00") -> bytes:
    (newest,) = (workspace / "runs" / machine / f"id_{id}" / "checkpoints").iterdir()
    return (newest / "model.safetensors").read_bytes()


def no_litter(folder: Path) -> None:
    assert [p for p in folder.rglob("*") if p.name.endswith(".tmp")] == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, from which every command starts."""
    home = tmp_path_factory.mktemp("home")
    plan = DatasetPlan(ids=("00", "02"), normals=10, anomalies=4, anomaly_ids={"valve": ("00",), "pump": ("00",)})
    write_dataset(home / "data", plan)
    return home


def train(
    *options: object, iterations: int = ITERATIONS, machine: str = "valve", id: str | None = "00"
) -> list[object]:
    which = [] if id is None else ["--id", id]
    words: list[object] = ["train", "--data", "data", "--machine", machine, *which, "--iterations", iterations]
    return [*words, "--accelerator", "cpu", "--cache", "cache", *options]


@pytest.fixture(scope="module")
def trained(home: Path, edgeasd: Edgeasd) -> Any:
    return edgeasd(*train(), cwd=home)


@pytest.fixture(scope="module")
def exported(home: Path, trained: Any, edgeasd: Edgeasd) -> dict[str, Any]:
    """The evaluation, then the bundle: what `export --zip --json` printed."""
    evaluated = edgeasd(
        *("evaluate", "--data", "data", "--machine", "valve", "--cache", "cache", "--baseline", "--json"), cwd=home
    )
    assert evaluated.code == 0, evaluated.said
    wanted = ("--precision", "fp32,fp16")
    done = edgeasd("export", "--machine", "valve", "--id", "00", "--zip", "--json", *wanted, cwd=home)
    assert done.code == 0, done.said
    return {"evaluation": json.loads(evaluated.out), "export": json.loads(done.out)}


def test_data_scan_counts_what_is_there(home: Path, edgeasd: Edgeasd) -> None:
    plain = edgeasd("data", "scan", "data", cwd=home)
    assert plain.code == 0
    assert "valve" in plain.out
    found = json.loads(edgeasd("data", "scan", "data", "--json", cwd=home).out)
    counts = {(one["machine"], one["id"]): sum(c["clips"] for c in one["counts"]) for one in found["ids"]}
    assert counts == {
        ("fan", "00"): 10,
        ("fan", "02"): 10,
        ("pump", "00"): 14,
        ("pump", "02"): 10,
        ("valve", "00"): 14,
        ("valve", "02"): 10,
    }
    assert found["damaged"] == []


def test_train_prints_the_run_and_leaves_a_whole_one(home: Path, trained: Any) -> None:
    assert trained.code == 0, trained.said
    assert trained.out == "runs/valve/id_00\n"
    assert f"{ITERATIONS} iterations on cpu" in trained.said
    run = home / "runs" / "valve" / "id_00"
    assert sorted(p.name for p in run.iterdir() if p.name != "evaluation.json") == [
        "checkpoints",
        "log",
        "outcome.npz",
        "run.json",
    ]
    assert [p.name for p in (run / "checkpoints").iterdir()] == [f"step-{ITERATIONS:06d}"]
    no_litter(home)


def test_evaluate_judges_by_deploy_paper_and_baseline(home: Path, exported: dict[str, Any], edgeasd: Edgeasd) -> None:
    (one,) = exported["evaluation"]["ids"]
    assert (one["machine"], one["id"], one["normals"], one["anomalies"]) == ("valve", "00", 2, 4)
    assert set(one["figures"]) == {"deploy", "paper", "baseline"}
    assert exported["evaluation"]["mean"]["deploy"]["auc"] == one["figures"]["deploy"]["auc"]
    table = edgeasd("evaluate", "--data", "data", "--machine", "valve", "--cache", "cache", cwd=home)
    assert table.code == 0, table.said
    assert "AUC % [95 % interval]" in table.out
    assert f"{100 * one['figures']['deploy']['auc']:.1f}" in table.out


def test_export_leaves_a_bundle_that_verifies_as_folder_and_zip(
    home: Path, exported: dict[str, Any], edgeasd: Edgeasd
) -> None:
    told = exported["export"]
    assert (told["bundle"], told["machine"], told["id"], told["status"]) == (
        "bundles/valve-id_00",
        "valve",
        "00",
        "calibrated",
    )
    assert told["segments_compared"] > 0
    assert told["deviation"]["z"] <= 1e-5
    assert sorted(p.name for p in (home / "bundles").iterdir()) == ["valve-id_00", "valve-id_00.zip"]
    for bundle in ("bundles/valve-id_00", "bundles/valve-id_00.zip"):
        done = edgeasd("verify", bundle, cwd=home)
        assert done.code == 0, done.said
        assert "every hash as listed" in done.out
    manifest = json.loads((home / "bundles" / "valve-id_00" / "manifest.json").read_text())
    assert manifest["metrics"]["figures"] == exported["evaluation"]["ids"][0]["figures"]
    assert str(home) not in (home / "bundles" / "valve-id_00" / "manifest.json").read_text()


def test_a_front_end_is_exported_with_its_deviation_on_clips(
    home: Path, exported: dict[str, Any], tmp_path: Path, edgeasd: Edgeasd
) -> None:
    wanted = ("--id", "00", "--output", tmp_path / "valve", "--front-end", "data/valve/00/normal")
    done = edgeasd("export", "--machine", "valve", *wanted, "--json", cwd=home)
    assert done.code == 0, done.said
    told = json.loads(done.out)["front_end"]
    assert told == json.loads((tmp_path / "valve" / "manifest.json").read_text())["front_end"]
    assert told["file"] == "frontend.onnx"
    assert 1 <= told["clips"] <= 10
    assert 0 < told["logmel"] < 1e-3
    assert edgeasd("verify", tmp_path / "valve", cwd=home).code == 0


def test_export_serves_what_it_has_just_written(home: Path, trained: Any, tmp_path: Path, edgeasd: Edgeasd) -> None:
    options = ("--machine", "valve", "--id", "00", "--output", tmp_path / "b", "--triton", tmp_path / "m", "--json")
    done = edgeasd("export", *options, cwd=home)
    assert done.code == 0, done.said
    bundle, model = map(json.loads, done.out.splitlines())
    assert bundle["bundle"] == str(tmp_path / "b")
    assert (model["repository"], model["name"], model["version"]) == (str(tmp_path / "m"), "valve-id_00", 1)
    assert (tmp_path / "m" / "valve-id_00__encoder" / "1" / "model.onnx").read_bytes() == (
        tmp_path / "b" / "encoder.fp32.onnx"
    ).read_bytes()


def test_fp16_is_chosen_by_name_and_said_to_be_in_use(home: Path, exported: dict[str, Any], edgeasd: Edgeasd) -> None:
    deviation = exported["export"]["deviation_of"]["fp16"]
    assert exported["export"]["deviation"]["z"] < deviation["z"] < 3e-2
    bundle, clips = "bundles/valve-id_00", home / "data" / "valve" / "00" / "normal"
    verified = edgeasd("verify", bundle, cwd=home).out
    assert "fp32 on onnxruntime" in verified
    assert re.search(r"fp16 on onnxruntime \S+ CPUExecutionProvider .*, graph not optimised: reference", verified)
    only = json.loads(edgeasd("verify", bundle, "--precision", "fp16", "--json", cwd=home).out)
    assert [one["precision"] for one in only["engines"]] == ["fp16"]
    scores = {}
    for precision in ("fp32", "fp16"):
        done = edgeasd("score", bundle, clips, "--precision", precision, "--json", cwd=home)
        assert done.code == 0, done.said
        scores[precision] = [json.loads(line)["score"] for line in done.out.splitlines()]
    assert scores["fp16"] != scores["fp32"]
    assert scores["fp16"] == pytest.approx(scores["fp32"], abs=1e-2)
    clip = sorted(clips.iterdir())[0]
    ran = edgeasd("run", "--input", clip, "--bundle", bundle, "--precision", "fp16", "--jsonl", "-", cwd=home)
    assert "; fp16 on onnxruntime" in ran.said
    assert json.loads(ran.out.splitlines()[0])["body"]["precision"] == "fp16"
    refused = edgeasd("verify", bundle, "--precision", "int8", cwd=home)
    assert (refused.code, complaints(refused.said)) == (
        2,
        ["edgeasd: --precision int8: valve-id_00 offers fp32, fp16; choose one of them"],
    )


def test_the_bundle_ranks_the_clips_as_the_checkpoint_does(
    home: Path, exported: dict[str, Any], edgeasd: Edgeasd
) -> None:
    done = edgeasd(
        *("evaluate", "--data", "data", "--machine", "valve", "--cache", "cache", "--json"),
        *("--bundle", "bundles/valve-id_00"),
        cwd=home,
    )
    assert done.code == 0, done.said
    (one,) = json.loads(done.out)["ids"]
    bundle = one["figures"]["bundle"]
    assert bundle["pairs"] == 8
    assert bundle["pairs_in_another_order"] == bundle["of_these_tied_within_1e-4"]
    assert bundle["largest_score_difference"] < 1e-4
    if not bundle["pairs_in_another_order"]:
        assert bundle["auc"] == one["figures"]["deploy"]["auc"]
    scored = edgeasd("score", "bundles/valve-id_00", "data/valve/00/anomaly", "--json", cwd=home)
    by_name = {Path(r["file"]).name: r["score"] for r in map(json.loads, scored.out.splitlines())}
    anomalies = [clip for clip in one["clips"] if clip["label"] == "anomaly"]
    assert len(anomalies) == 4
    for clip in anomalies:
        assert by_name[clip["file"]] == pytest.approx(clip["bundle"], rel=1e-6)
        assert by_name[clip["file"]] == pytest.approx(clip["deploy"], abs=1e-4)


def test_the_bundle_of_another_id_is_not_judged_as_this_one(
    home: Path, exported: dict[str, Any], edgeasd: Edgeasd
) -> None:
    other = Path(shutil.copytree(home / "bundles" / "valve-id_00", home / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["machine"]["id"] = "07"
    (other / "manifest.json").write_text(json.dumps(manifest))
    done = edgeasd(
        *("evaluate", "--data", "data", "--machine", "valve", "--cache", "cache", "--bundle", "other"), cwd=home
    )
    shutil.rmtree(other)
    assert done.code == 2
    assert complaints(done.said) == [
        "edgeasd: --bundle other: is of valve ID 07, valve ID 00 is evaluated; name its own bundle"
    ]


def test_an_existing_run_is_not_overwritten_unasked(home: Path, exported: dict[str, Any], edgeasd: Edgeasd) -> None:
    before = weights(home)
    refused = edgeasd(*train(), cwd=home)
    assert refused.code == 2
    (line,) = complaints(refused.said)
    assert f"runs/valve/id_00: holds a run ({ITERATIONS} of {ITERATIONS} iterations); pass --resume" in line
    changed = edgeasd(*train("--resume", "--seed", 1), cwd=home)
    assert changed.code == 2
    assert "started with another" in complaints(changed.said)[0]
    assert weights(home) == before
    resumed = edgeasd(*train("--resume"), cwd=home)
    assert resumed.code == 0, resumed.said
    assert weights(home) == before


def test_a_resumed_training_equals_an_uninterrupted_one(
    home: Path, trained: Any, tmp_path: Path, edgeasd: Edgeasd
) -> None:
    process = start(*train("--workspace", tmp_path), cwd=home)
    wait_for((tmp_path / "runs" / "valve" / "id_00" / "run.json").is_file, process)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), said
    assert "Traceback" not in said
    (line,) = complaints(said)
    stopped = int(line.split("stopped at iteration ")[1].split(" ")[0])
    assert 1 <= stopped < ITERATIONS
    assert "go on with the same command and --resume" in line
    checkpoints = tmp_path / "runs" / "valve" / "id_00" / "checkpoints"
    assert [p.name for p in checkpoints.iterdir()] == [f"step-{stopped:06d}"]
    early = edgeasd("export", "--machine", "valve", "--workspace", tmp_path, cwd=home)
    assert early.code == 2
    assert "training has not finished; continue it with `edgeasd train --resume`" in complaints(early.said)[0]
    done = edgeasd(*train("--workspace", tmp_path, "--resume"), cwd=home)
    assert done.code == 0, done.said
    newest = checkpoints / f"step-{ITERATIONS:06d}" / "model.safetensors"
    assert newest.read_bytes() == weights(home)
    no_litter(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_export_leaves_nothing(home: Path, exported: dict[str, Any], number: signal.Signals) -> None:
    process = start("export", "--machine", "valve", "--output", "interrupted/bundle", cwd=home)
    assert process.stderr is not None
    line = process.stderr.readline()
    while line and "writing ONNX" not in line:
        line = process.stderr.readline()
    assert line
    time.sleep(0.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143), said
    assert "Traceback" not in said
    assert len(complaints(said)) == (1 if number == signal.SIGINT else 0)
    assert not (home / "interrupted" / "bundle").exists()
    no_litter(home)


def test_two_jobs_train_two_ids_at_once(home: Path, trained: Any, edgeasd: Edgeasd) -> None:
    done = edgeasd(*train("--jobs", 2, iterations=2, machine="pump", id=None), cwd=home)
    assert done.code == 0, done.said
    assert {line.split("]")[0] for line in done.said.splitlines() if line.startswith("[")} == {"[00", "[02"}
    for id in ("00", "02"):
        run = home / "runs" / "pump" / f"id_{id}"
        assert (run / "outcome.npz").is_file()
        assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-000002"]


def test_ctrl_c_stops_all_jobs_with_a_checkpoint_each(home: Path, tmp_path: Path) -> None:
    process = start(*train("--jobs", 2, "--workspace", tmp_path, iterations=400, machine="fan", id=None), cwd=home)
    runs = [tmp_path / "runs" / "fan" / f"id_{id}" for id in ("00", "02")]
    wait_for(lambda: all((run / "run.json").is_file() for run in runs), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to every process in its foreground
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert len(complaints(said)) == 1
    assert [len(list((run / "checkpoints").iterdir())) for run in runs] == [1, 1]
    no_litter(tmp_path)


def test_a_model_with_nothing_held_out_is_calibrated_by_clips(home: Path, tmp_path: Path, edgeasd: Edgeasd) -> None:
    words = train("--preset", "paper", "--backbone", "quick", "--workspace", tmp_path, iterations=6)
    done = edgeasd(*words, cwd=home)
    assert done.code == 0, done.said
    assert "0 held out" in done.said
    export = ["export", "--machine", "valve", "--workspace", tmp_path]
    first = edgeasd(*export, cwd=home)
    assert first.code == 0, first.said
    assert "uncalibrated: nothing was held out, so no alarms; export again with --clips" in first.out
    bundle = tmp_path / "bundles" / "valve-id_00"
    clips = Path(shutil.copytree(home / "data" / "valve" / "00" / "normal", tmp_path / "clips"))
    second = edgeasd(*export, "--clips", clips, cwd=home)
    assert second.code == 0, second.said
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["status"], manifest["threshold"]["clips"]) == ("calibrated", 10)
    assert manifest["threshold"]["found_by"].startswith("exponential tail of given live scores: ")
    level = manifest["level"]
    assert level["low_dbfs"] < level["heard_low_dbfs"] - 9 < level["heard_high_dbfs"] - 8 < level["high_dbfs"]
    assert "of 10 clips" in level["found_by"]
    scored = edgeasd("score", bundle, clips, "--json", cwd=home)
    scores = [json.loads(line)["score"] for line in scored.out.splitlines()]
    assert max(scores) < manifest["threshold"]["clip"]


def test_export_refuses_what_it_cannot_do(
    home: Path, exported: dict[str, Any], tmp_path: Path, edgeasd: Edgeasd
) -> None:
    soundfile.write(tmp_path / "a.wav", [0.0] * 16000, 16000)
    (home / "mine").mkdir(exist_ok=True)
    for options, expected in (
        (["--precision", "int3"], "--precision int3: export makes fp32, fp16, int8, int8-cpu; ask for some"),
        (["--precision", "fp32,int8"], "--precision int8: valve ID 00, held out: 1 normal clip is too few"),
        (["--precision", "int8-cpu", "--clips", "data/valve/00/normal"], "normal: 10 normal clips are too few"),
        (["--output", "mine"], "mine: is there and is not a bundle; move it away or choose another --output"),
        (["--clips", "nowhere"], "--clips nowhere: not a folder"),
        (["--triton", "data"], "data: holds something else than our models"),
        (["--clips", tmp_path], "a.wav: "),
        (["--front-end", "nowhere"], "--front-end nowhere: not a folder"),
        (["--front-end", tmp_path], "a.wav: 16000 samples, a segment takes 131584"),
    ):
        done = edgeasd("export", "--machine", "valve", *options, cwd=home)
        assert done.code == 2, done.said
        (line,) = complaints(done.said)
        assert expected in line
        assert "Traceback" not in done.said
    no_litter(home)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for less than a checkpoint or a bundle."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_training_and_export_without_litter(
    home: Path, exported: dict[str, Any], small_disk: Path, edgeasd: Edgeasd
) -> None:
    exporting = edgeasd("export", "--machine", "valve", "--output", small_disk / "bundle", cwd=home)
    training = edgeasd(*train("--workspace", small_disk, iterations=1), cwd=home)
    for done in (exporting, training):
        assert done.code == 2, done.said
        assert "Traceback" not in done.said
        (line,) = complaints(done.said)
        assert "No space left on device" in line
    assert not (small_disk / "bundle").exists()
    assert list((small_disk / "runs").rglob("step-*")) == []
    no_litter(small_disk)


@pytest.mark.usefixtures("exported")
def test_export_keeps_a_calibration_that_still_holds(home: Path, edgeasd: Edgeasd, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    shutil.copytree(home / "runs", workspace / "runs")
    export = ("export", "--machine", "valve", "--id", "00", "--workspace", workspace)
    assert edgeasd(*export, cwd=home).code == 0
    bundle = workspace / "bundles" / "valve-id_00"
    report = bundle.with_name("valve-id_00.calibration.html")
    clips = home / "data" / "valve" / "00" / "normal"
    limits = ("--min-rank-correlation", 0, "--max-score-change", 100, "--max-flipped", 1)
    calibrated = edgeasd(
        *("calibrate", "--machine", "valve", "--clips", clips, "--precision", "none", "--false-positive-rate", 0.2),
        *("--workspace", workspace, "--force", *limits),
        cwd=home,
    )
    assert calibrated.code == 0, calibrated.said
    before = json.loads((bundle / "manifest.json").read_text())
    again = edgeasd(*export, cwd=home)
    assert again.code == 0, again.said
    after = json.loads((bundle / "manifest.json").read_text())
    assert after["threshold"] == before["threshold"]
    assert after["provenance"]["calibration"] == before["provenance"]["calibration"]
    assert "kept from its calibration: threshold" in again.said
    assert f"threshold {before['threshold']['clip']:.4f}" in again.out
    assert edgeasd("verify", bundle, cwd=home).code == 0
    assert report.is_file()

    given = edgeasd(*export, "--clips", clips, cwd=home)
    assert "not kept from its calibration: constants and threshold: clips were given" in given.said
    assert not report.exists()
    assert report.with_name("valve-id_00.calibration.old.html").is_file()
    assert json.loads((bundle / "manifest.json").read_text())["threshold"] != before["threshold"]


@pytest.mark.usefixtures("exported")
def test_export_of_other_weights_names_what_is_lost(home: Path, edgeasd: Edgeasd, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    shutil.copytree(home / "runs", workspace / "runs")
    export = ("export", "--machine", "valve", "--id", "00", "--workspace", workspace)
    assert edgeasd(*export, cwd=home).code == 0
    manifest = workspace / "bundles" / "valve-id_00" / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["provenance"]["calibration"] = {"clips": 40}
    encoder = changed["files"]["encoder.fp32.onnx"]
    encoder["sha256"] = "0" * 64
    manifest.write_text(json.dumps(changed))
    said = edgeasd(*export, cwd=home).said
    assert "not kept from its calibration: threshold: the weights are others than those it was found with" in said
    assert edgeasd(*export, "--discard-calibration", cwd=home).said.count("kept") == 0
