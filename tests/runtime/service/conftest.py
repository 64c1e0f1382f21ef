"""What the tests of the service share: sounds, site files, and services as processes."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.config import read_config
from edgeasd.runtime.service.service import Service
from edgeasd.toolkit.cli import main

RATE = 16_000
Record = dict[str, Any]


def write_sound(path: Path, seconds: float, seed: int = 0) -> Path:
    """Clicks over noise, so that scores differ from segment to segment."""
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal(int(seconds * RATE)) * 600
    for at in range(0, len(sound), 7000):
        sound[at : at + 300] += rng.standard_normal(len(sound[at : at + 300])) * 6000
    soundfile.write(path, sound.clip(-32768, 32767).astype("<i2"), RATE, subtype="PCM_16")
    return path


def flat(record: Record) -> Record:
    """The body of a record with its kind, machine, ID and event beside it."""
    return {**{name: record[name] for name in ("kind", "machine", "id", "event", "at")}, **record["body"]}


class Site:
    """A folder with a site file, and services on it."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.bundle = folder, bundle
        self.file, self.data, self.records_file = folder / "site.toml", folder / "data", folder / "records.jsonl"
        self.processes: list[subprocess.Popen[str]] = []

    def write(self, *streams: str, top: str = "") -> None:
        """A stream a, b, … for each text, which says its source and more; `top` goes before them."""
        text = f'site = "plant"\n{top}\n'
        for name, more in zip("abcdefgh", streams, strict=False):
            given = "" if "bundle =" in more else f'bundle = "{self.bundle}"\n'
            identity = "" if "id =" in more else f'id = "{name}"\n'
            text += f"[streams.{name}]\n{given}{identity}{more}\n"
        self.file.write_text(text, "utf-8")

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """The service as a process, its records in `records_file`; waits until it scores or has ended."""
        known = self.records("start")
        command = [
            sys.executable,
            "-m",
            "edgeasd",
            "run",
            "--config",
            str(self.file),
            "--jsonl",
            str(self.records_file),
        ]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("EDGEASD_")}
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, **environment},
        )
        self.processes.append(process)
        self.until(lambda: len(self.records("start")) > len(known) or process.poll() is not None)
        return process

    def end(self, process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[float, str]:
        """Signal the service; seconds that its end took, and what it said on standard error."""
        began = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
        return time.monotonic() - began, said

    def until(self, holds: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Wait for `holds`."""
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)
        return found

    def records(self, kind: str | None = None) -> list[Record]:
        """Whole lines of the records so far."""
        if not self.records_file.exists():
            return []
        lines = self.records_file.read_text("utf-8").split("\n")[:-1]
        return [flat(one) for one in map(json.loads, lines) if kind in (None, one["kind"])]

    def bodies(self, kind: str) -> list[Record]:
        """Bodies of the records of one kind."""
        names = ("kind",) if kind == "event" else ("kind", "machine", "id", "event", "at")
        return [{k: v for k, v in one.items() if k not in names} for one in self.records(kind)]

    def command(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Another command of edgeasd, in this process: starting one takes a second."""
        out, errors, given = io.StringIO(), io.StringIO(), ["edgeasd", *map(str, arguments)]
        signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        argv, folder, code = sys.argv, Path.cwd(), 0
        try:
            sys.argv = given
            os.chdir(self.folder)
            with redirect_stdout(out), redirect_stderr(errors):
                main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.argv = argv
            os.chdir(folder)
            for number, handler in signals.items():
                signal.signal(number, handler)
        return subprocess.CompletedProcess(given, code, out.getvalue(), errors.getvalue())


@pytest.fixture
def site(tmp_path: Path, small_bundle: Path) -> Iterator[Site]:
    made = Site(tmp_path, small_bundle)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


class Records(list[Record]):
    """Takes the records of a service in this process, in place of a RecordWriter."""

    lost, is_full = 0, False

    def put(self, record: Record, may_drop: bool = True) -> None:
        self.append(flat(record))

    def of(self, kind: str, id: str | None = None) -> list[Record]:
        """Those of one kind, and of one stream."""
        return [one for one in self if one["kind"] == kind and id in (None, one["id"])]


@pytest.fixture
def serve(site: Site) -> Iterator[Callable[..., tuple[Service, Records]]]:
    """Starts a service on the site file in this process; it is stopped at the end of the test."""
    running: list[Service] = []

    def start(**times: float) -> tuple[Service, Records]:
        records = Records()
        service = Service(read_config(site.file), records, **times)  # type: ignore[arg-type]
        service.start()
        running.append(service)
        return service, records

    yield start
    for service in running:
        service.stop("test")


@pytest.fixture
def told(site: Site) -> Iterator[Callable[[], list[str]]]:
    """Every line that systemd was told so far; it listens at `notify` in the folder of the site.

    Read as it comes: ten messages wait there, and the service goes on without saying the eleventh.
    """
    lines: list[str] = []
    reading, over = threading.Lock(), threading.Event()

    def read() -> list[str]:
        with reading:
            while select.select([heard], [], [], 0.0)[0]:
                lines.extend(heard.recv(1000).decode().splitlines())
            return list(lines)

    def follow() -> None:
        while not over.wait(0.02):
            read()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(site.folder / "notify"))
        follower = threading.Thread(target=follow)
        follower.start()
        yield read
        over.set()
        follower.join()


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 s of sound."""
    return write_sound(tmp_path_factory.mktemp("sound") / "sound.wav", 30.0)


@pytest.fixture
def playing(repository: Path, tmp_path: Path) -> Callable[[bytes], str]:
    """Has hw:1 and plughw:1,0 deliver these bytes; gives the ALSA_CONFIG_PATH for that."""
    spec = importlib.util.spec_from_file_location(
        "pcm", repository / "tests" / "runtime" / "sources" / "alsa_file_pcm.py"
    )
    assert spec is not None
    assert spec.loader is not None
    helper = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helper)
    if not shutil.which("arecord"):
        pytest.skip("arecord is not installed here (alsa-utils)")
    if not helper.STOCK.exists():
        pytest.skip(f"{helper.STOCK} is not here (libasound2-data)")

    def write(data: bytes) -> str:
        (tmp_path / "sound.raw").write_bytes(data)
        return str(helper.write_alsa_config(tmp_path, tmp_path / "sound.raw"))

    return write
