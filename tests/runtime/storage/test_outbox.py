"""The outbox: every message once for each output and in order, through refusing disks, kills and restarts."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeasd.runtime.storage import Database, DatabaseUnavailable, Outbox, OutboxLimits, OutboxMessage

pytestmark = pytest.mark.core

WALL = 1.8e9
KINDS = ("event", "score", "status")


class Disk:
    """A database whose disk may refuse to be written, and the outbox on it."""

    def __init__(self, path: Path | None, *, refuses: bool = False, **options: Any) -> None:
        self.now = 0.0
        self.database = Database(path, clock=self._clock)
        if refuses:
            self.refuse()
        self.outbox = Outbox(self.database, **{"wall": lambda: WALL, **options})

    def _clock(self) -> float:
        self.now += 0.4
        return self.now

    def refuse(self, refuses: bool = True) -> None:
        self.database._writer.execute(f"PRAGMA query_only = {'ON' if refuses else 'OFF'}")
        self.now += 0.0 if refuses else 10.0

    def put(self, kind: str = "event", text: str = "") -> int:
        return self.outbox.append(kind, "valve", "00", json.dumps({"text": text}))

    def kill(self) -> None:
        self.database.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "events.db")
    disk.outbox.register({"log": KINDS, "hook": ("event",)})
    yield disk
    disk.kill()


def seqs(messages: list[OutboxMessage]) -> list[int]:
    return [message.seq for message in messages]


def test_each_output_reads_its_kinds_above_its_cursor(disk: Disk) -> None:
    for kind in ("event", "score", "event", "status"):
        disk.put(kind)
    outbox = disk.outbox
    assert seqs(outbox.read("log", 10)) == [1, 2, 3, 4]
    assert seqs(outbox.read("log", 3)) == [1, 2, 3]
    assert seqs(outbox.read("hook", 10)) == [1, 3]
    outbox.advance("hook", 1)
    outbox.advance("log", 4)
    assert seqs(outbox.read("hook", 10)) == [3]
    assert outbox.read("log", 10) == []
    outbox.advance("log", 2)
    assert outbox.read("log", 10) == [], "a cursor never goes back"
    assert (outbox.lag("log").count, outbox.lag("hook").count) == (0, 1)


def test_message_is_seen_when_it_is_committed(disk: Disk) -> None:
    outbox = disk.outbox
    with outbox.transaction():
        disk.put()
        assert outbox.read("log", 1) == []
        assert not outbox.wait(0, 0.0)
    assert seqs(outbox.read("log", 1)) == [1]
    with pytest.raises(ValueError, match="no"), outbox.transaction():
        disk.put()
        raise ValueError("no")
    assert seqs(outbox.read("log", 9)) == [1]
    assert disk.put() == 3, "a number is not given again"


def test_wait_returns_for_a_message_and_for_wake(disk: Disk) -> None:
    results: list[bool] = []
    for end in (disk.put, disk.outbox.wake):
        seen, ready = disk.outbox.newest_seq, threading.Event()

        def wait(seen: int = seen, ready: threading.Event = ready) -> None:
            ready.set()
            results.append(disk.outbox.wait(seen, 20.0))

        thread = threading.Thread(target=wait)
        thread.start()
        ready.wait(5.0)
        while thread.is_alive():
            end()
            thread.join(0.01)
            if end == disk.put:
                break
        thread.join(5.0)
    assert results == [True, False]


def test_refused_messages_leave_from_memory_and_are_stored_later(disk: Disk) -> None:
    outbox = disk.outbox
    disk.put()
    disk.refuse()
    assert [disk.put("event"), disk.put("score")] == [2, 3]
    assert [(one.seq, one.stored) for one in outbox.read("log", 9)] == [(1, True), (2, False), (3, False)]
    outbox.advance("log", 2)
    assert outbox.lag("log").count == 1
    with pytest.raises(DatabaseUnavailable, match="readonly"):
        outbox.flush()
    disk.refuse(False)
    assert disk.put("event") == 4
    assert outbox.unstored == 0
    assert [(one.seq, one.stored) for one in outbox.read("hook", 9)] == [(1, True), (2, True), (4, True)]
    assert seqs(outbox.read("log", 9)) == [3, 4]
    stored = [seq for (seq,) in disk.database.read("SELECT seq FROM outbox ORDER BY seq")]
    assert stored == [1, 2, 3, 4]


def test_memory_is_bounded_and_events_go_last(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "events.db", memory_bytes=2000)
    disk.outbox.register({"log": KINDS})
    disk.refuse()
    for number in range(10):
        disk.put("score", "x" * 100)
        disk.put("event", f"{number}")
    kinds = [one.kind for one in disk.outbox.read("log", 99)]
    assert kinds.count("event") == 10
    assert sum(one.size for one in disk.outbox.read("log", 99)) <= 2000
    assert disk.outbox.dropped("log") == {"score": 10 - kinds.count("score")}
    assert disk.outbox.lag("log").count == len(kinds)
    disk.kill()


@pytest.mark.parametrize("newest", [1000, 3], ids=["from memory", "from the disk"])
def test_output_that_was_away_reads_everything_in_order(tmp_path: Path, newest: int) -> None:
    disk = Disk(tmp_path / "events.db", newest=newest)
    disk.outbox.register({"log": KINDS})
    given = [disk.put() for _ in range(20)]
    disk.refuse()
    given += [disk.put() for _ in range(5)]
    received = []
    while messages := disk.outbox.read("log", 4):
        received += seqs(messages)
        disk.outbox.advance("log", messages[-1].seq)
        assert disk.outbox.lag("log").count == len(given) - len(received)
    assert received == given
    disk.kill()


def test_new_output_starts_at_the_end_removed_is_forgotten(disk: Disk) -> None:
    disk.put()
    disk.outbox.register({"log": KINDS, "new": KINDS})
    disk.put()
    assert (seqs(disk.outbox.read("new", 9)), seqs(disk.outbox.read("log", 9))) == ([2], [1, 2])
    disk.outbox.register({"hook": ("event",)})
    assert disk.outbox.read("hook", 9) == []
    disk.outbox.prune(WALL)
    assert disk.database.read("SELECT seq FROM outbox") == []


def test_cursors_and_counts_survive_a_restart(disk: Disk, tmp_path: Path) -> None:
    for _ in range(5):
        disk.put()
    disk.outbox.advance("log", 2)
    disk.outbox.give_up("log", disk.outbox.read("log", 1)[0])
    assert disk.outbox.close()
    disk.kill()
    again = Disk(tmp_path / "events.db")
    again.outbox.register({"log": KINDS, "hook": ("event",)})
    assert again.outbox.store_id == disk.outbox.store_id
    assert again.outbox.dropped("log") == {"event": 1}
    lag = again.outbox.lag("log")
    assert (lag.count, lag.bytes, lag.oldest_seconds) == (2, sum(m.size for m in again.outbox.read("log", 9)), 0.0)
    assert seqs(again.outbox.read("log", 9)) == [4, 5]
    assert again.put() == 6, "after a clean end, numbers go on"
    again.kill()
    killed = Disk(tmp_path / "events.db", reserved=100)
    assert killed.put() > 100, "after a kill, numbers that may have gone out from memory are left out"
    killed.kill()


def test_memory_gives_no_numbers_beyond_the_reservation(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "events.db", reserved=3)
    disk.outbox.register({"log": KINDS})
    disk.refuse()
    given = [disk.put() for _ in range(6)]
    left = seqs(disk.outbox.read("log", 9))
    assert left == given[: len(left)]
    assert 3 <= len(left) < 6
    assert disk.outbox.dropped("log") == {"event": 6 - len(left)}
    disk.refuse(False)
    later = disk.put()
    assert later > given[-1]
    assert seqs(disk.outbox.read("log", 9)) == [*left, later]
    disk.kill()


@pytest.mark.parametrize("end", ["works again", "killed"])
def test_outbox_opens_on_a_disk_that_refuses(disk: Disk, tmp_path: Path, end: str) -> None:
    first = disk.put()
    disk.kill()
    seen: list[tuple[str, int]] = [(disk.outbox.store_id, first)]
    for _ in range(2):
        again = Disk(tmp_path / "events.db", refuses=True)
        again.outbox.register({"log": KINDS, "hook": ("event",)})
        given = [again.put(), again.put()]
        messages = again.outbox.read("log", 9)
        assert [(one.seq, one.stored) for one in messages] == [(first, True), *((seq, False) for seq in given)]
        assert again.outbox.reserved_until > WALL
        seen += [(again.outbox.store_id, seq) for seq in given]
        if end == "works again":
            again.refuse(False)
            given.append(again.put())
            seen.append((again.outbox.store_id, given[-1]))
            assert [one.stored for one in again.outbox.read("log", 9)] == [True] * 4
            again.outbox.advance("log", given[-2])
            first = given[-1]
            assert again.outbox.close()
        again.kill()
    last = Disk(tmp_path / "events.db")
    last.outbox.register({"log": KINDS})
    seen.append((last.outbox.store_id, last.put()))
    assert len(set(seen)) == len(seen), "a number was given twice"
    if end == "works again":
        assert last.outbox.store_id == seen[-2][0]
    last.kill()


# Deleting


def test_delivered_messages_are_deleted(disk: Disk) -> None:
    for kind in ("event", "score", "event", "status"):
        disk.put(kind)
    disk.outbox.advance("log", 4)
    disk.outbox.advance("hook", 1)
    disk.outbox.prune(WALL)
    # Nobody else wants score and status.
    assert disk.database.read("SELECT seq FROM outbox") == [(3,)]
    assert seqs(disk.outbox.read("hook", 9)) == [3]


def test_old_messages_are_deleted_and_counted(disk: Disk) -> None:
    disk.outbox.limits = OutboxLimits(seconds=10.0, event_seconds=100.0)
    disk.put("score")
    disk.put("event")
    disk.outbox.prune(WALL + 9)
    assert seqs(disk.outbox.read("log", 9)) == [1, 2]
    disk.outbox.prune(WALL + 11)
    assert seqs(disk.outbox.read("log", 9)) == [2]
    disk.outbox.prune(WALL + 101)
    assert disk.outbox.read("log", 9) == []
    assert (disk.outbox.dropped("log"), disk.outbox.dropped("hook")) == ({"score": 1, "event": 1}, {"event": 1})
    assert disk.outbox.lag("log").count == disk.outbox.lag("hook").count == 0


def test_overflow_drops_scores_first_newest_event_never(disk: Disk) -> None:
    sizes = {}
    for number in range(30):
        kind = KINDS[number % 3]
        sizes[disk.put(kind, "x" * 100)] = kind
    one = disk.outbox.read("log", 1)[0].size
    disk.outbox.limits = OutboxLimits(bytes=15 * one)
    disk.outbox.prune(WALL)
    left = disk.outbox.read("log", 99)
    assert len(left) == 15
    assert [sizes[m.seq] for m in left].count("event") == 10
    assert "score" not in {m.kind for m in left}
    assert seqs(left)[-1] == 30, "the oldest of a kind go first"
    disk.outbox.limits = OutboxLimits(bytes=1)
    disk.outbox.prune(WALL)
    assert seqs(disk.outbox.read("log", 99)) == [28]
    assert disk.outbox.dropped("hook") == {"event": 9}


def test_limits_hold_before_the_outputs_are_known(disk: Disk, tmp_path: Path) -> None:
    for _ in range(20):
        disk.put("score", "x" * 100)
    disk.outbox.close()
    disk.kill()
    again = Disk(tmp_path / "events.db", limits=OutboxLimits(bytes=1000))
    again.outbox.prune(WALL)
    (left,) = again.database.read("SELECT count(*) FROM outbox")
    assert 0 < left[0] < 10
    again.outbox.register({"log": ("event",)})
    again.put("score")
    again.put("event")
    again.outbox.prune(WALL)
    assert again.database.read("SELECT kind FROM outbox") == [("event",)]
    again.kill()


def test_damaged_message_delays_no_other(disk: Disk, tmp_path: Path) -> None:
    for _ in range(3):
        disk.put()
    disk.outbox.close()
    disk.kill()
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        connection.execute("UPDATE outbox SET payload = '{\"text' WHERE seq = 2")
        connection.commit()
    again = Disk(tmp_path / "events.db")
    again.outbox.register({"log": KINDS, "hook": ("event",)})
    assert seqs(again.outbox.read("log", 9)) == [1, 3]
    assert again.outbox.dropped("log") == {"event": 1}
    again.kill()


def test_without_a_disk_messages_are_in_memory() -> None:
    disk = Disk(None)
    assert not disk.outbox.has_readers
    disk.put()
    disk.outbox.register({"log": KINDS})
    disk.put()
    assert seqs(disk.outbox.read("log", 9)) == [2]
    disk.kill()


# Queue files of earlier versions


def queue_file(path: Path, *messages: tuple[str, str]) -> None:
    """A queue as edgeasd 0.1 wrote it, with (time, text) of each message."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE messages (position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, machine TEXT NOT "
            "NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL, born REAL NOT NULL, size INTEGER NOT NULL, "
            "text TEXT NOT NULL)"
        )
        for at, text in messages:
            payload = json.dumps({"schema": 1, "kind": "event", "at": f"2026-01-01T00:00:{at}.000Z", "body": text})
            connection.execute("INSERT INTO messages VALUES (NULL, 'event', 'valve', '', 1, 0.0, 1, ?)", (payload,))
        connection.commit()


