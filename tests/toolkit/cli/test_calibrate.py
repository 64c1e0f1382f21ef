"""`edgeasd calibrate`: what goes into a bundle, what does not, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnx")

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import BundleError, CheckFailed, DeviceError, InputError
from edgeasd.runtime.health import HealthMonitor, HealthSettings
from edgeasd.runtime.health.settings import level_range
from edgeasd.runtime.service.stream import live_records
from edgeasd.toolkit.cli.calibrate import calibrate
from edgeasd.toolkit.demo.machines import render

RATE, SECONDS, CLIPS = 16_000, 10.0, 40
METHODS = "minmax"
LOOSE = 0.98
"""Least rank correlation where a test is about something else: 24 clips of one machine differ by little."""
HOSTILE = "<img src=x onerror=alert(1)>\u202e.flac"


def write(path: Path, sound: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, format=path.suffix[1:].upper(), subtype="PCM_16")
    return path


def valve(seed: int, fault: str | None = None, seconds: float = SECONDS) -> np.ndarray:
    return render("valve", "00", seconds=seconds, seed=50_001 + seed, fault=fault)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clips` of the valve the small bundle listens to, one with an odd name and one copy; `faults` of it."""
    home = tmp_path_factory.mktemp("calibrate")
    for seed in range(CLIPS):
        name = HOSTILE if seed == 0 else f"day{seed % 2}/{seed:03d}.flac"
        write(home / "clips" / name, valve(seed))
    shutil.copy(home / "clips" / "day1" / "001.flac", home / "clips" / "copy.flac")
    for seed in range(3):
        write(home / "faults" / f"{seed}.flac", valve(100 + seed, "leak"))
    return home


@pytest.fixture
def workspace(tmp_path: Path, small_bundle: Path) -> Path:
    """A workspace with a bundle of its own."""
    shutil.copytree(small_bundle, tmp_path / "bundles" / "valve-id_00")
    return tmp_path


def bundle_of(workspace: Path) -> Path:
    return workspace / "bundles" / "valve-id_00"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def manifest_of(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle_of(workspace) / "manifest.json").read_text("utf-8"))
    return found


def run(home: Path, workspace: Path, **options: Any) -> None:
    """In this process; features come from one cache for all tests."""
    given = {"clips": home / "clips", "machine": "valve", "cache": home / "cache", "range_methods": METHODS}
    calibrate(workspace=workspace, **{**given, "min_rank_correlation": LOOSE, **options})


def words(home: Path, workspace: Path, *more: object) -> list[str]:
    fixed = ["calibrate", "--machine", "valve", "--clips", home / "clips", "--cache", home / "cache"]
    fixed += ["--anomalies", home / "faults", "--range-methods", METHODS, "--workspace", workspace]
    fixed += ["--min-rank-correlation", LOOSE]
    return [sys.executable, "-m", "edgeasd", *map(str, [*fixed, *more])]


