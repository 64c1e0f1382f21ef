"""Receivers that go away under the running service: scores come as before, other outputs go on, nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import outages
import pytest
from grounds import Plant, make_plant
from ledger import check_numbers, check_received, committed, has_all, total
from made import until
from pulse import Figures, Pulse
from sounds import played

SPEED, STREAMS = 2.0, 4
"""Twice real time: scoring that is held up for half a second by others on the machine does not yet skip segments."""
OUTAGES = {
    "the broker hangs": outages.broker_stopped,
    "the broker is killed": outages.broker_killed,
    "the line to the broker passes nothing on": outages.line_stalled,
    "the line to the broker is reset in mid-message": outages.line_torn,
    "the web server answers 500": outages.hook_behaves("fail"),
    "the web server hangs": outages.hook_behaves("hang"),
    "the web server closes without an answer": outages.hook_behaves("close"),
    "the line to the web server is reset in mid-message": outages.hook_torn,
    "the web server is gone": outages.hook_killed,
    "the disk of the JSON lines is full": outages.disk_full,
    "a folder stands in the place of the JSON lines": outages.file_barred,
    "Prometheus is gone": outages.prometheus_killed,
}
PERSISTENT = ("persistence true", "autosave_interval 1", "autosave_on_changes true")


class Running:
    """A plant whose service runs, and listens to four streams."""

    def __init__(self, plant: Plant, bundle: Path) -> None:
        self.plant, self.station = plant, plant.station
        kinds = ("event", "score", "health", "status", "start", "stop")
        commands = [played(plant.turning, SPEED), played(plant.clicking, SPEED)] * 2
        # Not live: what is live is held to real time once it is 30 s ahead. What is late is dropped all the same.
        self.station.write(plant.ports, bundle, commands, levels=(0.4, 0.2), kinds=kinds, once=True, pace="drop")
        process = self.station.start("--jsonl", "-", out=subprocess.PIPE)
        assert process.stdout is not None
        self.pulse = Pulse(process.stdout, SPEED, STREAMS)
        self.station.until_running()

    def outputs(self) -> dict[str, dict[str, Any]]:
        """State of each output by name."""
        state = self.station.state()
        assert state is not None
        return {one["name"]: one for one in state["outputs"]}

    def received(self) -> dict[str, list[str]]:
        """By output."""
        log = self.station.log
        return {
            "log": log.read_text("utf-8").split("\n")[:-1] if log.is_file() else [],
            "three": self.plant.subscription.taken("three"),
            "five": self.plant.subscription.taken("five"),
            "hook": self.plant.hook.taken(),
        }

    def everything_arrives(self) -> int:
        """What is committed by now comes to every receiver; how many transitions that is."""
        found = committed(self.station.data)
        until(lambda: all(has_all(texts, found) for texts in self.received().values()), 30)
        return total(found)

    def end(self) -> None:
        """End in good order, and hold everything that was received against everything that was committed."""
        assert self.station.end() < 3.0
        found = committed(self.station.data)
        until(lambda: all(has_all(texts, found) for texts in self.received().values()), 30)
        resends = {name: check_received(texts, found) for name, texts in self.received().items()}
        counts = {name: dict(check_numbers(texts)) for name, texts in self.received().items()}
        self.pulse.check_unbroken("a", "b", "c", "d")
        print("\n" + json.dumps({"transitions": total(found), "resends": resends, "messages": counts}))


def run(folder: Path, bundle: Path, *lines: str) -> Iterator[Running]:
    """A running plant with a small disk for its JSON lines; everything is held together at its end."""
    with ExitStack() as stack:
        plant = make_plant(folder, stack, *lines)
        stack.callback(outages.unmount, plant.station.log.parent)
        outages.mount_small(plant.station.log.parent)
        running = Running(plant, bundle)
        yield running
        running.end()


@pytest.fixture
def running(tmp_path: Path, small_bundle: Path) -> Iterator[Running]:
    """Of one test."""
    yield from run(tmp_path, small_bundle)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, small_bundle: Path) -> Iterator[Running]:
    """One service through all the outages."""
    yield from run(tmp_path_factory.mktemp("lasting"), small_bundle)


def live_through(running: Running, outage: Any, seconds: float) -> None:
    """As `live_through_once`; what a machine that others use does to the figures it does not do three times."""
    for attempt in range(3):
        try:
            return live_through_once(running, outage, seconds)
        except LateScores as late:
            print(f"attempt {attempt + 1}: {late}")
            last = late
    raise last


class LateScores(AssertionError):
    """Fewer scores, or later ones, than a machine at rest gives."""


def live_through_once(running: Running, outage: Any, seconds: float) -> None:
    """An outage: scores and the other outputs as before, and everything arrives in the end."""
    before = running.pulse.measure(seconds)
    others = running.outputs()
    with outage(running.plant) as dead:
        during = running.pulse.measure(seconds)
        state = running.outputs()
        for name in dead:
            assert state[name]["queued"] > 0, f"{name} was not dead"
            assert state[name]["failed"] > others[name]["failed"]
            assert state[name]["last_error"]
        for name in {"log", "three", "five", "hook"} - {*dead}:
            assert state[name]["delivered"] > others[name]["delivered"], f"{name} was held up"
    came = running.everything_arrives()
    print("\n" + json.dumps({"before": before._asdict(), "during": during._asdict(), "transitions": came}))
    check_same(before, during)
    assert all(one["dropped"] == {} for one in running.outputs().values())


def check_same(before: Figures, during: Figures) -> None:
    """As many scores, and no later, on a machine that others use."""
    enough = all(figures.scores == pytest.approx(figures.wanted, rel=0.2) for figures in (before, during))
    if not enough or during.p50 > before.p50 + 0.1 or during.p99 > before.p99 + 0.5:
        raise LateScores(f"{before} before, {during} during")


@pytest.mark.timeout(240)
def test_everything_dead_at_once_costs_no_score_and_no_message(running: Running) -> None:
    live_through(running, outages.everything_dead, 3.0)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("outage", OUTAGES.values(), ids=OUTAGES)
def test_an_outage_costs_no_score_and_no_message(lasting: Running, outage: Any) -> None:
    live_through(lasting, outage, 3.0)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_with_persistence_is_killed(tmp_path: Path, small_bundle: Path) -> None:
    lines = (*PERSISTENT, f"persistence_location {tmp_path / 'broker'}{os.sep}")
    for running in run(tmp_path, small_bundle, *lines):
        live_through(running, outages.broker_killed, 3.0)
