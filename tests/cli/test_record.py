"""`edgeasd record` and `edgeasd devices` as processes, on ALSA's file PCM and on commands that fail."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.toolkit.cli._errors import defer_signals

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]
RATE = 16000


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgeasd", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")} | more


def edgeasd(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=60, env=environment(**more)
    )
    assert "Traceback" not in done.stderr
    return done


def record(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return edgeasd("record", "--machine", "valve", "--id", "00", *arguments, cwd=cwd, **more)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2000, int(seconds * RATE)).astype("<i2")


def clips(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "recordings/valve/00/normal"))


@pytest.fixture
def raw(tmp_path: Path) -> np.ndarray:
    """sound.raw in the folder of the test: 7.5 s of int16."""
    sound = noise(7.5)
    (tmp_path / "sound.raw").write_bytes(sound.tobytes())
    return sound


def _load_helper(repository: Path) -> ModuleType:
    path = repository / "tests" / "runtime" / "alsa_file_pcm.py"
    spec = importlib.util.spec_from_file_location("alsa_file_pcm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["pyalsaaudio", "arecord"])
def test_a_device_becomes_clips_that_training_reads(
    raw: np.ndarray, tmp_path: Path, repository: Path, backend: str
) -> None:
    helper = _load_helper(repository)
    present = shutil.which("arecord") if backend == "arecord" else importlib.util.find_spec("alsaaudio")
    if not present or not helper.STOCK.exists():
        pytest.skip(f"{backend} or the stock ALSA configuration is not installed here")
    config = str(helper.write_alsa_config(tmp_path, tmp_path / "sound.raw"))
    done = record(
        *("--device", "hw:1", "--minutes", "0.1", "--clip-seconds", "2", "--json", "--alsa-backend", backend),
        cwd=tmp_path,
        ALSA_CONFIG_PATH=config,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ended"], found["clips"], found["seconds"], found["clips_left"]) == ("complete", 3, 6.0, 0)
    assert found["source"].startswith(f"hw:1 through {backend}, S16_LE")
    assert found["complaints"] == {}
    assert found["level_dbfs"]["lowest"] == pytest.approx(-24.3, abs=0.2)
    assert clips(tmp_path) == [f"clip_00000{i}.flac" for i in (1, 2, 3)]
    read = [
        soundfile.read(tmp_path / "recordings/valve/00/normal" / name, dtype="int16")[0] for name in clips(tmp_path)
    ]
    np.testing.assert_array_equal(np.concatenate(read), raw[: 6 * RATE])
    assert "level  -24." in done.stderr
    scan = edgeasd("data", "scan", "recordings", "--deep", "--json", cwd=tmp_path)
    assert scan.returncode == 0, scan.stderr
    assert '"valve"' in scan.stdout
    assert '"plain"' in scan.stdout


def test_a_command_is_recorded_resumed_and_never_overwritten(raw: np.ndarray, tmp_path: Path) -> None:
    source = ("--input-command", "cat sound.raw", "--once", "--clip-seconds", "2", "--minutes", "0.2")
    first = record(*source, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "3 clips, 6 s, beside 0 before" in first.stdout
    assert "ended by end of sound, 3 clips are missing; --resume goes on" in first.stdout
    again = record(*source, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "holds 3 clips; go on with --resume" in again.stderr
    resumed = record(*source, "--resume", "--json", cwd=tmp_path)
    found = json.loads(resumed.stdout)
    assert (found["clips"], found["clips_before"], found["clips_left"], found["ended"]) == (3, 3, 0, "complete")
    assert len(clips(tmp_path)) == 6


PACED = """
import sys, time, os
marker, lives = sys.argv[1], int(sys.argv[2])
sound = open("sound.raw", "rb").read()
count = int(open(marker).read()) if os.path.exists(marker) else 0
open(marker, "w").write(str(count + 1))
for at in range(0, len(sound), 3200):
    os.write(1, sound[at:at + 3200])
    time.sleep(0.02)
    if count < lives and at > 40000:
        os._exit(1)
while True:
    os.write(1, sound[:3200])
    time.sleep(0.02)
