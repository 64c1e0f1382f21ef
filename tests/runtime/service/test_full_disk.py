"""A running service on a small disk that fills up: it goes on scoring, says so, and recovers when there is room."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.config import read_config
from edgeasd.runtime.service.service import Service

pytestmark = pytest.mark.core

RESTLESS = "on = 0.2\nhysteresis = 0.0\nwarning_margin = 0.0\ncooldown_seconds = 0.0\nk = 1\nn = 1\n"


@pytest.fixture
def disk(site: Any) -> Iterator[Path]:
    """A disk of 8 MB in the place of the data folder."""
    site.data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(site.data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO RIGHT to mount a small disk ({done.stderr.strip()}); run as root to test full disks")
    try:
        yield site.data
    finally:
        subprocess.run(["umount", "-l", str(site.data)], check=True)


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path) -> Path:
    """Everything that is left, to the last page."""
    path = disk / "others"
    with open(path, "ab", buffering=0) as handle:
        for size in (1 << 20, 1 << 14, 1 << 12):
            try:
                while handle.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return path


def write(site: Any, sound: Path, floor: float, realtime: bool = True) -> None:
    stream = f'input = "{sound}"\nrealtime = {str(realtime).lower()}\nloop = true\n'
    alarm = (
        f"[streams.a.alarm]\n{RESTLESS}[streams.a.evidence]\npre_seconds = 1\npost_seconds = 1\nlongest_seconds = 3\n"
    )
    site.write(stream + alarm)
    more = f'[evidence]\nmin_free_megabytes = {floor}\n[outputs.log]\ntype = "jsonl"\npath = "log.jsonl"\n'
    site.file.write_text(site.file.read_text("utf-8") + more, "utf-8")


def until(service: Service, holds: Callable[[], Any], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert service.poll()
        assert time.monotonic() < end, f"waited in vain: {service.status().problem}"
        time.sleep(0.05)


def test_full_disk_stops_no_scoring_and_writes_later(site: Any, sound: Path, disk: Path) -> None:
    write(site, sound, floor=0.1)
    service = Service(read_config(site.file))
    service.start()
    try:
        until(service, lambda: service.is_loaded and service.status().streams[0].segments > 5)
        assert service.status().problem is None
        others = fill(disk)
        until(service, lambda: service.status().problem)
        scored = service.status().streams[0].segments
        began = time.monotonic()
        until(service, lambda: service.status().streams[0].segments > scored + 20)
        state = service.status()
        assert time.monotonic() - began < 10
        assert (state.streams[0].state, state.streams[0].dropped_seconds) == ("running", 0.0)
        assert service.is_healthy(time.monotonic())
        fill(disk)
        assert any(one["test"] for one in service.command("a", {"command": "test"})), "alarms go on, from memory"
        assert "full" in str(service.status().problem)
        others.unlink()
        until(service, lambda: service.status().problem is None, 60.0)
        assert any(one["test"] for one in service.command("a", {"command": "test"}))
        until(service, lambda: service.status().outputs[0].queued == 0)
    finally:
        assert service.stop("test")
    with sqlite3.connect(disk / "events.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        numbers = [number for (number,) in store.execute("SELECT sequence FROM transitions ORDER BY sequence")]
    assert numbers == sorted(set(numbers))
    lines = [json.loads(line) for line in (disk / "log.jsonl").read_text("utf-8").splitlines()]
    said = [one["body"]["sequence"] for one in lines if one["kind"] == "event"]
    # Nothing was lost, and nothing came out of order.
    assert list(dict.fromkeys(said)) == numbers
    # The database that could not be written is whole: it was not quarantined.
    assert not list(disk.glob("*.corrupt-*"))


def test_evidence_keeps_free_space_under_endless_alarms(site: Any, sound: Path, disk: Path) -> None:
    write(site, sound, floor=6.5, realtime=False)
    service = Service(read_config(site.file))
    service.start()
    least = free(disk)
    try:
        end = time.monotonic() + 20
        while time.monotonic() < end and service.supervisor.evidence is not None:
            assert service.poll()
            least = min(least, free(disk))
            if (
                service.supervisor.evidence.status().deleted >= 3
                or service.supervisor.evidence.status().lost_clips >= 3
            ):
                break
            time.sleep(0.01)
        assert service.status().streams[0].state == "running"
    finally:
        assert service.stop("test")
    assert service.supervisor.evidence is not None
    status = service.supervisor.evidence.status()
    assert status.clips > 0
    assert status.deleted + status.lost_clips >= 3
    # Store, queue and log are written into what the floor keeps free, and a clip is looked at every 250 kB.
    assert least > 4_000_000