def test_queues_of_an_earlier_version_are_taken_over_once(tmp_path: Path) -> None:
    queue_file(tmp_path / "queues" / "log.queue.db", ("01", "a"), ("02", "b"), ("04", "d"))
    queue_file(tmp_path / "queues" / "hook.queue.db", ("02", "b"), ("03", "c"))
    queue_file(tmp_path / "queues" / "idle.queue.db")
    (tmp_path / "queues" / "bad.queue.db").write_bytes(b"nonsense" * 100)
    for _ in range(2):
        disk = Disk(tmp_path / "events.db")
        disk.outbox.register({"log": ("event",), "hook": ("event",), "idle": ("event",)})
        texts = {
            name: [json.loads(one.payload)["body"] for one in disk.outbox.read(name, 9)]
            for name in ("log", "hook", "idle")
        }
        # One numbering: what another output still needs may come again.
        assert texts == {"log": ["a", "b", "c", "d"], "hook": ["b", "c", "d"], "idle": []}
        assert disk.outbox.read("log", 1)[0].id is None
        assert disk.outbox.close()
        disk.kill()
    assert [one.name for one in (tmp_path / "queues").iterdir()] == ["bad.queue.db"]


# Everything at once


class Outputs(RuleBasedStateMachine):
    """Two outputs on a disk that refuses and works, with kills, restarts, deliveries and pruning in between."""

    folder: Callable[[], Path]

    @initialize()
    def begin(self) -> None:
        self.path = type(self).folder() / "events.db"
        self.texts: dict[int, str] = {}
        self.lost: set[int] = set()
        self.received: dict[str, list[int]] = {"log": [], "hook": []}
        self.count, self.refuses = 0, False
        self.open()

    def open(self) -> None:
        self.disk = Disk(self.path, reserved=50, newest=4)
        self.disk.outbox.register({"log": KINDS, "hook": ("event",)})

    @rule(kind=st.sampled_from(KINDS), together=st.integers(1, 3))
    def append(self, kind: str, together: int) -> None:
        texts = [f"{kind} {self.count + number}" for number in range(together)]
        self.count += together
        try:
            with self.disk.outbox.transaction():
                given = [self.disk.put(kind, text) for text in texts]
        except DatabaseUnavailable:
            assert self.refuses or self.disk.database.problem is not None
            given = [
                self.disk.outbox.append_unstored(kind, "valve", "00", json.dumps({"text": text})) for text in texts
            ]
        assert not set(given) & set(self.texts), "a number was given twice"
        assert given == sorted(given)
        assert given[0] > max(self.texts, default=0)
        self.texts.update(zip(given, texts, strict=True))

    @rule()
    def refuse(self) -> None:
        self.refuses = True
        self.disk.refuse()

    @rule()
    def recover(self) -> None:
        self.refuses = False
        self.disk.refuse(False)

    @rule()
    def write(self) -> None:
        try:
            self.disk.outbox.flush()
        except DatabaseUnavailable:
            return
        assert self.disk.outbox.unstored == 0

    @rule()
    def prune(self) -> None:
        try:
            self.disk.outbox.prune(WALL)
        except DatabaseUnavailable:
            assert self.refuses or self.disk.database.problem is not None

    @rule(output=st.sampled_from(["log", "hook"]), limit=st.integers(1, 6), delivered=st.integers(0, 6))
    def deliver(self, output: str, limit: int, delivered: int) -> None:
        messages = self.disk.outbox.read(output, limit)
        done = messages[:delivered]
        for message in done:
            assert json.loads(message.payload)["text"] == self.texts[message.seq]
            assert message.kind in (KINDS if output == "log" else ("event",))
            self.received[output].append(message.seq)
        if done:
            self.disk.outbox.advance(output, done[-1].seq)

    @rule()
    def kill(self) -> None:
        self.lost |= {message.seq for message in self.disk.outbox._tail if not message.stored}
        self.disk.kill()
        self.refuses = False
        self.open()

    @precondition(lambda self: not self.refuses)
    @rule()
    def restart(self) -> None:
        self.disk.now += 10.0
        assert self.disk.outbox.close()
        self.disk.kill()
        self.open()

    @invariant()
    def what_waits_is_what_is_counted(self) -> None:
        if not hasattr(self, "disk"):
            return
        for output, kinds in (("log", KINDS), ("hook", ("event",))):
            waiting = self.disk.outbox.read(output, 10_000)
            assert self.disk.outbox.lag(output).count == len(waiting)
            assert seqs(waiting) == sorted(seqs(waiting))
            last = self.disk.outbox._cursors[output].seq
            wanted = {seq for seq, text in self.texts.items() if text.split()[0] in kinds and seq > last}
            assert set(seqs(waiting)) == wanted - self.lost, "nothing is lost, and nothing comes twice"

    def teardown(self) -> None:
        if not hasattr(self, "disk"):
            return
        self.recover()
        self.disk.outbox.flush()
        for output, kinds in (("log", KINDS), ("hook", ("event",))):
            self.deliver(output, 10_000, 10_000)
            received = self.received[output]
            wanted = {seq for seq, text in self.texts.items() if text.split()[0] in kinds}
            assert wanted - self.lost <= set(received) <= wanted
            first = list(dict.fromkeys(received))
            assert first == sorted(first), "a message overtook another"
        self.disk.kill()


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    Outputs.folder = lambda: tmp_path_factory.mktemp("outbox")  # type: ignore[method-assign]


TestEverything = Outputs.TestCase
TestEverything.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
