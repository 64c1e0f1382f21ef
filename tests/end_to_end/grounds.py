"""A plant on loopback: broker, web server, Prometheus, and a box with a restless sound."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from made import free_port
from receivers import Broker, Proxy
from receivers_of_plant import Hook, Prometheus, Subscription
from sounds import write_turns
from station import Ports, Station

UNBOUNDED = ("allow_anonymous true", "max_queued_messages 0", "max_inflight_messages 0")
"""mosquitto forgets beyond 1000 messages for a subscriber that is away, by default."""


class Plant(NamedTuple):
    """Everything, running; the service is not."""

    station: Station
    broker: Broker
    near_broker: Proxy
    """What the box reaches the broker through."""
    subscription: Subscription
    hook: Hook
    near_hook: Proxy
    prometheus: Prometheus
    ports: Ports
    turning: Path
    """Sound whose alarms come and go with it."""
    clicking: Path
    """Sound that scores about 0.2 all the time."""


def make_plant(folder: Path, stack: ExitStack, *lines: str) -> Plant:
    """Start the receivers, the broker with further `lines` of configuration; skips where a program is not there."""
    pytest.importorskip("paho.mqtt.client", reason="NO paho-mqtt: pip install 'edgeasd[serve]'")
    pytest.importorskip("prometheus_client", reason="NO prometheus-client: pip install 'edgeasd[serve]'")
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        pytest.skip("NO BROKER: mosquitto is not installed")
    broker = Broker(folder / "broker", *UNBOUNDED, *lines)
    metrics = free_port()
    prometheus = Prometheus(folder / "prometheus", f"127.0.0.1:{metrics}")
    stack.callback(prometheus.stop)
    broker.start()
    hook = Hook(folder)
    stack.callback(hook.stop)
    stack.callback(broker.stop)
    near_broker, near_hook = Proxy(broker.port), Proxy(hook.port)
    stack.callback(near_broker.close)
    stack.callback(near_hook.close)
    subscription = Subscription(broker)
    stack.callback(subscription.close)
    station = Station(folder / "box")
    stack.callback(_clear, station)
    ports = Ports(near_broker.port, near_hook.port, metrics)
    sounds = write_turns(folder / "turning.wav"), write_turns(folder / "clicking.wav", (True, True), seed=1)
    return Plant(station, broker, near_broker, subscription, hook, near_hook, prometheus, ports, *sounds)


def _clear(station: Station) -> None:
    """End a service that a failed test has left."""
    process = station.process
    if process is not None and process.poll() is None:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