@pytest.fixture(scope="module")
def calibrated(home: Path, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after one run with everything; read-only."""
    workspace = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(small_bundle, bundle_of(workspace))
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        run(home, workspace, anomalies=home / "faults", as_json=True)
    (workspace / "out.json").write_text(out.getvalue(), "utf-8")
    (workspace / "said.txt").write_text(said.getvalue(), "utf-8")
    return workspace


# What goes in


def test_every_variant_is_in_the_bundle_with_what_was_measured(calibrated: Path) -> None:
    manifest = manifest_of(calibrated)
    assert list(manifest["precisions"]) == ["fp32", "fp16", "int8", "int8-cpu"]
    for name in ("int8", "int8-cpu"):
        offer = manifest["precisions"][name]
        assert offer["file"] == f"encoder.{name}.onnx"
        assert offer["drift"]["rank_correlation"] >= LOOSE
        assert offer["range_method"] == METHODS
        assert offer["kept_layers"] == []
        assert "recalibrate" not in offer
    assert manifest["threshold"] == json.loads((Path(__file__).parents[2] / "data/valve-id_00/manifest.json").read_text())["threshold"]  # fmt: skip
    assert manifest["provenance"]["calibration"]["clips"] == CLIPS


def test_the_other_commands_use_it(edgeasd: Callable[..., Any], calibrated: Path, home: Path) -> None:
    assert edgeasd("verify", bundle_of(calibrated), cwd=calibrated).code == 0
    clip = home / "clips" / "day1" / "003.flac"
    done = edgeasd("score", bundle_of(calibrated), clip, "--precision", "int8-cpu", "--json", cwd=calibrated)
    assert done.code == 0, done.said
    assert "int8-cpu" in done.said
    record = json.loads((bundle_of(calibrated) / "calibration.json").read_text("utf-8"))["calibration"]
    pairs = record["variants"]["int8-cpu"]["drift"]["pairs"]
    drift = [one["name"] for one in record["clips"] if "drift" in one["roles"]]
    if "day1/003.flac" in drift:
        assert json.loads(done.out)["score"] == pytest.approx(pairs[drift.index("day1/003.flac")][1], abs=1e-6)
    command = ("run", "--bundle", bundle_of(calibrated), "--input", clip, "--precision", "int8-cpu")
    ran = edgeasd(*command, cwd=calibrated)
    assert ran.code == 0, ran.said


def test_the_record_names_each_clip_once_with_its_role(calibrated: Path) -> None:
    record = json.loads((bundle_of(calibrated) / "calibration.json").read_text("utf-8"))
    assert len(record["normal_clip_scores"]) == 7, "what export wrote stays"
    clips = record["calibration"]["clips"]
    split = [clip["roles"] for clip in clips]
    assert split.count(["anomaly"]) == 3
    assert split.count(["ranges"]) + split.count(["drift"]) == CLIPS, "a copy counts once, and no clip has both roles"
    assert split.count(["drift"]) == 24
    assert record["calibration"]["segments"] == 128
    assert len({clip["sha256"] for clip in clips}) == len(clips)
    for name, variant in record["calibration"]["variants"].items():
        assert len(variant["drift"]["pairs"]) == split.count(["drift"]) + 3, name
        assert variant["noise"], name
    assert "seconds" not in json.dumps(record), "what it took is different each time and stays out of the bundle"


def test_the_result_for_programs_says_what_it_took(calibrated: Path) -> None:
    out = json.loads((calibrated / "out.json").read_text("utf-8"))
    assert out["written"]
    assert out["threshold"]["way"] == "kept"
    assert set(out["costs"]) == {"fp16", "int8", "int8-cpu"}
    for cost in out["costs"].values():
        assert cost["seconds"] > 0
        assert 5e7 < cost["peak_bytes"] < 4e9
    said = (calibrated / "said.txt").read_text("utf-8")
    assert "1 file is a copy of another clip" in said


@pytest.mark.slow
def test_calibrating_again_changes_nothing(calibrated: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_of(calibrated), bundle_of(tmp_path))
    run(home, tmp_path, anomalies=home / "faults")
    assert contents(bundle_of(tmp_path)) == contents(bundle_of(calibrated))


def test_an_interrupted_calibration_goes_on_to_the_same_bytes(calibrated: Path, home: Path, workspace: Path) -> None:
    before = contents(bundle_of(workspace))
    process = subprocess.Popen(words(home, workspace), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((workspace / "cache" / "calibrate").glob("*/gate-int8.json")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with the same command and --resume" in said
    assert contents(bundle_of(workspace)) == before
    (state,) = (workspace / "cache" / "calibrate").iterdir()
    kept = state / "ranges.npz"
    stamp = kept.stat().st_mtime_ns
    fp32 = next(state.glob("fp32-*/*.npz")).stat().st_mtime_ns
    assert stamp > fp32
    run(home, workspace, anomalies=home / "faults", resume=True)
    assert contents(bundle_of(workspace)) == contents(bundle_of(calibrated)), "as a run without interruption"
    assert not list((workspace / "cache" / "calibrate").iterdir()), "the state is deleted at the end"


# What does not go in


def test_a_variant_beyond_its_limits_is_not_put_in(home: Path, workspace: Path) -> None:
    before = contents(bundle_of(workspace))
    with pytest.raises(CheckFailed, match=r"not put into the bundle.* int8-cpu: rank correlation 0\.9"):
        run(home, workspace, precision="int8-cpu", min_rank_correlation=1.0, budget=0)
    assert contents(bundle_of(workspace)) == before
    report = (workspace / "bundles" / "valve-id_00.calibration.html").read_text("utf-8")
    assert "FAILED" in report


def test_the_good_ones_are_put_in_beside_a_bad_one(home: Path, workspace: Path, capsys: Any) -> None:
    with pytest.raises(CheckFailed, match="int8-cpu: a normal clip's score changes"):
        run(home, workspace, precision="fp16,int8-cpu", max_score_change=0.04, budget=0)
    assert list(manifest_of(workspace)["precisions"]) == ["fp32", "fp16"]
    assert not (bundle_of(workspace) / "encoder.int8-cpu.onnx").exists()
    out = capsys.readouterr().out
    assert "fp16                       in the bundle" in out
    assert "NOT in the bundle" in out


def test_the_runtime_refuses_a_variant_that_no_longer_passes(calibrated: Path, home: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_of(calibrated), bundle_of(tmp_path))
    with pytest.raises(CheckFailed):
        run(home, tmp_path, precision="int8-cpu", max_score_change=0.0, budget=0)
    with Bundle(bundle_of(tmp_path)) as bundle:
        with pytest.raises(BundleError, match="calibrated again .failed the drift gate"):
            bundle.open_scorer(precision="int8-cpu")
        bundle.verify_files()


# Thresholds and re-fits


def quick(home: Path, workspace: Path, **options: Any) -> dict[str, Any]:
    run(home, workspace, **{"precision": "none", **options})
    return manifest_of(workspace)


def test_a_threshold_by_rate_changes_no_graph(home: Path, workspace: Path, capsys: Any) -> None:
    before = contents(bundle_of(workspace))
    manifest = quick(home, workspace, false_positive_rate=0.1)
    after = contents(bundle_of(workspace))
    assert [name for name in before if before[name] != after[name]] == ["calibration.json", "manifest.json"]
    threshold = manifest["threshold"]
    assert threshold["clips"] == CLIPS
    assert len(threshold["sources"]) == CLIPS
    assert threshold["promise"]["expected"] <= 0.1
    assert manifest["provenance"]["refits"][-1]["replaced"]["threshold"]["clip"] != threshold["clip"]
    out = capsys.readouterr().out
    assert "of single normal clips above it (95 % from" in out
    assert f"of the {CLIPS} given normal clips lie above it" in out


@pytest.mark.parametrize(
    ("change", "changed", "kept"),
    [
        ({"false_positive_rate": 0.1}, "threshold", "fp16, int8, int8-cpu"),
        ({"refit_distance": True}, "d_min and d_max", "fp16, int8, int8-cpu"),
        ({"refit_amplitude": True}, "level", "fp16"),
    ],
)
def test_drift_that_was_judged_under_what_has_changed_is_named(
    calibrated: Path, home: Path, tmp_path: Path, capsys: Any, change: dict[str, Any], changed: str, kept: str
) -> None:
    shutil.copytree(bundle_of(calibrated), bundle_of(tmp_path))
    quick(home, tmp_path, **change)
    said = capsys.readouterr().err
    assert f"warning: the drift of {kept} was measured with another {changed}" in said
    assert f"--precision {kept.replace(' ', '')} " in said


def test_alarms_a_day_use_the_live_rule_of_recordings(home: Path, workspace: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / "long" / f"{seed}.flac", valve(200 + seed, seconds=61))
    threshold = quick(home, workspace, clips=tmp_path / "long", alarms_per_day=4000.0)["threshold"]
    assert threshold["promise"]["kind"] == "alarms_per_day"
    assert threshold["hours"] == pytest.approx(2 * 51 / 3600, rel=0.05), "complete live scores only"


def test_clips_of_one_folder_are_heard_as_one_recording(home: Path, workspace: Path) -> None:
    """As `record` makes them: of 10 s each, from which no alarm could come by itself."""
    threshold = quick(home, workspace, alarms_per_day=4000.0)["threshold"]
    assert threshold["hours"] == pytest.approx(CLIPS * SECONDS / 3600, rel=0.1)
    assert (threshold["clips"], len(threshold["sources"])) == (CLIPS, CLIPS)


def test_a_refit_of_the_distance_sets_a_new_threshold(
    home: Path, workspace: Path, capsys: Any, edgeasd: Callable[..., Any]
) -> None:
    before = manifest_of(workspace)
    manifest = quick(home, workspace, refit_distance=True)
    assert manifest["score"]["d_min_source"].endswith("given normal segments")
    assert manifest["score"]["d_max"] == before["score"]["d_max"]
    assert manifest["threshold"]["found_by"].startswith("exponential tail of given live scores: ")
    assert "d_min" in capsys.readouterr().out
    assert edgeasd("verify", bundle_of(workspace), cwd=workspace).code == 0


def test_a_refit_of_the_amplitude_makes_int8_stale(
    calibrated: Path, home: Path, tmp_path: Path, edgeasd: Callable[..., Any]
) -> None:
    shutil.copytree(bundle_of(calibrated), bundle_of(tmp_path))
    run(home, tmp_path, precision="int8-cpu", refit_amplitude=True)
    manifest = manifest_of(tmp_path)
    assert manifest["precisions"]["int8"]["recalibrate"]
    assert "recalibrate" not in manifest["precisions"]["int8-cpu"]
    assert manifest["amplitude"]["std"] != manifest_of(calibrated)["amplitude"]["std"]
    assert edgeasd("verify", bundle_of(tmp_path), cwd=tmp_path).code == 0


def test_a_bundle_without_a_threshold_gets_one_with_headroom(home: Path, workspace: Path, capsys: Any) -> None:
    path = bundle_of(workspace) / "manifest.json"
    bare = manifest_of(workspace) | {"threshold": None, "status": "uncalibrated"}
    path.write_text(json.dumps(bare), "utf-8")
    with pytest.raises(InputError, match="--keep-threshold: the bundle has none"):
        quick(home, workspace, keep_threshold=True)
    manifest = quick(home, workspace)
    assert manifest["status"] == "calibrated"
    assert manifest["threshold"]["found_by"].startswith("exponential tail of given live scores: ")
    assert f"0 of the {CLIPS} given normal clips lie above it" in capsys.readouterr().out
    assert alarms_of(bundle_of(workspace), [valve(300 + seed) for seed in range(6)]) == 0
    leak = render("valve", "00", seconds=20, seed=7, fault="leak", fault_snr_db=0.0)
    assert alarms_of(bundle_of(workspace), [valve(300), leak]) == 1


def alarms_of(path: Path, clips: list[np.ndarray]) -> int:
    """Alarms that clips raise one after another, by the rule of the bundle."""
    with Bundle(path) as bundle:
        scorer, _ = bundle.open_scorer(engine="onnxruntime")
        records = list(live_records(scorer, bundle.manifest, np.concatenate(clips)))
        scorer.close()
    return sum(record["kind"] == "event" and record["body"]["state"] == "alarm" for record in records)


def test_nothing_asked_for_is_the_level_only_and_then_nothing(home: Path, workspace: Path, capsys: Any) -> None:
    before = contents(bundle_of(workspace))
    quick(home, workspace)
    after = contents(bundle_of(workspace))
    assert {name for name in after if after[name] != before[name]} == {"manifest.json", "calibration.json"}
    old, new = (json.loads(found["manifest.json"]) for found in (before, after))
    assert "level" not in old
    assert {name for name in new if new[name] != old.get(name)} == {"level", "sound", "provenance", "files"}
    assert capsys.readouterr().out.count("dBFS expected") == 1
    quick(home, workspace)
    assert contents(bundle_of(workspace)) == after
    assert "the bundle is as it was" in capsys.readouterr().out
    # A device that reads this bundle finds nothing odd about the clips it came from.
    with Bundle(bundle_of(workspace)) as bundle:
        manifest = bundle.manifest
    monitor = HealthMonitor(HealthSettings(), RATE, level_range(HealthSettings(), manifest.amplitude, manifest.level))
    assert monitor.level == manifest.level
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((home / "clips").rglob("*.flac"))]
    assert not [change for clip in clips for change in monitor.push(clip) if change.state.startswith("level")]


def test_a_level_that_was_set_by_hand_stays(home: Path, workspace: Path, capsys: Any) -> None:
    path = bundle_of(workspace) / "manifest.json"
    by_hand = {**json.loads(path.read_text("utf-8")), "level": {"low_dbfs": -80.0, "high_dbfs": -1.0}}
    path.write_text(json.dumps(by_hand), "utf-8")
    quick(home, workspace)
    assert "set by hand and stays" in capsys.readouterr().err
    assert json.loads(path.read_text("utf-8"))["level"]["low_dbfs"] == -80.0


# Bad clips, each with its own line


def folder_of(tmp_path: Path, home: Path, count: int) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    for path in sorted((home / "clips").rglob("*.flac"))[:count]:
        shutil.copy(path, folder / path.name)
    return folder


def test_no_clips(home: Path, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    with pytest.raises(InputError, match="given: 0 clips; calibration needs normal sound"):
        run(home, workspace, clips=tmp_path / "given")
    with pytest.raises(InputError, match="not a folder"):
        run(home, workspace, clips=tmp_path / "missing")


def test_three_clips(home: Path, workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^3 normal clips are too few .* 16 for ranges .* 24 others to measure drift"):
        run(home, workspace, clips=folder_of(tmp_path, home, 3))


def test_another_rate_and_silence_are_named(home: Path, workspace: Path, tmp_path: Path) -> None:
    clips = folder_of(tmp_path, home, CLIPS + 1)
    write(clips / "fast.wav", valve(0), 44_100)
    write(clips / "dead.wav", np.zeros(round(SECONDS * RATE)))
    write(clips / "offset.wav", np.full(round(SECONDS * RATE), 0.25))
    write(clips / "short.wav", valve(0)[: 4 * RATE])
    with pytest.raises(InputError) as refused:
        run(home, workspace, clips=clips)
    said = str(refused.value)
    assert "fast.wav: 44100 Hz, the model hears 16000 Hz; convert the file to that rate" in said
    assert "dead.wav: silence" in said
    assert "offset.wav: silence" in said
    assert "short.wav: 4.00 s, one segment takes 8.224 s" in said
    assert "\n" not in said


def test_silence_alone(home: Path, workspace: Path, tmp_path: Path) -> None:
    for number in range(CLIPS):
        write(tmp_path / "given" / f"{number}.wav", np.zeros(round(SECONDS * RATE) + number))
    with pytest.raises(InputError, match="silence, every frame is the same"):
        run(home, workspace, clips=tmp_path / "given")


def test_another_machine_is_named_and_needs_force(home: Path, workspace: Path, tmp_path: Path, capsys: Any) -> None:
    for seed in range(CLIPS):
        write(tmp_path / "given" / f"pump{seed:02d}.flac", render("pump", "00", seconds=SECONDS, seed=seed))
    before = contents(bundle_of(workspace))
    with pytest.raises(InputError, match=r"evidently of another machine.*40 of 40 .*pump00.flac.*--force"):
        run(home, workspace, clips=tmp_path / "given")
    assert contents(bundle_of(workspace)) == before
    quick(home, workspace, clips=tmp_path / "given", force=True, false_positive_rate=0.1)
    assert "warning: 40 of 40 clips score outside" in capsys.readouterr().err


def test_one_odd_clip_is_a_warning(home: Path, workspace: Path, tmp_path: Path, capsys: Any) -> None:
    clips = folder_of(tmp_path, home, CLIPS)
    write(clips / "pump.flac", render("pump", "00", seconds=SECONDS, seed=1))
    quick(home, workspace, clips=clips, false_positive_rate=0.1)
    assert "warning: 1 of 40 clips score outside" in capsys.readouterr().err


def test_a_clip_under_two_labels(home: Path, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"# known\n{home / 'clips' / 'day1' / '001.flac'}\n")
    with pytest.raises(InputError, match="the same recording under two labels"):
        run(home, workspace, anomalies=tmp_path / "list.txt")


# Wrong use


def test_wrong_use_is_refused_before_any_work(home: Path, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle_of(workspace), workspace / "bundles" / "valve-id_02")
    packed = shutil.make_archive(str(tmp_path / "valve"), "zip", bundle_of(workspace))
    for options, message in (
        ({}, r"2 bundles of valve \(valve-id_00, valve-id_02\).*name it with --id"),
        ({"id": "07"}, "no such bundle"),
        ({"machine": "fan"}, "0 bundles of fan"),
        ({"machine": "fan", "bundle": bundle_of(workspace)}, "is of valve ID 00, not of fan"),
        ({"id": "02"}, "is of valve ID 00, not of valve ID 02"),
        ({"bundle": Path(packed)}, "is a zip.*unpack it into a folder"),
        ({"precision": "int4"}, "--precision int4: calibrate makes fp16, int8, int8-cpu"),
        ({"range_methods": "best"}, "--range-methods best: unknown"),
        ({"alarms_per_day": 1.0, "keep_threshold": True}, "a bundle has one threshold"),
        ({"keep_threshold": True, "refit_distance": True}, "changes the scale of the score"),
        ({"max_flipped": -1.0}, "flipped share -1.0: give 0 or more"),
        ({"id": "00", "report": tmp_path}, "is a folder; name a file in it"),
        ({"id": "00", "anomalies": tmp_path / "none"}, "no such folder or list"),
    ):
        with pytest.raises(InputError, match=message):
            run(home, workspace, **options)


def test_without_onnx_it_says_where_to_calibrate(home: Path, workspace: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DeviceError, match=r"pip install 'edgeasd\[export\]'"):
        run(home, workspace)


# The report


class Elements(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.said = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.fixture(scope="module")
def report(calibrated: Path) -> Path:
    return calibrated / "bundles" / "valve-id_00.calibration.html"


def test_the_report_holds_what_it_shows(report: Path) -> None:
    page = Elements(report.read_text("utf-8"))
    addresses = [a[key] for _, a in page.found for key in ("src", "href") if key in a]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not any(key.startswith("on") for _, a in page.found for key in a)
    assert sum(name == "script" for name, _ in page.found) == 0
    assert sum(name == "svg" for name, _ in page.found) == 2 + 3 * 4
    for said in ("rank correlation", "Signal-to-noise", "Threshold", "layers in higher precision", "int8-cpu"):
        assert said in page.said
    assert "<img src=x onerror=alert(1)>" in page.said, "the odd file name is text"
    assert "\u202e" not in report.read_text("utf-8")


def test_a_browser_opens_it_without_a_complaint(
    report: Path, opened: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    done = opened(report)
    assert done.stdout.count("<svg") == 14
    assert "CONSOLE" not in done.stderr
