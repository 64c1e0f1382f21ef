"""Ways in which a receiver goes away, each for the time of a `with`; what it yields is which outputs are dead."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from made import until

BOTH = ("three", "five")


def _subscribed(plant: Any) -> int:
    """How often the subscriber has subscribed."""
    return (plant.broker.folder / "log").read_text("utf-8", "replace").count("Received SUBSCRIBE from plant-control")


@contextmanager
def broker_killed(plant: Any) -> Iterator[tuple[str, ...]]:
    """SIGKILL. The subscriber is back before the box, or a broker that has forgotten it would keep nothing for it."""
    plant.broker.stop(signal.SIGKILL)
    try:
        yield BOTH
    finally:
        before = _subscribed(plant)
        plant.near_broker.stalled = True
        plant.broker.start()
        until(lambda: _subscribed(plant) > before, 20)
        plant.near_broker.cut()
        plant.near_broker.stalled = False


@contextmanager
def broker_stopped(plant: Any) -> Iterator[tuple[str, ...]]:
    """SIGSTOP: connections stand, and nobody answers."""
    plant.broker.process.send_signal(signal.SIGSTOP)
    try:
        yield BOTH
    finally:
        plant.broker.process.send_signal(signal.SIGCONT)


@contextmanager
def line_stalled(plant: Any) -> Iterator[tuple[str, ...]]:
    """A line that takes bytes and passes nothing on."""
    plant.near_broker.stalled = True
    try:
        yield BOTH
    finally:
        plant.near_broker.stalled = False


@contextmanager
def line_torn(plant: Any) -> Iterator[tuple[str, ...]]:
    """A line that resets every connection somewhere in its first bytes: in mid-message."""
    draw = random.Random(3)
    before = plant.near_broker.torn
    plant.near_broker.tear(lambda: draw.randrange(100, 1500))
    try:
        yield BOTH
    finally:
        plant.near_broker.tear(None)
    assert plant.near_broker.torn > before


def hook_behaves(word: str) -> Any:
    """A web server that does not do its work."""

    @contextmanager
    def outage(plant: Any) -> Iterator[tuple[str, ...]]:
        plant.hook.behave(word)
        try:
            yield ("hook",)
        finally:
            plant.hook.behave("take")

    return outage


@contextmanager
def hook_torn(plant: Any) -> Iterator[tuple[str, ...]]:
    """Every connection to the web server is reset within its first request."""
    draw = random.Random(4)
    plant.near_hook.tear(lambda: draw.randrange(10, 900))
    try:
        yield ("hook",)
    finally:
        plant.near_hook.tear(None)
    assert plant.near_hook.torn > 0


@contextmanager
def hook_killed(plant: Any) -> Iterator[tuple[str, ...]]:
    """Nobody listens on its port."""
    plant.hook.stop()
    try:
        yield ("hook",)
    finally:
        plant.hook.start()


@contextmanager
def disk_full(plant: Any) -> Iterator[tuple[str, ...]]:
    """The disk of the JSON lines, which is a small one of its own."""
    folder = plant.station.log.parent
    if not os.path.ismount(folder):
        pytest.skip("NO SMALL DISK: a tmpfs could not be mounted (not root), so none can be full")
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        # What is free in the last page of the file is taken by the next lines.
        yield ("log",)
    finally:
        filler.unlink()


@contextmanager
def file_barred(plant: Any) -> Iterator[tuple[str, ...]]:
    """A folder in the place of the file of JSON lines."""
    log: Path = plant.station.log
    folder = log.with_name("folder")
    folder.mkdir()
    # In one step, or the service could make the file anew in between.
    exchange(folder, log)
    try:
        yield ("log",)
    finally:
        exchange(folder, log)
        folder.rmdir()


def exchange(one: Path, other: Path) -> None:
    """Swap two names at once, with renameat2(2)."""
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if ctypes.CDLL(None, use_errno=True).renameat2(here, bytes(one), here, bytes(other), swap) != 0:
        raise OSError(ctypes.get_errno(), "renameat2", str(one))


@contextmanager
def prometheus_killed(plant: Any) -> Iterator[tuple[str, ...]]:
    """Nobody scrapes."""
    plant.prometheus.stop()
    try:
        yield ()
    finally:
        plant.prometheus.start()


@contextmanager
def everything_dead(plant: Any) -> Iterator[tuple[str, ...]]:
    """Broker, web server, disk and Prometheus at once."""
    with broker_stopped(plant), hook_behaves("hang")(plant), prometheus_killed(plant):
        if os.path.ismount(plant.station.log.parent):
            with disk_full(plant):
                yield (*BOTH, "hook", "log")
        else:
            yield (*BOTH, "hook")


def mount_small(folder: Path, size: str = "8m") -> bool:
    """A disk of its own for a folder; False where that is not allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    return done.returncode == 0


def unmount(folder: Path) -> None:
    """Take it away again."""
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)
