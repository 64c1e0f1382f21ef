"""An hour without a broker: what eight streams say meanwhile waits on the disk, through a kill, and all of it arrives."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ledger import check_numbers, check_received, committed, has_all, total
from made import until
from outages import broker_killed
from sounds import played

SPEED = 5.0
STREAMS = 8
HOUR = STREAMS * (360 + 120 + 120) + 120
"""Messages in an hour, events left out: a score every 10 s, status and health every 30 s, the status of the service."""


def queues(plant: Any) -> dict[str, dict[str, Any]]:
    """State of each MQTT output, with the size of the database."""
    state = plant.station.state()
    assert state is not None
    found = {}
    for one in state["outputs"]:
        if one["type"] == "mqtt":
            files = list(plant.station.data.glob("events.db*"))
            found[one["name"]] = {**one, "file_bytes": sum(file.stat().st_size for file in files)}
    return found


def silent_hour(plant: Any) -> tuple[float, dict[str, dict[str, Any]]]:
    """Run the service until an hour's worth of messages waits, kill it, and start it again.

    Returns the seconds that took, and the queues at the end.
    """
    station = plant.station
    station.start()
    station.until_running()
    began = time.monotonic()
    until(lambda: all(one["queued"] >= HOUR for one in queues(plant).values()), 300)
    took, before, state = time.monotonic() - began, queues(plant), station.state()
    assert all(one["dropped_seconds"] == one["skipped_segments"] == 0 for one in state["streams"])
    # What is in the queues survives the end of the service.
    station.end(signal.SIGKILL)
    station.start()
    station.until_running()
    # A moment of what the threads had in memory may go with it; of events none may, as the end shows.
    assert all(one["queued"] >= before[name]["queued"] - 50 for name, one in queues(plant).items())
    return took, before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_hour_of_eight_streams_without_a_broker_loses_nothing(plant: Any, small_bundle: Path) -> None:
    station = plant.station
    commands = [played(plant.turning, SPEED), played(plant.clicking, SPEED)] * (STREAMS // 2)
    station.write(plant.ports, small_bundle, commands, levels=(0.4, 0.2), once=True)
    with broker_killed(plant):
        took, before = silent_hour(plant)
    # From now on only what waits, and no new alarms.
    station.maintain("abcdefgh")
    emptied = time.monotonic()
    until(lambda: all(one["queued"] < 50 for one in queues(plant).values()), 120)
    emptied = time.monotonic() - emptied
    assert all(one["dropped"] == {} for one in queues(plant).values())
    assert station.end() < 3.0
    found = committed(station.data)
    counts: dict[str, Any] = {}
    for name in ("three", "five"):
        until(lambda name=name: has_all(plant.subscription.taken(name), found), 30)
        resends = check_received(plant.subscription.taken(name), found)
        counts[name] = {**check_numbers(plant.subscription.taken(name)), "resends": resends}
    sizes = ("queued", "queued_bytes", "file_bytes")
    waited = {name: {size: one[size] for size in sizes} for name, one in before.items()}
    seconds = {"filled": round(took), "emptied": round(emptied, 1)}
    print("\n" + json.dumps({"seconds": seconds, "waited": waited, "transitions": total(found), "received": counts}))
