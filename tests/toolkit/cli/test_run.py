"""`edgeasd run` as a process: the same scores from every source, and an orderly end whatever ends it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.core

RATE = 16000
FRAMES_HOP = 512
Record = dict[str, Any]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeasd", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")} | more


def edgeasd(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=120, env=environment(**more)
    )


def records(text: str) -> list[Record]:
    """Bodies, with the kind, machine and ID of their records."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [{"kind": one["kind"], "machine": one["machine"], "id": one["id"], **one["body"]} for one in lines]


def scores(found: list[Record]) -> list[Record]:
    return [one for one in found if one["kind"] == "segment"]


def assert_same_scores(ours: list[Record], theirs: list[Record]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            if isinstance(value, float):
                assert value == pytest.approx(two[name], rel=1e-6), name
            else:
                assert value == two[name], name


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """12.34 s of int16: clicks over noise, so that scores differ from segment to segment."""
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(int(12.34 * RATE)) * 600
    for at in range(0, len(sound), 7000):
        sound[at : at + 300] += rng.standard_normal(len(sound[at : at + 300])) * 6000
    return sound.clip(-32768, 32767).astype("<i2")


@pytest.fixture(scope="module")
def sound(samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def offline(sound: Path, small_bundle: Path) -> list[Record]:
    """What `score --live` says of the same samples."""
    done = edgeasd("score", small_bundle, sound, "--live", cwd=sound.parent)
    assert done.returncode == 0, done.stderr
    return scores(records(done.stdout))


def test_a_file_gives_the_live_scores_between_a_start_and_an_end(
    sound: Path, small_bundle: Path, offline: list[Record], samples: np.ndarray
) -> None:
    done = edgeasd("run", "--bundle", small_bundle, "--input", sound, "--jsonl", "-", cwd=sound.parent)
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert [found[0]["kind"], found[-1]["kind"]] == ["start", "stop"]
    assert_same_scores(scores(found), offline)
    start, end = found[0], found[-1]
    assert (start["machine"], start["id"], start["precision"], start["accelerator"]) == ("valve", "00", "fp32", "cpu")
    assert start["engine"].startswith("onnxruntime ")
    assert (end["reason"], end["samples"], end["dropped_samples"], end["overruns"]) == (
        "end of sound",
        len(samples),
        0,
        0,
    )
    assert end["seconds"] == pytest.approx(len(samples) / RATE, abs=1e-6)
    frames = 1 + (len(samples) - 1024) // FRAMES_HOP
    assert len(offline) == 1 + (frames - 256) // 6
    assert [r["start_sample"] for r in offline] == [6 * FRAMES_HOP * i for i in range(len(offline))]
    introduction, *alarms = done.stderr.splitlines()
    assert introduction.startswith("edgeasd: valve: valve ID 00 from")
    assert all("ALARM" in line for line in alarms)


@pytest.mark.parametrize("chunk", [1999, 65537])
def test_raw_pcm_in_odd_chunks_gives_the_same_scores(
    sound: Path, small_bundle: Path, offline: list[Record], samples: np.ndarray, chunk: int
) -> None:
    data = samples.tobytes()
    process = subprocess.Popen(
        command("run", "--bundle", small_bundle, "--input", "-", "--jsonl", "-"),
        cwd=sound.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for at in range(0, len(data), chunk):
        process.stdin.write(data[at : at + chunk])
        process.stdin.flush()
    process.stdin.close()
    found = records(process.stdout.read().decode())
    process.stdout.close()
    assert process.wait(60) == 0
    assert_same_scores(scores(found), offline)
    assert found[-1]["samples"] == len(samples)


def _load_helper(repository: Path) -> ModuleType:
    path = repository / "tests" / "runtime" / "sources" / "alsa_file_pcm.py"
    spec = importlib.util.spec_from_file_location("alsa_file_pcm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("device", ["hw:1", "plughw:1,0"])
def test_a_sound_device_gives_the_same_scores(
    small_bundle: Path,
    offline: list[Record],
    samples: np.ndarray,
    repository: Path,
    tmp_path: Path,
    device: str,
) -> None:
    helper = _load_helper(repository)
    if not shutil.which("arecord") or not helper.STOCK.exists():
        pytest.skip("arecord or the stock ALSA configuration is not installed here")
    raw = tmp_path / "sound.raw"
    raw.write_bytes(samples.tobytes())
    done = edgeasd(
        *("run", "--device", device, "--bundle", small_bundle, "--jsonl", "-"),
        *("--pace", "block", "--duration", len(samples) / RATE),
        cwd=tmp_path,
        ALSA_CONFIG_PATH=str(helper.write_alsa_config(tmp_path, raw)),
    )
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert_same_scores(scores(found), offline)
    assert found[0]["source"].startswith(f"{device} through arecord")
    assert (found[-1]["samples"], found[-1]["dropped_samples"]) == (len(samples), 0)


def test_ten_second_clip_scores_at_its_tenth_segment(samples: np.ndarray, small_bundle: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", samples[: 10 * RATE], RATE)
    live = edgeasd("run", "--bundle", small_bundle, "--input", "clip.wav", "--jsonl", "-", cwd=tmp_path)
    clip = edgeasd("score", small_bundle, "clip.wav", "--json", cwd=tmp_path)
    found = scores(records(live.stdout))
    assert len(found) == 10
    assert [r["complete"] for r in found] == [False] * 9 + [True]
    assert found[-1]["clip_score"] == pytest.approx(json.loads(clip.stdout)["score"], rel=1e-6)
    assert found[-1]["clip_score"] == pytest.approx(float(np.mean([r["score"] for r in found])), rel=1e-12)


def test_the_text_view_shows_scores_and_a_log_gets_the_records(sound: Path, small_bundle: Path, tmp_path: Path) -> None:
    arguments = ("run", "--bundle", small_bundle, "--input", sound, "--jsonl", "log.jsonl")
    for runs in (1, 2):
        done = edgeasd(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert "valve 00: 22 segments scored" in done.stdout.splitlines()[-1]
        assert "dBFS" in done.stdout
        log = records((tmp_path / "log.jsonl").read_text())
        assert [r["kind"] for r in log].count("stop") == runs
    assert "\x1b" not in done.stdout


def test_a_refused_engine_is_one_line_and_one_stop_record(sound: Path, bundle_copy: Path, tmp_path: Path) -> None:
    os.truncate(bundle_copy / "head.onnx", 100)
    done = edgeasd("run", "--bundle", bundle_copy, "--input", sound, "--jsonl", "log.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgeasd: ")
    assert "head.onnx: 100 bytes" in line
    (stop,) = records((tmp_path / "log.jsonl").read_text())
    assert (stop["kind"], stop["machine"], stop["id"], stop["samples"]) == ("stop", "valve", "00", 0)
    assert line == f"edgeasd: {stop['reason']}"


def test_a_source_that_fails_leaves_only_its_error(sound: Path, small_bundle: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, soundfile.read(sound)[0], RATE, subtype="PCM_16")
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    done = edgeasd("run", "--bundle", small_bundle, "--input", cut, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cut.flac: cut off" in done.stderr.splitlines()[-1]


def test_alarm_after_three_clip_scores_above_the_threshold(sound: Path, bundle_copy: Path) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["threshold"]["clip"] = -1.0
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    done = edgeasd("run", "--bundle", bundle_copy, "--input", sound, "--jsonl", "-", cwd=sound.parent)
    found = records(done.stdout)
    (at,) = [number for number, one in enumerate(found) if one["kind"] == "event"]
    assert found[at]["state"] == "alarm"
    assert found[at - 1] == [one for one in scores(found) if one["complete"]][2]
    assert "valve: ALARM, score: clip score" in done.stderr
    manifest["threshold"] = None
    manifest["status"] = "uncalibrated"
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    silent = edgeasd("run", "--bundle", bundle_copy, "--input", sound, "--jsonl", "-", cwd=sound.parent)
    assert {r["kind"] for r in records(silent.stdout)} == {"start", "segment", "stop"}
    assert "uncalibrated, no alarms" in silent.stderr


def test_a_duration_ends_the_sound_at_that_sample(sound: Path, small_bundle: Path) -> None:
    done = edgeasd(
        *("run", "--bundle", small_bundle, "--input", sound, "--jsonl", "-", "--duration", "9.00003"), cwd=sound.parent
    )
    end = records(done.stdout)[-1]
    assert (done.returncode, end["samples"], end["reason"]) == (0, 144000, "end of sound")


def test_other_rates_and_channels_are_converted_where_asked(small_bundle: Path, tmp_path: Path) -> None:
    stereo = np.random.default_rng(0).standard_normal((9 * 48000, 2)) * 0.1
    soundfile.write(tmp_path / "a.wav", stereo, 48000)
    done = edgeasd(
        *("run", "--bundle", small_bundle, "--input", "a.wav", "--jsonl", "-", "--resample", "--channel", "1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = records(done.stdout)
    assert found[-1]["samples"] == 9 * RATE
    assert "48000 Hz resampled to 16000 Hz" in found[0]["source"]
    assert "channel 1 of 2" in found[0]["source"]


def test_bundle_is_found_in_environment_and_workspace(sound: Path, small_bundle: Path, tmp_path: Path) -> None:
    by_name = edgeasd("run", "--input", sound, "--jsonl", "-", cwd=tmp_path, EDGEASD_BUNDLE=str(small_bundle))
    shutil.copytree(small_bundle, tmp_path / "bundles" / "valve-id_00")
    by_place = edgeasd("run", "--input", sound, "--jsonl", "-", cwd=tmp_path)
    assert by_name.returncode == by_place.returncode == 0
    assert scores(records(by_name.stdout)) == scores(records(by_place.stdout))


@pytest.mark.parametrize(("number", "code", "reason"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 0, "SIGTERM")])
@pytest.mark.parametrize("source", ["file", "pipe"])
def test_a_signal_ends_it_in_order(
    sound: Path, small_bundle: Path, number: signal.Signals, code: int, reason: str, source: str
) -> None:
    arguments = ("--input", sound, "--realtime") if source == "file" else ("--input", "-")
    process = subprocess.Popen(
        command("run", "--bundle", small_bundle, *arguments, "--jsonl", "-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["kind"] == "start"
    process.send_signal(number)
    try:
        # stdin stays open: a reader blocked on a silent pipe has to be ended too.
        rest, said = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
        assert process.wait(30) == code, said
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    (last,) = records(rest.splitlines()[-1])
    assert (last["kind"], last["reason"]) == ("stop", reason)
    assert last["seconds"] < 8
    assert "Traceback" not in said
    complaints = [line for line in said.splitlines() if not line.startswith("edgeasd: valve: valve ID 00 from")]
    assert len(complaints) == (1 if number == signal.SIGINT else 0)


def test_stop_while_the_model_loads_blames_no_model(sound: Path, small_bundle: Path, tmp_path: Path) -> None:
    """The signal comes within the code that opens the model, which takes any error for one of the model."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, onnxruntime\n"
        "class Session(onnxruntime.InferenceSession):\n"
        "    def __init__(self, *given, **more):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        super().__init__(*given, **more)\n"
        "onnxruntime.InferenceSession = Session\n",
        "utf-8",
    )
    done = edgeasd(
        *("run", "--bundle", small_bundle, "--input", sound, "--realtime", "--jsonl", "-"),
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0
    assert "error" not in done.stderr.lower()
    assert {one["reason"] for one in records(done.stdout) if one["kind"] == "stop"} <= {"SIGTERM"}


def test_half_a_line_of_a_power_cut_costs_no_record(sound: Path, small_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b'{"schema": 2, "kind": "stop"}\n{"schema": 2, "ki')
    done = edgeasd("run", "--bundle", small_bundle, "--input", sound, "--jsonl", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = file.read_bytes().splitlines()
    assert lines[1] == b'{"schema": 2, "ki'
    kinds = [json.loads(line)["kind"] for line in lines[2:]]
    assert (kinds[0], kinds[-1]) == ("start", "stop")


def test_realtime_takes_as_long_as_the_sound(sound: Path, small_bundle: Path) -> None:
    import time

    begin = time.monotonic()
    done = edgeasd(
        *("run", "--bundle", small_bundle, "--input", sound, "--realtime", "--duration", "8.5", "--jsonl", "-"),
        cwd=sound.parent,
    )
    assert done.returncode == 0
    assert 8.4 <= time.monotonic() - begin < 30
    assert len(scores(records(done.stdout))) == 2
