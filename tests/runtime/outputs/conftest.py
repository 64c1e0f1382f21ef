"""What the tests of the outputs share: messages, a broker, a web server, a proxy that can stall."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for receivers.py

from made import event, score
from receivers import Broker, Proxy, WebServer

_NUMBERS = itertools.count(1)


@pytest.fixture
def an_event() -> Callable[..., dict[str, Any]]:
    """(sequence, machine="valve", …) to an event message."""
    return event


@pytest.fixture
def a_score() -> Callable[..., dict[str, Any]]:
    """(value, machine="valve") to a score message."""
    return score


@pytest.fixture(scope="module")
def shared_web_server() -> Iterator[WebServer]:
    """A real web server in a process of its own, for webhooks."""
    pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")
    server = WebServer()
    yield server
    server.stop()


@pytest.fixture
def web_server(shared_web_server: WebServer) -> WebServer:
    """The same, without what earlier tests sent or asked for."""
    if shared_web_server.process.poll() is not None:
        shared_web_server.start()
    shared_web_server.reset()
    return shared_web_server


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real mosquitto on loopback, for tests that use topics of their own and leave it running."""
    _need_mosquitto()
    broker = Broker(tmp_path_factory.mktemp("mosquitto") / "broker")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def site() -> str:
    """A name of a site that no other test uses."""
    return f"plant {next(_NUMBERS)}"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A mosquitto of the test's own, which it may kill."""
    _need_mosquitto()
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


def _need_mosquitto() -> None:
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.skip("NO BROKER: mosquitto is not installed")


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
