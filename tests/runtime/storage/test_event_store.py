"""The event store: exactly once, sound after kills, strict about files that are not its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command, Transition
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.storage import EventStore, Retention
from edgeasd.runtime.storage import event_store as pruning

pytestmark = pytest.mark.core

THRESHOLD = Threshold(clip=1.0, consecutive=1, found_by="test", clips=1)
WALL = 1_800_000_000.0
DAY = 86_400.0
WRITER = Path(__file__).with_name("event_writer.py")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "events.db") as opened:
        yield opened


def machine(id: str = "00") -> AlarmMachine:
    return AlarmMachine("valve", id, AlarmSettings(), THRESHOLD)


def event(of: AlarmMachine, at: float, seconds: float = 1.0, peak: float = 5.0) -> list[Transition]:
    """Raised at `at` seconds after WALL, acknowledged, cleared."""
    said = of.step(AlarmInput(at, WALL + at, 2.0)) + of.step(AlarmInput(at, WALL + at, peak))
    said += of.command(Command(command="acknowledge", by="anna"), at, WALL + at)
    return said + of.step(AlarmInput(at + seconds, WALL + at + seconds, 0.0))


def test_stored_transitions_come_back_and_make_an_event(store: EventStore) -> None:
    one = machine()
    said = event(one, 10.0)
    assert store.append(said, one.snapshot()) == 3
    assert store.transitions("valve", "00") == [t.to_json() for t in said]
    assert store.transitions("valve", "00", after=2) == [said[2].to_json()]
    assert store.transitions("valve", "01") == []
    assert store.events() == [
        {
            "event": said[0].event,
            "machine": "valve",
            "id": "00",
            "raised_at": WALL + 10,
            "acknowledged_at": WALL + 10,
            "cleared_at": WALL + 11,
            "cleared_by": "score",
            "peak": 5.0,
            "threshold": 1.0,
            "test": False,
            "first_sequence": 1,
            "last_sequence": 3,
            "lasted_seconds": 1.0,
        }
    ]
    assert store.event_transitions(str(said[0].event)) == [t.to_json() for t in said]
    assert store.snapshot("valve", "00") == one.snapshot()
    assert store.snapshot("fan", "00") is None


def test_transition_is_stored_once(store: EventStore) -> None:
    said = event(machine(), 10.0)
    assert store.append(said[:2]) == 2
    assert store.append(said) == 1
    assert store.append(said) == 0
    other = event(machine(), 20.0)
    with pytest.raises(InputError, match="transition 1 of valve 00 is stored already with other content"):
        store.append(other)
    assert [t["sequence"] for t in store.transitions("valve", "00")] == [1, 2, 3]
    assert len(store.events()) == 1


def test_failed_append_leaves_nothing(store: EventStore) -> None:
    one = machine()
    first, *rest = event(one, 10.0)
    with pytest.raises(ValueError, match="Out of range float"):
        store.append([first], {"machine": "valve", "id": "00", "peak": float("nan")})
    assert store.transitions("valve", "00") == []
    assert store.append([first, *rest], one.snapshot()) == 3


def test_events_are_found_by_machine_time_and_state(store: EventStore) -> None:
    one, two = machine("00"), machine("01")
    for at in (0.0, 100.0, 200.0):
        store.append(event(one, at))
    store.append(two.step(AlarmInput(150.0, WALL + 150, 2.0)))
    store.append(two.command(Command(command="test"), 150.0, WALL + 150))
    # A test during an open event is an event of its own, and over at once.
    assert [(e["raised_at"] - WALL, e["test"]) for e in store.events("valve", "01")] == [(150, True), (150, False)]
    assert [e["raised_at"] - WALL for e in store.events() if not e["test"]] == [200, 150, 100, 0]
    assert [e["raised_at"] - WALL for e in store.events("valve", "00", since=WALL + 100)] == [200, 100]
    assert [e["raised_at"] - WALL for e in store.events(until=WALL + 100)] == [0]
    assert [e["id"] for e in store.events(open_only=True)] == ["01"]
    assert len(store.events(limit=2)) == 2


def test_test_alarm_is_marked(store: EventStore) -> None:
    store.append(machine().command(Command(command="test"), 1.0, WALL))
    (found,) = store.events()
    assert (found["test"], found["cleared_by"], found["peak"]) == (True, "test_over", None)


# History


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * 3600 * 1000), st.floats(-10, 10)), max_size=60))
def test_history_holds_mean_low_and_high(tmp_path_factory: Any, seen: list[tuple[int, float]]) -> None:
    once = dict(reversed(seen))
    with EventStore.open(tmp_path_factory.mktemp("history") / "e.db") as store:
        assert store.add_scores("valve", "00", [(WALL + ms / 1000, score) for ms, score in seen]) == len(once)
        for resolution, width in (("minute", 60), ("hour", 3600)):
            groups: dict[float, list[float]] = {}
            for ms, score in once.items():
                groups.setdefault(WALL + ms // (1000 * width) * width, []).append(score)
            rows = store.history("valve", "00", resolution)
            assert [row["at"] for row in rows] == sorted(groups)
            for row in rows:
                group = groups[row["at"]]
                assert (row["count"], row["low"], row["high"]) == (len(group), min(group), max(group))
                assert row["mean"] == pytest.approx(mean(group), abs=1e-9)


def test_scores_count_once_and_only_if_finite(store: EventStore) -> None:
    scores = [(WALL, 1.0), (WALL + 1, float("nan")), (WALL + 2, float("inf")), (WALL + 3, 3.0)]
    assert store.add_scores("valve", "00", scores) == 2
    assert store.add_scores("valve", "00", scores) == 0
    (minute,) = store.history("valve", "00")
    assert (minute["count"], minute["mean"]) == (2, 2.0)
    assert store.history("valve", "00", "score", since=WALL + 1) == [{"at": WALL + 3, "score": 3.0}]
    with pytest.raises(InputError, match="resolution day: unknown"):
        store.history("valve", "00", "day")


def test_pruning_keeps_young_open_and_newest_events(store: EventStore) -> None:
    one = machine("00")
    for day in range(5):
        store.append(event(one, day * DAY))
        store.add_scores("valve", "00", [(WALL + day * DAY, 1.0)])
    two = machine("01")
    store.append(two.step(AlarmInput(0.0, WALL, 2.0)))
    keep = Retention(scores=1.5 * DAY, minutes=2.5 * DAY, hours=3.5 * DAY, events=1.5 * DAY, fewest_events=1)
    assert store.prune(WALL + 4 * DAY, keep) > 0
    assert len(store.history("valve", "00", "score")) == 2
    assert len(store.history("valve", "00", "minute")) == 3
    assert len(store.history("valve", "00", "hour")) == 4
    assert [(e["raised_at"] - WALL) / DAY for e in store.events("valve", "00")] == [4, 3]
    assert len(store.events("valve", "01", open_only=True)) == 1
    assert len(store.transitions("valve", "01")) == 1
    kept = {t["event"] for t in store.transitions("valve", "00")} - {None}
    assert kept == {e["event"] for e in store.events("valve", "00")}
    assert store.prune(WALL + 4 * DAY, keep) == 0
    # A clock that is wrong by years takes the newest events from nobody.
    store.prune(WALL + 1e9, keep)
    assert len(store.events("valve", "00")) == 1


def test_pruning_reads_no_whole_table(store: EventStore) -> None:
    """By instructions of SQLite's own machine, which no busy computer changes."""
    for id in range(20):
        store.add_scores("valve", str(id), [(WALL + second, 1.0) for second in range(200)])
    steps = [0]

    def count() -> int:
        steps[0] += 1
        return 0

    store.database._reader.set_progress_handler(count, 10)
    assert store.prune(WALL, Retention()) == 0
    # A look at every one of the 4000 scores would be some twenty thousand instructions.
    assert steps[0] < 400


