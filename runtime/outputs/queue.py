"""A queue on disk: one SQLite file for each output, bounded by bytes and by age.

A message is committed with its number in one transaction that is flushed to the disk
(`synchronous=FULL`), so neither kill -9 nor a power cut loses it or numbers two alike. Its removal is
not flushed (`NORMAL`): a power cut may bring it back, which is a resend and nothing worse.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import DROPPED_FIRST
from edgeasd.runtime.outputs.queue_file import lock_queue, open_queue
from edgeasd.runtime.outputs.sink import Entry
from edgeasd.runtime.storage.database import is_damage

_OVERHEAD = 128
"""Bytes that a row takes beside its text, about."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may hold."""

    bytes: int
    seconds: float
    """Messages that are no events are given up after so long."""
    event_seconds: float
    """Events, after so long."""


class Queue:
    """Appended to by one thread, read and shortened by another; the figures may be read by any."""

    def __init__(self, path: Path, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Opens or makes `path`. A damaged file is put aside under a name that `put_aside` tells.

        Raises InputError where another process has it, where a newer edgeasd made it, and where it cannot be made.
        """
        self.path, self._limits, self._clock = path, limits, clock
        self._lock = threading.Lock()
        self._shut = False
        self._guard = lock_queue(path)
        try:
            self._database, self.put_aside = open_queue(path)
            try:
                self._load()
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise InputError(f"{path}: {error}; make room or correct its permissions") from None
                self.begin_anew()
        except BaseException:
            os.close(self._guard)
            raise

    def begin_anew(self) -> None:
        """Put the file aside, which turned out to be damaged, and begin a new one; `name` and `put_aside` change.

        Raises InputError or sqlite3.Error where that cannot be; try again later.
        """
        with self._lock:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database, self.put_aside = open_queue(self.path, damaged=self.path.exists())
            self._load()

    def _load(self) -> None:
        meta = dict(self._database.execute("SELECT name, value FROM meta").fetchall())
        self.name = str(meta["queue"])
        """What numbers these messages; see `numbered`."""
        self._age_at_open, self._opened = float(meta["clock"]), self._clock()
        self._counts: Counter[str] = Counter(
            dict(self._database.execute("SELECT kind, count(*) FROM messages GROUP BY kind").fetchall())
        )
        self.count = self._counts.total()
        """Messages that wait, as committed."""
        (self.bytes,) = self._database.execute("SELECT coalesce(sum(size), 0) FROM messages").fetchone()
        self.dropped: dict[str, int] = dict(self._database.execute("SELECT kind, count FROM dropped").fetchall())
        self._oldest: float | None = None
        self._look_at_oldest()

    # Figures

    @property
    def oldest_seconds(self) -> float:
        """Age of the first of them."""
        oldest = self._oldest
        return 0.0 if oldest is None else max(0.0, self._now() - oldest)

    def _now(self) -> float:
        """Seconds that this queue has been open, in all its lives: no clock that someone could set."""
        return self._age_at_open + self._clock() - self._opened

    def _look_at_oldest(self) -> None:
        row = self._database.execute("SELECT born FROM messages ORDER BY position LIMIT 1").fetchone()
        self._oldest = None if row is None else row[0]

    # Work

    @contextmanager
    def _transaction(self, flushed: bool) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute(f"PRAGMA synchronous = {'FULL' if flushed else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            before = (self._counts.copy(), self.bytes, dict(self.dropped))
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._counts, self.bytes, self.dropped = before
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise
            self.count = self._counts.total()
            self._look_at_oldest()

    def append(self, entries: Sequence[Entry]) -> None:
        """Commit `entries`; an event that this queue has had already is passed over.

        Where that is too much, drops by `DROPPED_FIRST` and then by age. Raises sqlite3.Error, and then nothing
        was appended.
        """
        with self._transaction(flushed=True) as database:
            now = self._now()
            for entry in entries:
                self._append(database, entry, now)
            self._drop(database, now)
            database.execute("UPDATE meta SET value = ? WHERE name = 'clock'", (now,))

    def _append(self, database: sqlite3.Connection, entry: Entry, now: float) -> None:
        sequence, had = self._stream(database, entry.machine, entry.id)
        if entry.event_sequence is not None and had is not None and entry.event_sequence <= had:
            return
        size = len(entry.text.encode()) + _OVERHEAD
        database.execute(
            "INSERT INTO messages (kind, machine, id, sequence, born, size, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (entry.kind, entry.machine, entry.id, sequence + 1, now, size, entry.text),
        )
        mark = had if entry.event_sequence is None else entry.event_sequence
        database.execute(
            "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", (entry.machine, entry.id, sequence + 1, mark)
        )
        self._counts[entry.kind] += 1
        self.bytes += size

    @staticmethod
    def _stream(database: sqlite3.Connection, machine: str, id: str) -> tuple[int, int | None]:
        row = database.execute(
            "SELECT sequence, event_sequence FROM streams WHERE machine = ? AND id = ?", (machine, id)
        ).fetchone()
        return (0, None) if row is None else (row[0], row[1])

    def last_event(self, machine: str, id: str) -> int:
        """Number of the last transition of a machine that was appended; 0 where there was none."""
        with self._lock:
            return self._stream(self._database, machine, id)[1] or 0

    def begin_events(self, machine: str, id: str, sequence: int) -> int:
        """Number of the last transition of a machine that was appended; a machine not seen before begins at
        `sequence`, and that is committed."""
        with self._transaction(flushed=True) as database:
            number, had = self._stream(database, machine, id)
            if had is None:
                had = sequence
                database.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", (machine, id, number, had))
        return had

    def head(self, count: int) -> list[Entry]:
        """The first `count` messages, oldest first, after what is too old was dropped."""
        oldest = self._oldest
        if oldest is not None and self._now() - oldest > min(self._limits.seconds, self._limits.event_seconds):
            with self._transaction(flushed=False) as database:
                self._drop(database, self._now())
        with self._lock:
            rows = self._database.execute(
                "SELECT kind, machine, id, CAST(text AS BLOB), position, sequence FROM messages ORDER BY position LIMIT ?",
                (count,),
            ).fetchall()
        texts = {row[4]: _message_text(row[3]) for row in rows}
        if None in texts.values():
            with self._transaction(flushed=False) as database:
                for position in [position for position, text in texts.items() if text is None]:
                    self._count_dropped(database, self._delete(database, "position = ?", (position,)))
        return [
            Entry(row[0], row[1], row[2], text, None, row[4], row[5])
            for row in rows
            if (text := texts[row[4]]) is not None
        ]

    def remove(self, entries: Sequence[Entry], of: str | None = None) -> None:
        """Forget messages that have arrived; nothing where `of`, the name they were sent under, is no longer that of
        this queue: it was begun anew meanwhile."""
        with self._transaction(flushed=False) as database:
            if of is not None and of != self.name:
                return
            for entry in entries:
                self._delete(database, "position = ?", (entry.position,))
            if not self._counts.total():
                database.execute("UPDATE meta SET value = ? WHERE name = 'clock'", (self._now(),))

    def give_up(self, entry: Entry) -> None:
        """Drop a message that its receiver will never have, and count it."""
        with self._transaction(flushed=False) as database:
            self._count_dropped(database, self._delete(database, "position = ?", (entry.position,)))

    # Dropping

    def _delete(self, database: sqlite3.Connection, where: str, values: tuple[object, ...]) -> Counter[str]:
        gone: Counter[str] = Counter()
        for kind, size in database.execute(f"DELETE FROM messages WHERE {where} RETURNING kind, size", values):
            gone[kind] += 1
            self.bytes -= size
        self._counts -= gone
        return gone

    def _drop(self, database: sqlite3.Connection, now: float) -> None:
        limits = self._limits
        old = self._delete(database, "born < ? AND kind <> 'event'", (now - limits.seconds,))
        old += self._delete(database, "born < ? AND kind = 'event'", (now - limits.event_seconds,))
        for kind in DROPPED_FIRST:
            while self.bytes > limits.bytes and self._counts[kind] > (kind == "event"):
                old += self._delete(database, "kind = ? AND position <= ?", (kind, self._last_to_go(database, kind)))
        self._count_dropped(database, old)

    def _last_to_go(self, database: sqlite3.Connection, kind: str) -> int:
        """Position up to which messages of `kind` must go, the last event excepted; some hundred at a time."""
        most = min(500, self._counts[kind] - (kind == "event"))
        oldest = "SELECT position, size FROM messages WHERE kind = ? ORDER BY position LIMIT ?"
        last, excess = 0, self.bytes - self._limits.bytes
        for position, size in database.execute(oldest, (kind, most)):
            if excess <= 0:
                break
            last, excess = position, excess - size
        return last

    def _count_dropped(self, database: sqlite3.Connection, gone: Counter[str]) -> None:
        for kind, count in gone.items():
            self.dropped = {**self.dropped, kind: self.dropped.get(kind, 0) + count}
            database.execute("INSERT OR REPLACE INTO dropped VALUES (?, ?)", (kind, self.dropped[kind]))

    def close(self, seconds: float = 5.0) -> bool:
        """Close the file; what waits is there when it is opened again. False where the disk did not let go in time.

        Then it is closed as soon as the disk does, or nobody could open it again.
        """
        closing = threading.Thread(target=self._close, name="edgeasd-queue-close", daemon=True)
        try:
            closing.start()
        except RuntimeError:  # no thread is to be had
            self._close()
            return True
        closing.join(seconds)
        return not closing.is_alive()

    def _close(self) -> None:
        with self._lock:
            if self._shut:
                return
            self._shut = True
            with suppress(sqlite3.Error):
                self._database.execute("UPDATE meta SET value = ? WHERE name = 'clock'", (self._now(),))
                self._database.execute("PRAGMA incremental_vacuum(1000)")
            self._database.close()
            os.close(self._guard)


def _message_text(data: bytes) -> str | None:
    """The text of a message; None for one that is damaged, which would hold up all that follow it."""
    try:
        text = data.decode()
        return text if isinstance(json.loads(text), dict) and text[0] == "{" else None
    except (ValueError, RecursionError):
        return None
