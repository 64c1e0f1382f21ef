"""The ordinary week of a machine: off at night, at three speeds, with another gain, and with faults; from clips to alarms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from speeds import RATE, SPEEDS, Listener, hall, open_bundle, running, write_recordings

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.health import HealthSettings
from edgeasd.runtime.scoring.scorer import Scorer

Opened = tuple[Scorer, Manifest]
MINUTE = 60 * RATE


@pytest.fixture(scope="module")
def workspace(edgeasd: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pump at three speeds, trained, exported, and calibrated with other clips."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("speeds")
    write_recordings(folder / "recordings", clips=24)
    more = write_recordings(folder / "more", clips=12, first=3000)
    for arguments in (
        ("train", "--data", folder / "recordings", "--machine", "pump"),
        ("export", "--machine", "pump"),
        ("calibrate", "--machine", "pump", "--clips", more, "--precision", "none"),
    ):
        done = edgeasd(*arguments, cwd=folder)
        assert done.code == 0, done.said
        (folder / f"{arguments[0]}.txt").write_text(done.out)
    return folder


@pytest.fixture(scope="module")
def opened(workspace: Path) -> Iterator[Opened]:
    for scorer, manifest in open_bundle(workspace / "bundles" / "pump-id_00"):
        yield scorer, with_threshold(manifest, 1.0)


def with_threshold(manifest: Manifest, clip: float) -> Manifest:
    """Of the bundle and of every mode: a dozen clips of each speed say little. Normal scores stay below half of it."""

    def moved(threshold: Any) -> Any:
        return threshold.model_copy(update={"clip": clip})

    modes = {name: one.model_copy(update={"threshold": moved(one.threshold)}) for name, one in manifest.modes.items()}
    return manifest.model_copy(update={"threshold": moved(manifest.threshold), "modes": modes})


def bare(manifest: Manifest) -> Manifest:
    """As of an earlier edgeasd: nothing is known of states."""
    return manifest.model_copy(update={"sound": None, "modes": {}})


# The bundle


def test_calibrate_writes_modes_and_says_them(workspace: Path) -> None:
    manifest = json.loads((workspace / "bundles/pump-id_00/manifest.json").read_text())
    assert set(manifest["modes"]) == set(SPEEDS)
    assert len(manifest["sound"]["mean_db"]) == 128
    for mode in manifest["modes"].values():
        assert mode["d_min"] < mode["d_max"]
        assert mode["threshold"]["clips"] == 12
        assert mode["sound"]["clips"] == 12
    said = (workspace / "calibrate.txt").read_text()
    assert all(f"  mode {name}: 12 clips" in said for name in SPEEDS)
    assert "off 4 dB below that" in said


# The table of the first weeks, row by row


@pytest.mark.parametrize("below", [10.0, 12.0, 15.0, 30.0])
def test_hall_noise_of_a_machine_that_is_off_is_off(opened: Opened, below: float) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    listener.hear(hall(1, 90.0, below))
    assert listener.state == "off"
    listener.hear(running("middle", 2))
    assert listener.state == "middle"
    assert listener.alarms == []
    assert listener.unhealthy == []


def test_without_states_the_same_hall_alarms(opened: Opened) -> None:
    listener = Listener(opened[0], bare(opened[1]))
    listener.hear(running("middle", 1))
    listener.hear(hall(1, 90.0, 12.0))
    assert len(listener.alarms) >= 1


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silence_of_a_machine_that_is_off_is_said_once(opened: Opened, level: float) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    noise = np.random.default_rng(0).standard_normal(3 * MINUTE)
    listener.hear((level * noise).astype(np.float32))
    assert listener.state == "off"
    assert listener.alarms == []
    assert listener.unhealthy == []
    (notice,) = listener.worker.notices()
    assert "is the microphone alive?" in notice
    listener.hear(running("middle", 2))
    assert listener.worker.notices() == ()
    assert listener.unhealthy == []


def test_without_states_the_same_silence_is_unhealthy(opened: Opened) -> None:
    listener = Listener(opened[0], bare(opened[1]))
    listener.hear(running("middle", 1))
    listener.hear(np.zeros(MINUTE, np.float32))
    assert listener.unhealthy != []


def test_a_microphone_that_stays_dead_is_unhealthy_in_the_end(opened: Opened) -> None:
    listener = Listener(*opened, states={"silent_hours": 0.05})
    listener.hear(running("middle", 1))
    listener.hear(np.zeros(2 * MINUTE, np.float32))
    assert listener.unhealthy == []
    listener.hear(np.zeros(3 * MINUTE, np.float32))
    assert listener.unhealthy != []


@pytest.mark.parametrize("gain", [2.0, 0.5])
def test_another_gain_is_named_within_a_minute(opened: Opened, gain: float) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    changed_at = listener.seconds
    listener.hear(running("middle", 2) * np.float32(gain))
    (at, text) = listener.remarks[0]
    assert at - changed_at <= 60.0
    assert ("louder" if gain > 1 else "quieter") in text
    assert listener.state == "middle", "quieter is not off"
    assert listener.unhealthy == []
    # Beside an alarm, where it raised one, and off follows the gain.
    named = [one for at, one in listener.transitions if one.state == "alarm" and at > changed_at + 60]
    assert all(one.remark is not None for one in named)
    listener.hear(hall(3, 60.0, 12.0) * np.float32(gain))
    assert listener.state == "off"


def test_a_followed_gain_leaves_no_alarm_behind(opened: Opened) -> None:
    listener = Listener(*opened, states={"gain": "follow"})
    listener.hear(running("middle", 1))
    for seed in (2, 3, 4, 5):
        listener.hear(running("middle", seed) * np.float32(2.0))
    assert listener.worker.operation.factor == pytest.approx(0.5, rel=0.15)
    assert listener.machine.machine.state in ("normal", "cleared"), "what it raised before it was known has ended"


def test_a_covered_microphone_is_told_from_a_gain(opened: Opened) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    sound = running("middle", 2)
    spectrum = np.fft.rfft(sound)
    hz = np.fft.rfftfreq(sound.size, 1 / RATE)
    covered = np.fft.irfft(spectrum / (1.0 + (hz / 700.0)), sound.size).astype(np.float32)
    listener.hear(covered)
    assert any("was the microphone moved or covered?" in text for _, text in listener.remarks)
    cut = np.fft.irfft(np.where(hz > 4000.0, 0.0, spectrum), sound.size).astype(np.float32)
    listener.hear(cut)
    assert any("another sample rate or codec?" in text for _, text in listener.remarks)


# Start, stop and faults


@pytest.mark.parametrize("speed", list(SPEEDS))
def test_a_fault_at_each_speed_alarms_within_thirty_seconds(opened: Opened, speed: str) -> None:
    listener = Listener(*opened)
    listener.hear(running(speed, 1))
    assert listener.alarms == []
    began = listener.seconds
    listener.hear(running(speed, 2, 40.0, "bearing"))
    assert listener.alarms
    assert listener.alarms[0] - began <= 30.0


def test_a_start_that_never_comes_up_to_normal_alarms(opened: Opened) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    listener.hear(hall(1, 60.0))
    began = listener.seconds
    listener.hear(running("middle", 2, 90.0, "cavitation"))
    assert len(listener.alarms) == 1
    assert 30.0 <= listener.alarms[0] - began <= 60.0


def test_an_event_stays_open_while_the_machine_is_off(opened: Opened) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    listener.hear(running("middle", 2, 40.0, "bearing"))
    event = listener.machine.machine.event
    assert event is not None
    listener.hear(hall(1, 120.0))
    assert listener.state == "off"
    present = listener.machine.machine.event
    assert present is not None
    assert present.id == event.id, "switching off repairs nothing"
    listener.hear(running("middle", 3, 90.0))
    assert listener.machine.machine.event is None


def test_scores_of_a_machine_that_is_off_are_marked(opened: Opened) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    listener.hear(hall(1, 60.0))
    assert listener.marks[60] is None
    assert listener.marks[-1] == "off"
    seconds = listener.worker.operation_status()["operating_seconds"]
    assert 40.0 < seconds["off"] < 61.0


def test_a_tag_of_the_plant_comes_first(opened: Opened) -> None:
    listener = Listener(*opened)
    listener.hear(running("middle", 1))
    listener.worker.operation.set_tag("off", "the plant")
    listener.hear(running("middle", 2, 40.0, "bearing"))
    assert listener.state == "off"
    assert listener.alarms == []
    listener.worker.operation.set_tag("turbo", "the plant")
    listener.hear(running("middle", 3, 60.0, "bearing"))
    assert listener.state == "turbo"
    assert listener.alarms == []
    assert listener.worker.notices()[0].startswith("mode turbo was never recorded")


# A bundle of before


def test_a_bundle_without_profile_scores_and_alarms_as_before(small_bundle: Path) -> None:
    for scorer, manifest in open_bundle(small_bundle):
        listener = Listener(scorer, manifest)
        listener.hear(running("middle", 1))
        listener.hear(np.zeros(30 * RATE, np.float32))
        assert (listener.worker.operation_status(), listener.worker.notices()) == ({}, ())
        assert listener.state is None
        assert all("operating_state" not in one.to_json() for _, one in listener.transitions)
        assert HealthSettings().unhealthy == listener.worker.settings.health.unhealthy
        assert listener.unhealthy != []


# The week


def live_a_week(listener: Listener, cycles: int, seed: int = 3) -> list[float]:
    """Off and on so many times, three speeds in each, the gain up by 6 dB and back; returns when the gain changed."""
    rng, gain, changes = np.random.default_rng(seed), 1.0, []
    for cycle in range(cycles):
        off = (
            np.zeros(MINUTE, np.float32)
            if cycle % 8 == 7
            else hall(cycle % 5, 60.0, (10.0, 12.0, 15.0, 30.0)[cycle % 4])
        )
        listener.hear(off * np.float32(gain))
        if cycle in (cycles // 3, 2 * cycles // 3):
            gain = 10 ** (6 / 20) if gain == 1.0 else 1.0
            changes.append(listener.seconds)
        # 1 dB over the whole week, besides.
        drift = 10 ** (cycle / cycles / 20)
        for speed in rng.permutation(list(SPEEDS)):
            sound = running(str(speed), int(rng.integers(1, 5)))[: 50 * RATE]
            listener.hear(sound * np.float32(gain * drift))
    return changes


def check_week(listener: Listener, changes: list[float]) -> None:
    """No alarm but from the gain until it is back, no sick input, and the gain named within a minute."""
    up, back = changes
    assert [at for at in listener.alarms if not up <= at <= back + 60.0] == []
    assert listener.unhealthy == []
    named = [at for at, text in listener.remarks if "louder" in text]
    assert named
    assert named[0] - up <= 60.0


def test_six_days_of_cycles_alarm_nobody(opened: Opened) -> None:
    listener = Listener(*opened)
    check_week(listener, live_a_week(listener, 6))


@pytest.mark.slow
def test_a_week_of_forty_cycles_alarms_nobody(opened: Opened) -> None:
    listener, control = Listener(*opened), Listener(opened[0], bare(opened[1]))
    check_week(listener, live_a_week(listener, 40))
    for speed in SPEEDS:
        listener.hear(running(speed, 1))
        began, before = listener.seconds, len(listener.alarms)
        listener.hear(running(speed, 2, 40.0, "bearing"))
        assert listener.alarms[before] - began <= 30.0
        listener.hear(running(speed, 1, 60.0))
    live_a_week(control, 40)
    assert len(control.alarms) >= 20, "without states every night is an alarm"


# Commands


def test_record_puts_the_mode_into_the_names(edgeasd: Callable[..., Any], tmp_path: Path) -> None:
    raw = tmp_path / "sound.raw"
    raw.write_bytes((running("slow", 1)[: 25 * RATE] * 32767).astype("<i2").tobytes())
    command = ("record", "--input-command", f"cat {raw}", "--once", "--machine", "pump", "--id", "00")
    for mode in ("slow", "fast"):
        done = edgeasd(*command, "--minutes", "0.3", "--mode", mode, "--json", cwd=tmp_path)
        assert done.code == 0, done.said
        assert json.loads(done.out)["mode"] == mode
    names = sorted(path.name for path in (tmp_path / "recordings/pump/00/normal").iterdir())
    assert names == [f"clip_{mode}_00000{number}.flac" for mode in ("fast", "slow") for number in (1, 2)]
    for mode in ("off", "Fast", "a_b"):
        done = edgeasd(*command, "--minutes", "0.3", "--mode", mode, cwd=tmp_path)
        assert done.code == 2
        assert f"--mode {mode}" in done.lines[0]


def test_run_says_off_and_takes_a_level_and_shifts(
    workspace: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    wav = tmp_path / "night.wav"
    soundfile.write(wav, np.concatenate([running("slow", 1), hall(1, 60.0)]), RATE, subtype="PCM_16")
    bundle = workspace / "bundles" / "pump-id_00"

    def states(*options: str) -> set[str | None]:
        done = edgeasd("run", "--input", wav, "--bundle", bundle, "--jsonl", "-", *options, cwd=tmp_path)
        assert done.code == 0, done.said
        rows = [json.loads(line) for line in done.out.splitlines()]
        return {row["body"].get("operating_state") for row in rows if row["kind"] == "segment"}

    assert "off" in states()
    assert "off" not in states("--off-below", "none")
    assert "off" not in states("--off-below", "-50")
    for options, said in (
        (("--off-below", "quiet"), "--off-below quiet: neither a level"),
        (("--off-below", "5"), "--off-below 5: outside"),
        (("--schedule", "Mon 6-22"), "--schedule: 'Mon 6-22': write a shift"),
    ):
        done = edgeasd("run", "--input", wav, "--bundle", bundle, *options, cwd=tmp_path)
        assert (done.code, done.lines[0].startswith(f"edgeasd: {said}")) == (2, True), done.said


# Recorded sound


@pytest.mark.slow
@pytest.mark.shared_data
def test_a_recorded_slider_is_off_between_and_its_gain_is_named(
    shared_data: Path, edgeasd: Callable[..., Any], tmp_path: Path
) -> None:
    clips = sorted((shared_data / "dcase2020_slider" / "slider" / "train").glob("*.flac"))
    if len(clips) < 70:
        pytest.skip(f"REAL SOUND ABSENT: {len(clips)} slider clips in {shared_data}")
    folder = tmp_path / "data" / "slider" / "train"
    folder.mkdir(parents=True)
    for clip in clips[:60]:
        shutil.copy(clip, folder / clip.name)
    for arguments in (("train", "--data", tmp_path / "data"), ("export",)):
        done = edgeasd(*arguments, "--machine", "slider", cwd=tmp_path)
        assert done.code == 0, done.said
    sound = np.concatenate([soundfile.read(clip, dtype="float32")[0] for clip in clips[60:72]])
    level = float(np.sqrt(np.mean(np.square(sound), dtype=np.float64)))
    noise = hall(1, 60.0, 0.0)
    noise = noise * np.float32(level / np.sqrt(np.mean(np.square(noise), dtype=np.float64)))
    for scorer, manifest in open_bundle(tmp_path / "bundles" / "slider-id_00"):
        assert manifest.sound is not None
        for gain_db in (0.0, 6.0, -6.0):
            listener = Listener(scorer, manifest)
            gain = np.float32(10 ** (gain_db / 20))
            listener.hear(sound)
            assert listener.state == "running"
            assert listener.remarks == []
            changed_at = listener.seconds
            listener.hear(sound * gain)
            assert listener.state == "running", gain_db
            if gain_db:
                assert listener.remarks[0][0] - changed_at <= 60.0
            below = np.float32(10 ** (-15.0 / 20))
            before = len(listener.alarms)
            listener.hear(noise * below * gain)
            assert listener.state == "off", gain_db
            assert len(listener.alarms) == before
            assert listener.unhealthy == []
