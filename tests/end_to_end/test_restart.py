"""What is shown of an alarm that was raised before the start, while nothing has happened since."""

from __future__ import annotations

import signal
import socket
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ledger import check_received, committed
from made import until
from receivers_of_plant import kept_states
from sounds import played
from station import Forked


def page(port: int) -> str:
    """The page of metrics, or nothing."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
        return str(answer.read().decode())
    return ""


def waiting(plant: Any, output: str) -> int | None:
    """Messages that an output has not delivered; None where the service does not answer."""
    state = plant.station.state() or {"outputs": []}
    return next((one["queued"] for one in state["outputs"] if one["name"] == output), None)


@pytest.mark.timeout(60)
def test_an_open_alarm_is_shown_after_a_crash_of_box_and_broker(plant: Any, small_bundle: Path) -> None:
    plant.station.write(plant.ports, small_bundle, [played(plant.turning, 20.0)], levels=(-1.0,), once=True)
    lives = Forked(plant.station)
    try:
        lives.start()
        alarm = 'edgeasd_alarm_state{id="a",machine="valve",state="alarm"} 1.0'
        until(lambda: alarm in page(plant.ports.metrics), 20)
        assert 'edgeasd_alarms_total{id="a",machine="valve"} 1.0' in page(plant.ports.metrics)
        before = kept_states(plant.broker.port, 1)
        until(lambda: plant.hook.taken() and waiting(plant, "hook") == 0)
        lives.kill()
        plant.broker.stop(signal.SIGKILL)
        plant.broker.start()
        lives.start()
        plant.station.until_running()
        until(lambda: alarm in page(plant.ports.metrics))
        assert 'edgeasd_alarms_total{id="a",machine="valve"} 0.0' in page(plant.ports.metrics)
        assert kept_states(plant.broker.port, 1) == before
    finally:
        lives.close()
    found = committed(plant.station.data)
    assert [one["state"] for one in found["a"]] == ["alarm"]
    # A cursor is written once a second: what was delivered in the last second before a kill comes once more.
    assert check_received(plant.hook.taken(), found) <= 1


@pytest.mark.timeout(60)
def test_command_without_a_service_reaches_the_receivers(plant: Any, small_bundle: Path) -> None:
    station = plant.station
    station.write(plant.ports, small_bundle, [played(plant.turning, 20.0)])
    # Were the address opened, the command would fail.
    with socket.create_server(("127.0.0.1", plant.ports.metrics)):
        done = station.edgeasd("alarm", "test", "--config", station.file)
    assert done.returncode == 0, done.stderr
    found = committed(station.data)
    assert [one["reason"] for one in found["a"]] == ["test", "test_over"]
    for texts in (plant.hook.taken(), plant.subscription.taken("three"), plant.subscription.taken("five")):
        assert check_received(texts, found) == 0
