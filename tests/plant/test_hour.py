"""An hour without a broker: what eight streams say meanwhile waits on the disk, through a kill, and all of it arrives."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ledger import check_numbers, check_received, committed, has_all, total
from made import until
from outages import broker_killed
from sounds import RATE, played

HOUR = 3600.0
SPEED = 20.0
STREAMS = 8
HOP = 24
"""Frames from a segment to the next: a quarter of the segments that the bundle asks for, and two cores keep up."""
SCORES, STATUSES = 360, 120
"""Messages of a stream in an hour: a score every 10 s, a status and a health message every 30 s."""


def coarse(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle with a longer hop."""
    copy = Path(shutil.copytree(bundle, folder / "coarse"))
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    manifest["segments"]["hop"] = HOP
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return copy


def queues(plant: Any) -> dict[str, dict[str, Any]]:
    """State of each MQTT output, with the size of its queue file."""
    state = plant.station.state()
    assert state is not None
    found = {}
    for one in state["outputs"]:
        if one["type"] == "mqtt":
            files = list((plant.station.data / "queues").glob(f"{one['name']}.queue.db*"))
            found[one["name"]] = {**one, "file_bytes": sum(file.stat().st_size for file in files)}
    return found


def silent_hour(plant: Any) -> tuple[float, float, dict[str, dict[str, Any]]]:
    """Run the service until it has said and heard an hour's worth, kill it, and start it again.

    Returns the seconds that took, those of sound, and the queues at the end.
    """
    station = plant.station
    station.start()
    station.until_running()
    began = time.monotonic()

    def heard() -> float:
        """Seconds of sound that the stream that is furthest behind has been through."""
        state = station.state()
        assert state is not None
        return min(one["segments"] for one in state["streams"]) * HOP * 512.0 / RATE

    def said() -> bool:
        """Whether as many messages wait as an hour gives, and the sound of an hour is through."""
        waiting = min(one["queued"] for one in queues(plant).values())
        return waiting >= STREAMS * (SCORES + 2 * STATUSES) and heard() >= HOUR

    until(said, 420)
    took, sound, before, state = time.monotonic() - began, heard(), queues(plant), station.state()
    assert all(one["dropped_seconds"] == one["skipped_segments"] == 0 for one in state["streams"])
    # What is in the queues survives the end of the service.
    station.end(signal.SIGKILL)
    station.start()
    station.until_running()
    # A moment of what the threads had in memory may go with it; of events none may, as the end shows.
    assert all(one["queued"] >= before[name]["queued"] - 50 for name, one in queues(plant).items())
    return took, sound, before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_hour_of_eight_streams_without_a_broker_loses_nothing(
    plant: Any, small_bundle: Path, tmp_path: Path
) -> None:
    station = plant.station
    commands = [played(plant.turning, SPEED), played(plant.clicking, SPEED)] * (STREAMS // 2)
    station.write(plant.ports, coarse(small_bundle, tmp_path), commands, levels=(0.4, 0.2), once=True)
    with broker_killed(plant):
        took, sound, before = silent_hour(plant)
    emptied = time.monotonic()
    until(lambda: all(one["queued"] < 50 for one in queues(plant).values()), 120)
    emptied = time.monotonic() - emptied
    assert all(one["dropped"] == {} for one in queues(plant).values())
    for name in "abcdefgh":
        assert station.command(name, "maintenance_on")
    assert station.end() < 3.0
    found = committed(station.data)
    counts: dict[str, Any] = {}
    for name in ("three", "five"):
        until(lambda name=name: has_all(plant.subscription.taken(name), found), 30)
        resends = check_received(plant.subscription.taken(name), found)
        counts[name] = {**check_numbers(plant.subscription.taken(name)), "resends": resends}
        assert counts[name]["score"] >= STREAMS * SCORES // 2
    figures = {
        name: {key: one[key] for key in ("queued", "queued_bytes", "file_bytes")} for name, one in before.items()
    }
    print(
        "\n"
        + json.dumps(
            {
                "sound_seconds": round(sound),
                "real_seconds": round(took),
                "waiting": figures,
                "emptied_seconds": round(emptied, 1),
                "transitions": total(found),
                "received": counts,
            }
        )
    )
