"""`edgeasd record` and `edgeasd devices`, on ALSA's file PCM and on commands that fail."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.toolkit.cli._errors import defer_signals

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]
RATE = 16000
Cli = Callable[..., Any]


@pytest.fixture
def record(edgeasd: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`edgeasd record` in `tmp_path`."""
    for name in os.environ:
        if name.startswith("EDGEASD_"):
            monkeypatch.delenv(name)
    return lambda *arguments: edgeasd("record", "--machine", "valve", "--id", "00", *arguments, cwd=tmp_path)


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
    path = repository / "tests" / "runtime" / "sources" / "alsa_file_pcm.py"
    spec = importlib.util.spec_from_file_location("alsa_file_pcm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_device_becomes_clips_that_training_reads(
    raw: np.ndarray, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, edgeasd: Cli, record: Cli
) -> None:
    helper = _load_helper(repository)
    if shutil.which("arecord") is None or not helper.STOCK.exists():
        pytest.skip("arecord or the stock ALSA configuration is not installed here")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(helper.write_alsa_config(tmp_path, tmp_path / "sound.raw")))
    done = record("--device", "hw:1", "--minutes", "0.1", "--clip-seconds", "2", "--json")
    assert done.code == 0, done.said
    summary = json.loads(done.out)
    assert (summary["ended"], summary["clips"], summary["seconds"], summary["clips_left"]) == ("complete", 3, 6.0, 0)
    assert summary["source"].startswith("hw:1 through arecord, S16_LE")
    assert summary["complaints"] == {}
    assert summary["level_dbfs"]["lowest"] == pytest.approx(-24.3, abs=0.2)
    assert clips(tmp_path) == [f"clip_00000{i}.flac" for i in (1, 2, 3)]
    folder = tmp_path / "recordings/valve/00/normal"
    samples = [soundfile.read(folder / name, dtype="int16")[0] for name in clips(tmp_path)]
    np.testing.assert_array_equal(np.concatenate(samples), raw[: 6 * RATE])
    assert "level  -24." in done.said
    scan = edgeasd("data", "scan", "recordings", "--deep", "--json", cwd=tmp_path)
    assert scan.code == 0, scan.said
    assert '"valve"' in scan.out
    assert '"plain"' in scan.out


def test_command_is_recorded_and_resumed(raw: np.ndarray, tmp_path: Path, record: Cli) -> None:
    source = ("--input-command", "cat sound.raw", "--once", "--clip-seconds", "2", "--minutes", "0.2")
    first = record(*source)
    assert first.code == 0, first.said
    assert "3 clips, 6 s, beside 0 before" in first.out
    assert "ended by end of sound, 3 clips are missing; --resume goes on" in first.out
    again = record(*source)
    assert again.code == 2
    assert again.said.count("\n") == 1
    assert "holds 3 clips; go on with --resume" in again.said
    resumed = record(*source, "--resume", "--json")
    summary = json.loads(resumed.out)
    assert (summary["clips"], summary["clips_before"], summary["clips_left"], summary["ended"]) == (3, 3, 0, "complete")
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


def test_clip_that_spans_lost_sound_is_thrown_away(raw: np.ndarray, tmp_path: Path, record: Cli) -> None:
    done = record(*("--input-command", paced(tmp_path, 1), "--clip-seconds", "2", "--minutes", "0.1", "--json"))
    assert done.code == 0, done.said
    summary = json.loads(done.out)
    assert (summary["clips"], summary["thrown_away"], summary["losses"], summary["reopened"]) == (3, 1, 1, 1)
    assert "lost: command" in done.said
    assert "reopened: command" in done.said
    first = soundfile.read(tmp_path / "recordings/valve/00/normal/clip_000001.flac", dtype="int16")[0]
    np.testing.assert_array_equal(first, raw[: 2 * RATE])


def test_without_reopening_a_failure_ends_it(raw: np.ndarray, tmp_path: Path, record: Cli) -> None:
    done = record(*("--input-command", paced(tmp_path, 1), "--clip-seconds", "1", "--minutes", "1", "--no-reopen"))
    assert done.code == 3
    assert "ended with exit code 1" in done.said
    assert clips(tmp_path) == ["clip_000001.flac"]