def test_others_write_between_two_parts_of_a_pruning(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "_BATCH", 10)
    for id in ("00", "01"):
        store.add_scores("valve", id, [(WALL + second, 1.0) for second in range(35)])
    keep, left, parts = Retention(scores=DAY), [70], 0
    while store.prune_some(WALL + DAY + 30, keep):
        left.append(sum(len(store.history("valve", id, "score")) for id in ("00", "01")))
        assert 0 <= left[-2] - left[-1] <= 10
        parts += 1
        with EventStore.open(tmp_path / "events.db") as other:
            other.add_scores("valve", "02", [(WALL + DAY + parts, 1.0)])
    assert left[-1] == 10
    # Twice 30 rows, each machine in three whole parts and one that finds no more.
    assert parts == 8
    assert not store.prune_some(WALL + DAY + 30, keep)
    assert len(store.history("valve", "02", "score")) == parts


def test_alarm_machine_continues_from_the_file(tmp_path: Path) -> None:
    first = machine()
    with EventStore.open(tmp_path / "e.db") as store:
        store.append(first.step(AlarmInput(1.0, WALL, 2.0)), first.snapshot())
    second = machine()
    with EventStore.open(tmp_path / "e.db") as store:
        second.restore(store.snapshot("valve", "00"))
        assert second.state == "alarm"
        said = second.step(AlarmInput(2.0, WALL + 1, 0.0))
        store.append(said, second.snapshot())
        assert [t["state"] for t in store.transitions("valve", "00")] == ["alarm", "cleared"]


