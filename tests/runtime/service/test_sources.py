"""The service beside sources, readers and engines that stop, hang or are slow: as processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from edgeasd.runtime.service.control import ask

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]


def test_a_sound_device_gives_the_segments_of_score_live(
    site: Any, sound: Path, playing: Callable[[bytes], str]
) -> None:
    samples, _ = soundfile.read(sound, dtype="int16")
    site.write('device = "hw:1"\npace = "block"\n')
    live = site.command("score", site.bundle, sound, "--live")
    theirs = [one["body"] for one in map(json.loads, live.stdout.splitlines()) if one["kind"] == "segment"]
    process = site.start(ALSA_CONFIG_PATH=playing(samples.tobytes()))
    site.until(lambda: len(site.records("segment")) >= len(theirs))
    took, said = site.end(process)
    assert process.returncode == 0, said
    assert took < 2.0
    for one, two in zip(site.bodies("segment")[: len(theirs)], theirs, strict=True):
        for name in ("start_sample", "end_sample", "averaged", "complete", "above_threshold"):
            assert one[name] == two[name]
        assert one["clip_score"] == pytest.approx(two["clip_score"], rel=1e-6)


PACED = """
import os, sys, time
open(sys.argv[2], "a").write(f"{os.getpid()}\\n")
data = open(sys.argv[1], "rb").read()[44:]
for i in range(10_000):
    sys.stdout.buffer.write(data[3200 * (i % 280):][:3200]); sys.stdout.buffer.flush()
    time.sleep(0.1)
"""
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
os.write(1, os.urandom(32000))
time.sleep(60)
"""


def test_killed_source_comes_back_stubborn_ones_block_no_stop(site: Any, sound: Path) -> None:
    (site.folder / "paced.py").write_text(PACED, "utf-8")
    (site.folder / "stubborn.py").write_text(STUBBORN, "utf-8")
    pids, stubborn = site.folder / "pids", site.folder / "stubborn"
    hard = f"{sys.executable} {site.folder / 'stubborn.py'} {stubborn}"
    site.write(
        f"input_command = '{sys.executable} {site.folder / 'paced.py'} {sound} {pids}'",
        f'input = "{sound}"\nloop = true',
        *(f"input_command = '{hard} {number}'" for number in range(4)),
    )
    process = site.start()
    site.until(lambda: stubborn.exists() and len(stubborn.read_text().split()) == 4)
    site.until(lambda: (state := ask(site.data, {"ask": "status"})) and state["streams"][0]["level_dbfs"] > -60)
    before = len(site.records("segment"))
    os.kill(int(pids.read_text("utf-8").split()[0]), signal.SIGKILL)
    site.until(lambda: [one["state"] for one in site.records("source") if one["id"] == "a"] == ["lost", "reopened"])
    site.until(lambda: any(one["id"] == "a" for one in site.records("gap")))
    assert len(pids.read_text("utf-8").split()) == 2
    assert len(site.records("segment")) > before
    state = ask(site.data, {"ask": "status"})
    assert [one["state"] for one in state["streams"][:2]] == ["running", "running"]
    assert state["streams"][0]["dropped_seconds"] > 0
    took, said = site.end(process)
    assert process.returncode == 0, said
    # One second of the two is theirs; one after the other they would take four. The rest is a busy machine's.
    assert took < 4.0
    assert "a: lost: " in said
    for pid in stubborn.read_text().split():
        assert not Path(f"/proc/{pid}").exists()


@pytest.fixture
def fifo(site: Any) -> Iterator[int]:
    """A pipe with a name, to which the records of the service go, open for reading by somebody who does not read."""
    site.records_file = site.folder / "records.fifo"
    site.records = lambda kind=None: [None] * (site.data / "events.db").exists()
    os.mkfifo(site.records_file)
    reader = os.open(site.records_file, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    yield reader
    os.close(reader)


def waiting(reader: int) -> int:
    """Bytes in a pipe."""
    count = bytearray(4)
    fcntl.ioctl(reader, termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


def test_sigterm_ends_a_service_whose_records_nobody_reads(site: Any, sound: Path, fifo: int) -> None:
    site.write(*[f'input = "{sound}"\nloop = true\npace = "drop"\n'] * 2)
    process = site.start()
    site.until(lambda: waiting(fifo) > 3000)
    took, said = site.end(process)
    assert took < 10.0
    assert process.returncode == 0, said
    assert "a thread had to be left behind" in said


def test_a_file_has_all_of_its_records_however_slow_their_reader(site: Any, sound: Path, fifo: int) -> None:
    site.write(f'input = "{sound}"\n')
    process = site.start()
    # All is scored, and the service would have ended, long before anybody reads.
    site.until(lambda: waiting(fifo) > 3000)
    time.sleep(2.0)
    os.set_blocking(fifo, True)
    with open(fifo, encoding="utf-8", closefd=False) as reader:
        records = [json.loads(line) for line in reader]
    assert process.wait(20) == 0
    assert [one["kind"] for one in records].count("segment") > 100
    assert records[-1]["body"]["reason"] == "end of sound"
