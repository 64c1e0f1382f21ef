"""kill -9 of the running service, again and again: nothing that was committed is lost, doubled or out of order."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from ledger import (
    Committed,
    alarms,
    check_counter,
    check_numbers,
    check_received,
    committed,
    has_all,
    increase,
    total,
)
from made import until
from receivers_of_plant import kept_states
from sounds import played
from station import CommandLine, Forked, Life, soon

SPEED = 30.0
LEVELS = (0.4, 0.2)
"""Every second stream alarms as its sound turns, the others at every few scores."""


def live(plant: Any, lives: CommandLine | Forked, draw: random.Random, opening: float) -> Life:
    """One life, from a start to a kill; `opening` is about how long a start takes."""
    began = time.time()
    lives.start()
    # A third of the kills hits the opening of bundles, store, queues and sources.
    if draw.random() < 0.33:
        time.sleep(opening * (0.4 + 0.6 * draw.random()))
    else:
        until(plant.station.state, 30)
        time.sleep(0.3 + 1.7 * draw.random())
    if draw.random() < 0.5:
        soon(plant.station.command, draw.choice("abcd"), draw.choice(("test", "acknowledge")))
        time.sleep(0.01 * draw.random())
    lives.kill()
    return Life(began, time.time())


def receivers(plant: Any) -> dict[str, list[str]]:
    """What each has got so far."""
    log = plant.station.log
    return {
        "jsonl": log.read_text("utf-8").split("\n")[:-1] if log.exists() else [],
        "mqtt 3.1.1": plant.subscription.taken("three"),
        "mqtt 5": plant.subscription.taken("five"),
        "webhook": plant.hook.taken(),
    }


def kill(plant: Any, lives: CommandLine | Forked, count: int, small_bundle: Path, seed: int) -> dict[str, Any]:
    """Kill `count` services and let one end well; what was counted."""
    station, draw = plant.station, random.Random(seed)
    station.write(
        plant.ports,
        small_bundle,
        [played(plant.turning, SPEED), played(plant.clicking, SPEED)] * 2,
        levels=LEVELS,
        once=True,
    )
    began = time.time()
    lives.start()
    first = time.monotonic()
    station.until_running()
    opening = time.monotonic() - first
    lives.kill()
    lived = [Life(began, time.time())]
    found: Committed = committed(station.data)
    for number in range(1, count):
        lived.append(live(plant, lives, draw, opening))
        found = committed(station.data, found)
        if number % 20 == 0:
            plant.subscription.come_back()
            done = station.edgeasd("alarm", "test", "--config", station.file)
            assert done.returncode == 0, done.stderr
    began = time.time()
    lives.start()
    found = calm(plant, found)
    for name in receivers(plant):
        until(lambda name=name: has_all(receivers(plant)[name], found), 60)
    samples = until(lambda: settled(plant, found, began), 15)
    for (_, id), state in kept_states(plant.broker.port, 4).items():
        assert {name: state[name] for name in ("state", "event", "at")}.items() <= found[id][-1].items()
    lived.append(Life(began, time.time()))
    lives.kill()
    resends = {name: check_received(texts, found) for name, texts in receivers(plant).items()}
    for texts in receivers(plant).values():
        check_numbers(texts)
    held = sum(check_counter(values, found[id], lived) for id, values in samples.items())
    seen_up = [value for values in plant.prometheus.samples('up{job="edgeasd"}').values() for _, value in values]
    assert {0.0, 1.0} <= set(seen_up), "Prometheus saw it away and there"
    return {
        "kills": count,
        "opening_seconds": round(opening, 2),
        "transitions": total(found),
        "events": len({one["event"] for those in found.values() for one in those if one["event"]}),
        "received": {name: len(texts) for name, texts in receivers(plant).items()},
        "resends": resends,
        "scrapes": len(seen_up),
        "scrapes up": int(sum(seen_up)),
        "counters held": held,
        "alarms in the store": sum(alarms(those, 0.0, time.time()) for those in found.values()),
        "alarms by Prometheus": sum(map(increase, samples.values())),
    }


def calm(plant: Any, before: Committed) -> Committed:
    """Let the last life alarm for a while, then put every machine into maintenance; everything that was said then."""
    station = plant.station
    station.until_running()
    time.sleep(1.0)
    station.maintain("abcd")

    def over() -> Committed | None:
        found = committed(station.data, before)
        return found if all(those[-1]["state"] == "normal" for those in found.values()) else None

    found: Committed = until(over, 15)
    return found


def settled(plant: Any, found: Committed, began: float) -> Any:
    """The scraped counters of alarms, once the last of each says what the store says of this life."""
    samples = plant.prometheus.samples("edgeasd_alarms_total")
    wanted = {id: alarms(those, began, time.time()) for id, those in found.items()}
    return samples if {id: values[-1][1] for id, values in samples.items()} == wanted else None


def report(counted: dict[str, Any], seed: int) -> None:
    """For the page of results, with `pytest -s`."""
    print("\n" + json.dumps({"seed": seed, **counted}))


@pytest.mark.timeout(120)
def test_ten_kills_lose_and_disorder_nothing(plant: Any, small_bundle: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    lives = Forked(plant.station)
    try:
        counted = kill(plant, lives, 10, small_bundle, seed)
    finally:
        lives.close()
    report(counted, seed)
    assert counted["transitions"] > 50, seed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundred_kills_lose_and_disorder_nothing(plant: Any, small_bundle: Path) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    counted = kill(plant, CommandLine(plant.station), 100, small_bundle, seed)
    report(counted, seed)
    assert counted["transitions"] > 500, seed