@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 143, "SIGTERM")],
)
def test_interrupt_keeps_every_finished_clip(
    raw: np.ndarray, tmp_path: Path, number: signal.Signals, code: int, ended: str
) -> None:
    arguments = ("record", "--machine", "valve", "--id", "00", "--minutes", "30", "--clip-seconds", "1", "--json")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeasd", *arguments, "--input-command", paced(tmp_path)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
    summary = json.loads(out)
    assert summary["ended"] == ended
    assert len(clips(tmp_path)) == summary["clips"] >= 2
    for name in clips(tmp_path):
        assert soundfile.info(str(second.parent / name)).frames == RATE


def test_interrupt_waits_until_a_clip_is_counted() -> None:
    counted = []
    with pytest.raises(KeyboardInterrupt), defer_signals():
        signal.raise_signal(signal.SIGINT)
        counted.append(1)
    assert counted == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_dead_microphone_ends_with_exit_code_1(tmp_path: Path, record: Cli) -> None:
    (tmp_path / "sound.raw").write_bytes(bytes(2 * RATE * 5))
    done = record(
        *("--input-command", "cat sound.raw", "--once", "--clip-seconds", "2", "--minutes", "0.05", "--json"),
    )
    assert done.code == 1
    assert json.loads(done.out)["complaints"] == {f"clip_00000{i}.flac": ["digital_silence"] for i in (1, 2)}
    assert "digital_silence" in done.said
    assert done.said.splitlines()[-1].endswith("listen to them, and delete what is no good")


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
def test_wrong_use_is_one_line(
    tmp_path: Path, record: Cli, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    done = record(*arguments)
    assert done.code == code, done.said
    assert message in done.said.splitlines()[-1]
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "file")


def test_devices_are_listed_with_their_reasons(edgeasd: Cli, tmp_path: Path) -> None:
    text = edgeasd("devices", cwd=tmp_path)
    listed = json.loads(edgeasd("devices", "--json", cwd=tmp_path).out)
    assert text.code == 0, text.said
    assert (listed["type"], listed["version"]) == ("devices", 1)
    for device in listed["devices"]:
        assert device["state"] in ("ok", "busy", "forbidden", "refused")
        assert device["name"] in text.out
        assert bool(device["reason"]) == (device["state"] != "ok")
    if not any(device["kind"] == "card" for device in listed["devices"]):
        assert "no sound card that captures" in text.out


@pytest.mark.parametrize("config", ["broken.conf", "/nowhere"])
def test_devices_survives_a_broken_alsa_configuration(
    edgeasd: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    (tmp_path / "broken.conf").write_text("pcm.!hw { type nonsense {{{")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / config))
    for arguments in (["devices"], ["devices", "--json"]):
        done = edgeasd(*arguments, cwd=tmp_path)
        assert (done.code, "Traceback" in done.said) == (0, False)


def test_level_meter_is_one_line_on_a_terminal(raw: np.ndarray, tmp_path: Path) -> None:
    """In a process, as only that has a terminal of its own."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    arguments = ("--input-command", "cat sound.raw", "--once", "--clip-seconds", "2", "--minutes", "0.1")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeasd", "record", "--machine", "valve", "--id", "00", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=terminal,
        stdin=subprocess.DEVNULL,
        env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(terminal)
    written = b""
    with contextlib.suppress(OSError):
        while data := os.read(controller, 4096):
            written += data
    os.close(controller)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"3 clips" in out
    text = written.decode()
    assert "level  -24." in text
    assert "…" in text, "the line is cut at the width of the terminal"
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text), "NO_COLOR"
    assert text.rstrip("\r\n").endswith(("\x1b[2K", "\x1b[?25h")), "the meter is removed at the end"


@pytest.mark.parametrize(("backend", "code"), [("pyalsaaudio", 2), ("oss", 2), ("arecord", 3), ("auto", 3)])
def test_older_backend_option_is_accepted_or_refused(record: Cli, backend: str, code: int) -> None:
    done = record("--minutes", "1", "--device", "no_such_pcm", "--alsa-backend", backend)
    assert done.code == code
    assert ("arecord is used" in done.said) == (code == 2)
