"""What the tests of the outputs share: messages, a broker, a web server, a proxy that can stall."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for receivers.py

from made import event, score
from receivers import Broker, Proxy, WebServer


@pytest.fixture
def an_event() -> Callable[..., dict[str, Any]]:
    """(sequence, machine="valve", …) to an event message."""
    return event


@pytest.fixture
def a_score() -> Callable[..., dict[str, Any]]:
    """(value, machine="valve") to a score message."""
    return score


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    """A real web server in a process of its own."""
    server = WebServer()
    yield server
    server.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real mosquitto on loopback."""
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.skip("NO BROKER: mosquitto is not installed")
    made = Broker(tmp_path / "broker")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def proxies() -> Iterator[Callable[[int], Proxy]]:
    """(port) to a proxy in front of it that can be stalled and cut."""
    made: list[Proxy] = []

    def make(port: int) -> Proxy:
        made.append(Proxy(port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
