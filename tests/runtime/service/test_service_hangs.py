"""What hangs or fails beside a service costs no more than itself."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.config import read_config
from edgeasd.runtime.errors import DeviceError
from edgeasd.runtime.service import Service

pytestmark = [pytest.mark.core, pytest.mark.timeout(120)]


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
    # As fast as it goes, so that the pipe is soon full.
    site.write(*[f'input = "{sound}"\nloop = true\npace = "drop"\n'] * 2)
    process = site.start()
    site.until(lambda: waiting(fifo) > 3000)
    time.sleep(0.5)
    took, said = site.end(process)
    assert took < 10.0
    assert process.returncode == 0, said
    assert "a thread had to be left behind" in said


def test_a_file_has_all_of_its_records_however_slow_their_reader(site: Any, sound: Path, fifo: int) -> None:
    site.write(f'input = "{sound}"\n')
    process = site.start()
    # All is scored, and the service would have ended, long before anybody reads.
    site.until(lambda: waiting(fifo) > 3000)
    time.sleep(3.0)
    os.set_blocking(fifo, True)
    with open(fifo, encoding="utf-8", closefd=False) as reader:
        records = [json.loads(line) for line in reader]
    assert process.wait(20) == 0
    assert [one["kind"] for one in records].count("score") > 100
    # What the keeper says of the last scores may come behind it.
    assert [one["reason"] for one in records if one["kind"] == "end"] == ["end of sound"]


def test_an_engine_that_was_replaced_late_is_let_go(
    site: Any, sound: Path, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(small_bundle, site.folder / "other")
    missing, open_scorer = [True], Bundle.open_scorer

    def opened(bundle: Bundle, **engine: Any) -> Any:
        if missing and bundle.path == other.resolve():
            raise DeviceError("its engine is not built yet")
        return open_scorer(bundle, **engine)

    monkeypatch.setattr(Bundle, "open_scorer", opened)
    monkeypatch.setattr("edgeasd.runtime.service.fleet.FIRST_PAUSE", 0.2)
    stream = f'input = "{sound}"\nrealtime = true\nloop = true\n'
    site.write(stream)
    log: list[str] = []
    service = Service(read_config(site.file), log=log.append)
    service.start()
    try:
        site.until(lambda: service.poll() and service.loaded.is_set())
        (before,) = service.fleet._engines
        site.write(f'bundle = "{other}"\n{stream}')
        service.reload()
        site.until(lambda: "a: its engine is not built yet" in log)
        assert [*service.fleet._engines] == [before], "it goes on with what it had"
        missing.clear()
        site.until(lambda: service.fleet.berths["a"].key not in (None, before))
        site.until(lambda: before not in service.fleet._engines)
    finally:
        assert service.stop("test")


def test_a_command_that_nobody_can_take_is_said(site: Any, sound: Path) -> None:
    site.write(f'input = "{sound}"\nrealtime = true\nloop = true\n')
    log: list[str] = []
    service = Service(read_config(site.file), log=log.append)
    service.start()
    held = threading.Event()
    try:
        site.until(lambda: service.poll() and service.loaded.is_set() and service.keeper.kept)
        assert service.keeper.post(lambda: held.wait(30))
        while service.keeper.post(lambda: None):
            pass
        service._command_from_outside("valve", "a", {"command": "maintenance_on"})
        assert any("a command was not carried out" in line for line in log)
    finally:
        held.set()
        assert service.stop("test")
