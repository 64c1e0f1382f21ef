"""Sound by RTSP through a real ffmpeg, with the lines of the documentation: exact, and back after any death."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]
RATE = 16_000
Record = dict[str, Any]


@pytest.fixture(autouse=True)
def ffmpeg() -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("NO FFMPEG: not installed, so nothing is read by RTSP")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sound.wav and sound.raw, 12 s of the same."""
    folder = tmp_path_factory.mktemp("sound")
    rng = np.random.default_rng(3)
    sound = rng.standard_normal(12 * RATE) * 600
    for at in range(0, len(sound), 7000):
        sound[at : at + 300] += rng.standard_normal(len(sound[at : at + 300])) * 6000
    whole = sound.clip(-32768, 32767).astype("<i2")
    soundfile.write(folder / "sound.wav", whole, RATE, subtype="PCM_16")
    (folder / "sound.raw").write_bytes(whole.tobytes())
    return folder


@pytest.fixture(scope="module")
def expected(place: Path, small_bundle: Path) -> list[Record]:
    command = [sys.executable, "-m", "edgeasd", "score", small_bundle, "sound.wav", "--live"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=True)
    return [record["body"] for record in map(json.loads, done.stdout.splitlines()) if record["kind"] == "segment"]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """What a test starts, ended with it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def recipe(repository: Path, address: str, here: str) -> str:
    """The line of the documentation that reads `address`, reading `here` instead."""
    page = (repository / "docs" / "how-to" / "listen.md").read_text("utf-8")
    lines = [line for line in re.findall(r"--input-command '(ffmpeg [^']+)'", page) if f" {address} " in line]
    assert len(lines) == 1
    return lines[0].replace(address, here)


class Run:
    """`edgeasd run` on a command, and its records."""

    def __init__(self, command: str, bundle: Path, folder: Path) -> None:
        words = [sys.executable, "-m", "edgeasd", "run", "--bundle", str(bundle), "--input-command", command]
        self.file = folder / "records.jsonl"
        self.process = subprocess.Popen(
            [*words, "--pace", "block", "--jsonl", str(self.file)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def bodies(self, *kinds: str) -> list[Record]:
        lines = self.file.read_text("utf-8").split("\n")[:-1] if self.file.exists() else []
        return [record["body"] for record in map(json.loads, lines) if record["kind"] in kinds]

    def until(self, holds: Any, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, self.bodies("source", "gap")
            time.sleep(0.05)

    def child(self) -> int:
        """Number of the ffmpeg that it runs."""
        path = Path(f"/proc/{self.process.pid}/task")
        found = [number for task in path.iterdir() for number in (task / "children").read_text().split()]
        (ffmpeg,) = [int(one) for one in found if Path(f"/proc/{one}/comm").read_text() == "ffmpeg\n"]
        return ffmpeg

    def wait_for_returns(self, times: int) -> None:
        """Wait until sound has come back so often, and is scored again."""
        self.until(lambda: [one["state"] for one in self.bodies("source")] == ["lost", "reopened"] * times)
        self.until(lambda: len(self.bodies("gap")) == times)
        before = len(self.bodies("segment"))
        self.until(lambda: len(self.bodies("segment")) > before)

    def end(self) -> Record:
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, said
        return self.bodies("stop")[-1]


def assert_same(found: list[Record], expected: list[Record]) -> None:
    assert len(found) >= len(expected) > 15
    for one, two in zip(found, expected, strict=False):
        assert one["end_sample"] == two["end_sample"]
        assert one["score"] == pytest.approx(two["score"], rel=1e-6)


def test_camera_comes_back_after_its_death_and_that_of_ffmpeg(
    place: Path,
    expected: list[Record],
    repository: Path,
    small_bundle: Path,
    tmp_path: Path,
    port: int,
    started: list[subprocess.Popen[str]],
) -> None:
    script = repository / "tests" / "runtime" / "sources" / "rtsp_camera.py"

    def camera() -> subprocess.Popen[str]:
        words = [sys.executable, str(script), "sound.raw", str(port), "1", "10"]
        started.append(subprocess.Popen(words, cwd=place, text=True))
        end = time.monotonic() + 20.0
        while True:
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    return started[-1]
            assert time.monotonic() < end
            time.sleep(0.05)

    first = camera()
    here = f"rtsp://127.0.0.1:{port}/audio"
    run = Run(recipe(repository, "rtsp://camera/audio", here), small_bundle, tmp_path)
    started.append(run.process)
    run.until(lambda: len(run.bodies("segment")) >= len(expected))
    assert_same(run.bodies("segment"), expected)
    first.kill()
    run.until(lambda: run.bodies("source"))
    time.sleep(1.0)  # it is tried in vain meanwhile
    camera()
    run.wait_for_returns(1)
    os.kill(run.child(), signal.SIGKILL)
    run.wait_for_returns(2)
    assert "was ended by signal 9" in run.bodies("source")[2]["detail"]
    assert run.end()["reconnects"] == 2


def test_device_that_pushes_is_waited_for_again(
    place: Path,
    expected: list[Record],
    repository: Path,
    small_bundle: Path,
    tmp_path: Path,
    port: int,
    started: list[subprocess.Popen[str]],
) -> None:
    here = f"rtsp://127.0.0.1:{port}/pump"
    push = f"ffmpeg -nostdin -loglevel error -readrate 4 -stream_loop -1 -i sound.wav -c:a pcm_s16be -f rtsp -rtsp_transport tcp {here}"

    def pushed(holds: Any) -> subprocess.Popen[str]:
        """Push, until somebody listens and takes it."""
        while not holds():
            started.append(subprocess.Popen(shlex.split(push), cwd=place, stderr=subprocess.DEVNULL, text=True))
            while started[-1].poll() is None and not holds():
                time.sleep(0.05)
        return started[-1]

    run = Run(recipe(repository, "rtsp://0.0.0.0:8554/pump", here), small_bundle, tmp_path)
    started.append(run.process)
    first = pushed(lambda: run.bodies("segment"))
    run.until(lambda: len(run.bodies("segment")) >= len(expected))
    assert_same(run.bodies("segment"), expected)
    first.kill()
    run.until(lambda: run.bodies("source"))
    pushed(lambda: len(run.bodies("source")) == 2)
    run.wait_for_returns(1)
    assert run.end()["reconnects"] == 1