def test_others_read_while_the_service_writes(store: EventStore) -> None:
    said = event(machine(), 10.0)
    with EventStore.open(store.database.path, read_only=True) as reader:
        assert reader.events() == []
        store.append(said)
        assert len(reader.events()) == 1
        with pytest.raises(InputError, match="readonly"):
            reader.append(event(machine("01"), 10.0))


# Kills


def test_store_is_complete_after_kills_at_random_instants(tmp_path: Path) -> None:
    path, chance, said = tmp_path / "events.db", random.Random(), 0
    command = [sys.executable, str(WRITER), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for _ in range(20):
            parent.stdin.write("\n")
            parent.stdin.flush()
            writer = 0
            while not writer:
                word, _, number = parent.stdout.readline().partition(" ")
                if word == "writer":
                    writer = int(number)
                else:
                    said = int(number)
            time.sleep(chance.uniform(0.0, 0.15))
            os.kill(writer, signal.SIGKILL)
            while (line := parent.stdout.readline()) != "gone\n":
                said = int(line.split()[1])
            with EventStore.open(path) as store:
                look_over(store, said)
        parent.stdin.close()
    assert said > 20, "the writers came to write"


def look_over(store: EventStore, said: int) -> None:
    messages = store.transitions("valve", "00", limit=10**9)
    # What was said to be committed is there; one more may have been, whose saying was cut off.
    assert [m["sequence"] for m in messages] == list(range(1, len(messages) + 1))
    assert len(messages) >= said
    for earlier, later in pairwise(messages):
        assert later["previous"] == earlier["state"]
    snapshot = store.snapshot("valve", "00")
    assert (snapshot["sequence"] if snapshot else 0) == len(messages)
    raised = [m["event"] for m in messages if m["state"] == "alarm"]
    assert len(set(raised)) == len(raised)
    events = store.events(limit=10**9)
    assert {e["event"] for e in events} == set(raised)
    assert sum(e["cleared_at"] is None for e in events) == (1 if snapshot and snapshot["event"] else 0)
    scores = store.history("valve", "00", "score")
    for resolution in ("minute", "hour"):
        assert sum(row["count"] for row in store.history("valve", "00", resolution)) == len(scores)
