"""A service of its own process for a benchmark: site.toml of n streams, and what it says of itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import memory

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.service.control import ask

RATE = 16_000
START_SECONDS = 120.0
"""A ResNet38 is hashed, loaded and checked within this."""


def write_sound(folder: Path, streams: int, seconds: float = 60.0) -> list[Path]:
    """A WAV of quiet noise for each stream, each of its own."""
    paths = []
    for number in range(streams):
        path = folder / f"sound_{number}.wav"
        noise = 0.01 * np.random.default_rng(number).standard_normal(round(seconds * RATE))
        soundfile.write(path, noise.astype(np.float32), RATE, subtype="PCM_16")
        paths.append(path)
    return paths


def write_site(folder: Path, bundle: Path, sounds: list[Path], engine: str, stream: str, more: str = "") -> Path:
    """site.toml with a stream for each sound; `engine` and `stream` are lines for those tables, `more` for the rest."""
    lines = ['site = "benchmark"', more, "[engines.common]", engine]
    lines += ["[outputs.log]", 'type = "jsonl"', 'path = "log.jsonl"', "rotate_megabytes = 1.0"]
    for number, sound in enumerate(sounds):
        lines += [f"[streams.s{number}]", f'bundle = "{bundle.resolve()}"', f'input = "{sound.resolve()}"']
        lines += [f'id = "{number:02d}"', 'engine = "common"', "loop = true", stream]
    path = folder / "site.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Served:
    """The running service."""

    def __init__(self, process: subprocess.Popen[bytes], data: Path, complaints: Path) -> None:
        self.process, self._data, self._complaints = process, data, complaints

    def state(self) -> dict[str, Any]:
        """Its state; a service that has ended is a failed benchmark."""
        if self.process.poll() is not None:
            raise SystemExit(f"the service ended with {self.process.returncode}: {self._complaints.read_text()}")
        found: dict[str, Any] = ask(self._data, {"ask": "status"})
        return found

    def memory(self) -> dict[str, float]:
        """Resident and peak MiB."""
        return memory(self.process.pid)

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def wait_until_scoring(self) -> None:
        """Wait until every stream has a score."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            time.sleep(0.2)
            try:
                state = self.state()
            except InputError:
                continue
            if state and all(one["segments"] or one["skipped_segments"] for one in state["streams"]):
                return
        raise SystemExit(f"no scores after {START_SECONDS:.0f} s: {self._complaints.read_text()}")


@contextmanager
def serve(site: Path, program: list[str] | None = None) -> Iterator[Served]:
    """`edgeasd run --config` until the end of the block, and then SIGTERM; `program` in place of `-m edgeasd`."""
    complaints = site.with_name("complaints.txt")
    with complaints.open("wb") as said:
        command = [sys.executable, *(program or ["-m", "edgeasd"]), "run", "--config", str(site)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
    try:
        yield Served(process, site.parent / "data", complaints)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