"""


def paced(folder: Path, lives: int = 0) -> str:
    """A command with sound at five times its speed; it fails after 1.3 s of sound, `lives` times."""
    (folder / "paced.py").write_text(PACED)
    return f"{sys.executable} paced.py marker {lives}"


def test_a_clip_that_spans_lost_sound_is_thrown_away_and_counted(raw: np.ndarray, tmp_path: Path) -> None:
    done = record(
        *("--input-command", paced(tmp_path, 1), "--clip-seconds", "2", "--minutes", "0.1", "--json"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["clips"], found["thrown_away"], found["losses"], found["reopened"]) == (3, 1, 1, 1)
    assert "lost: command" in done.stderr
    assert "reopened: command" in done.stderr
    first = soundfile.read(tmp_path / "recordings/valve/00/normal/clip_000001.flac", dtype="int16")[0]
    np.testing.assert_array_equal(first, raw[: 2 * RATE])


def test_without_reopening_a_failure_ends_it_and_the_clips_stay(raw: np.ndarray, tmp_path: Path) -> None:
    done = record(
        *("--input-command", paced(tmp_path, 1), "--clip-seconds", "1", "--minutes", "1", "--no-reopen"), cwd=tmp_path
    )
    assert done.returncode == 3
    assert "ended with exit code 1" in done.stderr
    assert clips(tmp_path) == ["clip_000001.flac"]


@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 143, "SIGTERM")],
)
def test_an_interrupt_keeps_every_finished_clip_and_no_half(
    raw: np.ndarray, tmp_path: Path, number: signal.Signals, code: int, ended: str
) -> None:
    arguments = ("record", "--machine", "valve", "--id", "00", "--minutes", "30", "--clip-seconds", "1", "--json")
    process = subprocess.Popen(
        command(*arguments, "--input-command", paced(tmp_path)),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    second = tmp_path / "recordings/valve/00/normal/clip_000002.flac"
    deadline = time.monotonic() + 30
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    asked = time.monotonic()
    process.send_signal(number)
    out, said = process.communicate(timeout=20)
    assert time.monotonic() - asked < 5.0
    assert process.returncode == code, said
    assert "Traceback" not in said
    found = json.loads(out)
    assert found["ended"] == ended
    assert len(clips(tmp_path)) == found["clips"] >= 2
    for name in clips(tmp_path):
        assert soundfile.info(str(second.parent / name)).frames == RATE


def test_an_interrupt_waits_until_a_clip_is_counted() -> None:
    counted = []
    with pytest.raises(KeyboardInterrupt), defer_signals():
        signal.raise_signal(signal.SIGINT)
        counted.append(1)
    assert counted == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_dead_microphone_is_said_and_makes_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "sound.raw").write_bytes(bytes(2 * RATE * 5))
    done = record(
        *("--input-command", "cat sound.raw", "--once", "--clip-seconds", "2", "--minutes", "0.05", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["complaints"] == {f"clip_00000{i}.flac": ["digital_silence"] for i in (1, 2)}
    assert "digital_silence" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("listen to them, and delete what is no good")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--minutes", "1"), 2, "one source is needed: pass either --device (such as hw:1) or --input-command"),
        (("--minutes", "1", "--device", "no_such_pcm"), 3, "no_such_pcm: no such ALSA capture device"),
        (("--minutes", "1", "--input-command", "no-such-program"), 2, "no-such-program: cannot be started"),
        (("--minutes", "1", "--input-command", "false"), 3, "command false: ended with exit code 1"),
        (("--minutes", "0", "--device", "hw:1"), 2, "--minutes"),
        (("--minutes", "nan", "--input-command", "cat x"), 2, "--minutes"),
        (("--minutes", "1", "--device", "hw:1", "--label", "odd"), 2, "--label odd: unknown"),
        (("--minutes", "1", "--input-command", "cat /dev/zero", "--output", "file"), 2, "file"),
        (("--minutes", "100000", "--input-command", "cat /dev/zero", "--rate", "192000"), 1, "make room"),
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    (tmp_path / "file").write_text("no folder")
    done = record(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "file")


def devices(cwd: Path, *arguments: str, **more: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    done = edgeasd("devices", *arguments, cwd=cwd, **more)
    assert done.returncode == 0, done.stderr
    return done, json.loads(done.stdout) if "--json" in arguments else None


def test_devices_lists_what_can_be_opened_and_says_where_there_is_no_card(tmp_path: Path) -> None:
    text, _ = devices(tmp_path)
    _, found = devices(tmp_path, "--json")
    assert (found["type"], found["version"]) == ("devices", 1)
    for one in found["devices"]:
        assert one["state"] in ("ok", "busy", "forbidden", "refused")
        assert one["name"] in text.stdout
        assert bool(one["reason"]) == (one["state"] != "ok")
    if not any(one["kind"] == "card" for one in found["devices"]):
        assert "no sound card that captures" in text.stdout


def test_devices_with_a_broken_configuration_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.conf").write_text("pcm.!hw { type nonsense {{{")
    for more in ({"ALSA_CONFIG_PATH": str(tmp_path / "broken.conf")}, {"ALSA_CONFIG_PATH": "/nowhere"}):
        devices(tmp_path, **more)
        devices(tmp_path, "--json", **more)
