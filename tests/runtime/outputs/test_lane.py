"""A lane by itself, where its receiver and its disk fail at once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from made import until

from edgeasd.runtime.outputs.backoff import Backoff
from edgeasd.runtime.outputs.lane import REFUSALS, Lane
from edgeasd.runtime.outputs.queue import Limits, Queue
from edgeasd.runtime.outputs.sink import Entry, MessageRefused

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]


class Refusing:
    """A receiver that will not have a message, and later has it."""

    batch, connected, warning = 10, True, None

    def __init__(self) -> None:
        self.refuses, self.refused, self.got = True, 0, 0

    def remember(self, entry: Entry) -> None:
        pass

    def maintain(self) -> None:
        pass

    def close(self, seconds: float) -> None:
        pass

    def deliver(self, entries: Sequence[Entry], queue: str, confirm: Callable[[int], None]) -> None:
        if self.refuses:
            self.refused += 1
            raise MessageRefused("answered 422")
        self.got += len(entries)
        confirm(len(entries))


def test_a_queue_that_cannot_be_written_while_a_message_is_given_up_ends_no_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Refusing()
    queue = Queue(tmp_path / "w.queue.db", Limits(10**7, 1e6, 1e6))
    give_up, failures = queue.give_up, []

    def full_disk(entry: Entry) -> None:
        failures.append(entry)
        if len(failures) < 3:
            raise sqlite3.OperationalError("database or disk is full")
        give_up(entry)

    monkeypatch.setattr(queue, "give_up", full_disk)
    lane = Lane("w", "webhook", sink, queue, ["score"], Backoff(0.001, 0.001))
    lane.start()
    lane.put(Entry("score", "m", "1", '{"a": 1}'))
    until(lambda: len(failures) == 3)
    assert sink.refused >= REFUSALS
    sink.refuses = False
    lane.put(Entry("score", "m", "1", '{"a": 2}'))
    until(lambda: sink.got == 1)


def test_a_message_is_counted_once_while_it_comes_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`alarm test` takes a count of 0 for delivered, so no moment may show that; nor may one show a message twice."""
    sink = Refusing()
    queue = Queue(tmp_path / "w.queue.db", Limits(10**7, 1e6, 1e6))
    lane = Lane("w", "webhook", sink, queue, ["event"], Backoff(0.001, 0.001))
    seen: list[tuple[str, int]] = []
    append, insert = queue.append, queue._append

    def appended(entries: Sequence[Entry]) -> None:
        seen.append(("taken", lane.state().queued))
        append(entries)

    def inserted(database: sqlite3.Connection, entry: Entry, now: float) -> None:
        insert(database, entry, now)
        seen.append(("inserted", lane.state().queued))

    monkeypatch.setattr(queue, "append", appended)
    monkeypatch.setattr(queue, "_append", inserted)
    for number in (1, 2, 3):
        lane.put(Entry("event", "m", "1", '{"a": 1}', number))
    seen.append(("put", lane.state().queued))
    lane.start()
    until(lambda: sink.refused > 0 and lane.state().queued == 3)
    assert seen == [("put", 3), ("taken", 3), *[("inserted", 3)] * 3]
    sink.refuses = False
    until(lambda: lane.state().queued == 0)
    assert sink.got == 3
    lane.end(time.monotonic() + 10.0)
    assert lane.close(time.monotonic() + 10.0)
