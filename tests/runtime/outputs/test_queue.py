"""A queue on disk: in order, numbered, bounded, and still there after anything."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import DROPPED_FIRST, KINDS
from edgeasd.runtime.outputs.queue import Limits, Queue
from edgeasd.runtime.outputs.sink import Entry

pytestmark = [pytest.mark.core, pytest.mark.timeout(60)]

WIDE = Limits(1_000_000, 1e6, 1e6)


def entry(kind: str = "score", text: str = '{"a": 1}', machine: str = "valve", number: int | None = None) -> Entry:
    return Entry(kind, machine, "00", text, number)


def sized(letter: str, size: int) -> str:
    """JSON of at least `size` characters that can be told by its third one."""
    return f'{{"{letter}": "{"x" * (size - 9)}"}}'


def test_messages_come_out_in_order_and_are_numbered_by_machine(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", WIDE)
    queue.append([entry(), entry(machine="fan"), entry(), entry(machine="fan")])
    head = queue.head(10)
    assert [(each.machine, each.sequence) for each in head] == [("valve", 1), ("fan", 1), ("valve", 2), ("fan", 2)]
    queue.remove(head[:3])
    assert queue.head(10) == head[3:]
    queue.close()


def test_numbers_go_on_after_the_queue_was_emptied_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    queue = Queue(path, WIDE)
    queue.append([entry()] * 3)
    queue.remove(queue.head(3))
    name = queue.name
    queue.close()
    queue = Queue(path, WIDE)
    assert (queue.count, queue.bytes, queue.name) == (0, 0, name)
    queue.append([entry()])
    assert queue.head(1)[0].sequence == 4
    queue.close()


def test_an_event_that_comes_twice_is_kept_once(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", WIDE)
    assert queue.begin_events("valve", "00", 7) == 7
    queue.append([entry("event", number=number) for number in (7, 8, 9, 8, 9, 10)])
    assert [each.sequence for each in queue.head(10)] == [1, 2, 3]
    assert queue.begin_events("valve", "00", 99) == 10
    queue.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=60), size=st.integers(10, 3000))
def test_a_full_queue_gives_up_what_says_least_and_never_the_last_event(
    tmp_path: Path, kinds: list[str], size: int
) -> None:
    path = tmp_path / f"{os.urandom(8).hex()}.db"
    limit = 20_000
    queue = Queue(path, Limits(limit, 1e6, 1e6))
    for kind in kinds:
        before = dict(queue.dropped)
        queue.append([entry(kind, text=sized("x", size))])
        gone = [name for name in DROPPED_FIRST if queue.dropped.get(name, 0) > before.get(name, 0)]
        spared = {each.kind for each in queue.head(100)}
        assert not gone or spared.isdisjoint(DROPPED_FIRST[: DROPPED_FIRST.index(gone[-1])])
    left = queue.head(100)
    assert queue.bytes == sum(len(each.text) + 128 for each in left) <= max(limit, size + 128)
    assert len(left) + sum(queue.dropped.values()) == len(kinds)
    assert [each.position for each in left] == sorted(each.position for each in left)
    if "event" in kinds:
        assert "event" in {each.kind for each in left}
    queue.close()
    again = Queue(path, WIDE)
    assert again.head(100) == left
    assert again.dropped == queue.dropped
    again.close()


def test_events_push_scores_out_and_scores_no_events(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", Limits(10_000, 1e6, 1e6))
    queue.append([entry("score", sized("s", 872))] * 10)
    queue.append([entry("event", sized("e", 872))] * 9)
    assert [each.kind for each in queue.head(20)] == ["score"] + ["event"] * 9
    queue.append([entry("score", sized("t", 872))] * 5)
    kinds = [each.kind for each in queue.head(20)]
    assert kinds.count("event") == 9
    assert queue.dropped == {"score": 14}
    queue.append([entry("event", sized("f", 872))] * 3)
    texts = [each.text[2] for each in queue.head(20)]
    assert texts[-3:] == ["f"] * 3
    assert "s" not in texts
    assert "t" not in texts
    queue.close()


def test_no_more_goes_than_must(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", Limits(100_000, 1e6, 1e6))
    for number in range(1, 151):
        queue.append([entry("event", sized("e", 872), number=number)])
    assert [each.sequence for each in queue.head(500)] == list(range(51, 151))
    assert queue.dropped == {"event": 50}
    queue.close()


def test_age_counts_only_while_the_queue_is_open_and_spares_events_longer(tmp_path: Path) -> None:
    now = 1000.0
    limits = Limits(1_000_000, 60.0, 3600.0)
    queue = Queue(tmp_path / "q.db", limits, lambda: now)
    queue.append([entry("event"), entry("score")])
    now += 50.0
    assert queue.oldest_seconds == 50.0
    queue.close()
    now += 1e9  # switched off for years, and a clock that was set
    queue = Queue(tmp_path / "q.db", limits, lambda: now)
    assert queue.oldest_seconds == pytest.approx(50.0)
    assert len(queue.head(9)) == 2
    now += 11.0
    assert [each.kind for each in queue.head(9)] == ["event"]
    now += 3600.0
    assert queue.head(9) == []
    assert queue.dropped == {"score": 1, "event": 1}
    queue.close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", WIDE)
    with pytest.raises(InputError, match="another edgeasd delivers from it"):
        Queue(tmp_path / "q.db", WIDE)
    queue.close()
    Queue(tmp_path / "q.db", WIDE).close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_put_aside_and_a_new_queue_begun(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "q.db"
    path.write_bytes(content)
    queue = Queue(path, WIDE)
    assert queue.put_aside is not None
    assert queue.put_aside.read_bytes() == content
    queue.append([entry()])
    assert queue.count == 1
    queue.close()


@pytest.mark.parametrize("version", [0, 1])
def test_a_foreign_database_is_put_aside(tmp_path: Path, version: int) -> None:
    path = tmp_path / "q.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE messages (a)")
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    queue = Queue(path, WIDE)
    assert queue.put_aside is not None
    queue.close()


def test_a_queue_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(InputError, match="queue of version 2, this edgeasd reads 1"):
        Queue(path, WIDE)
    assert path.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give a folder"):
        Queue(tmp_path / "file" / "q.db", WIDE)


def test_the_file_does_not_grow_with_what_passes_through(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", Limits(200_000, 1e6, 1e6))
    for _ in range(60):
        queue.append([entry(text="x" * 1000)] * 100)
    queue.remove(queue.head(1000))
    queue.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_000_000


def test_a_queue_whose_disk_stalls_while_it_is_closed_can_be_opened_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "q.db", WIDE)
    queue.append([entry()])
    with queue._lock:  # as the thread has it that waits for the disk
        assert queue.close(0.05) is False
        with pytest.raises(InputError, match="another edgeasd"):
            Queue(tmp_path / "q.db", WIDE)
    end = time.monotonic() + 10.0
    while queue._lock.locked() or not queue._shut:
        assert time.monotonic() < end
        time.sleep(0.01)
    again = Queue(tmp_path / "q.db", WIDE)
    assert len(again.head(10)) == 1
    assert queue.close() is True
    assert again.close() is True
