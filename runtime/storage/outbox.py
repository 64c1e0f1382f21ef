"""The outbox: one numbered list of messages for all outputs, with a cursor for each of them.

A message is appended in the transaction that stores what it is about, and outputs see it once that is committed.
If the disk refuses, messages go to memory instead, marked as not stored, with numbers of the same list; they are
written as soon as the disk works again. The newest messages stay in memory, so an output that keeps up reads no disk.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeasd.runtime.storage.database import Database, DatabaseUnavailable
from edgeasd.runtime.storage.old_queues import merge_queues, read_queues, remove_queues

_log = logging.getLogger(__name__)
DROPPED_FIRST = ("score", "health", "status", "start", "stop", "trend", "event")
"""The order in which kinds are deleted if there are too many messages; events go last."""
RESERVED = 10_000_000
"""Numbers that are reserved on disk ahead of their use. After a kill the rest of a reservation is left out: those
numbers may have gone out from memory."""
_NEWEST = 1_000
"""Stored messages that stay in memory."""
_MEMORY_BYTES = 8 << 20
"""Size of messages that may wait for a disk that refuses."""
_OVERHEAD = 128
"""Bytes that a row takes beside its payload, roughly."""
_BATCH = 500
_UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One message. `payload` is a JSON object without its number."""

    seq: int
    kind: str
    machine: str | None
    id: str | None
    created: float
    """Seconds since 1970."""
    payload: str
    stored: bool = True
    """Whether it is in the database; False while the disk refuses."""

    @property
    def size(self) -> int:
        """Bytes that it takes, roughly."""
        return len(self.payload) + _OVERHEAD


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """What may wait for outputs. Beyond it messages are deleted, by the order of `DROPPED_FIRST`, oldest first."""

    bytes: int = 64_000_000
    seconds: float = 168 * 3600.0
    """Age at which messages other than events are deleted."""
    event_seconds: float = 2160 * 3600.0


@dataclass(frozen=True, slots=True)
class OutboxLag:
    """What an output has not delivered."""

    count: int = 0
    bytes: int = 0
    oldest_seconds: float = 0.0
    """Age of the oldest message, as far as it was read."""


@dataclass
class _Cursor:
    """Where an output stands."""

    seq: int
    """Number of the last message that it has delivered."""
    kinds: frozenset[str] = frozenset()
    is_registered: bool = False
    count: int = 0
    bytes: int = 0
    """Of the messages above it that it wants."""
    oldest: float | None = None
    """When the first waiting message was created, as far as it was read."""
    batch: list[OutboxMessage] = field(default_factory=list)
    """What was read last."""
    dropped: dict[str, int] = field(default_factory=dict)

    def wants(self, message: OutboxMessage) -> bool:
        return message.seq > self.seq and message.kind in self.kinds

    def add(self, message: OutboxMessage) -> None:
        self.oldest = message.created if not self.count else self.oldest
        self.count, self.bytes = self.count + 1, self.bytes + message.size

    def remove(self, count: int, size: int) -> None:
        self.count, self.bytes = max(0, self.count - count), max(0, self.bytes - size)

    def count_drop(self, kind: str) -> None:
        self.dropped[kind] = self.dropped.get(kind, 0) + 1


class Outbox:
    """One thread appends; any thread may read, advance and ask."""

    def __init__(
        self,
        database: Database,
        *,
        limits: OutboxLimits | None = None,
        reserved: int = RESERVED,
        memory_bytes: int = _MEMORY_BYTES,
        newest: int = _NEWEST,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Reserve numbers, and take over the messages of the queue files of earlier versions.

        Raises DatabaseUnavailable if the file cannot be read.
        """
        self.database, self.limits = database, limits or OutboxLimits()
        self._reserve, self._memory_bytes, self._newest, self._wall = reserved, memory_bytes, newest, wall
        self.store_id = ""
        """16 hexadecimal digits that name this numbering."""
        self._changed = threading.Condition()
        self._writing = threading.RLock()
        """Held by the thread whose transaction is open."""
        self._cursors: dict[str, _Cursor] = {}
        self._pending: list[OutboxMessage] = []
        """Appended in the open transaction."""
        self._tail: list[OutboxMessage] = []
        """All messages from `_tail_start` on, in order, stored or not."""
        self._unstored = 0
        self._last = self._reserved = self._visible = self._tail_start = self._bytes = 0
        self._is_dirty, self._wakes = False, 0
        self._is_detached = False
        """Whether no number could be reserved, and the store has another name than on the disk."""
        self._open()

    def _open(self) -> None:
        self._load()
        queues: tuple[Path, list[str]] | None = None
        try:
            with self.database.transaction() as connection:
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('store', ?)", (self.store_id,))
                queues = self._take_over_queues(connection)
                self._extend_reservation(connection)
                self._store_cursors(connection)
        except DatabaseUnavailable as error:
            # No number of the store can be reserved. Those of another store can be given from memory; the store takes
            # its name when the disk works.
            _log.error("%s; messages are not stored until the disk works", error)
            self._load()
            self.store_id, self._reserved, self._is_detached = secrets.token_hex(8), _UNLIMITED, True
            return
        self._visible, self._tail_start = self._last, self._last + 1
        self._bytes, self._stored_kinds = self._measure()
        if queues is not None:
            remove_queues(*queues)

    def _load(self) -> None:
        read = self.database.read
        with self.database.checked():
            try:
                meta = dict(read("SELECT name, value FROM meta"))
                reserved = int(meta.get("reserved", 1))
                self._cursors = {
                    output: _Cursor(int(seq), dropped=_read_counts(dropped))
                    for output, seq, dropped in read("SELECT output, seq, dropped FROM cursors")
                }
            except (TypeError, ValueError) as error:
                raise sqlite3.DatabaseError(f"cursors: {error}") from None
        self.store_id = str(meta.get("store") or secrets.token_hex(8))
        last = int(read("SELECT coalesce(max(seq), 0) FROM outbox")[0][0])
        self._last = max([last, reserved - 1, *(cursor.seq for cursor in self._cursors.values())])
        self._reserved, self._visible, self._tail_start = self._last + 1, self._last, self._last + 1
        self._bytes, self._stored_kinds = self._measure()

    def _measure(self) -> tuple[int, frozenset[str]]:
        """Size and kinds of what is stored."""
        rows = self.database.read(f"SELECT kind, sum(length(payload) + {_OVERHEAD}) FROM outbox GROUP BY kind")
        return sum(size for _, size in rows), frozenset(kind for kind, _ in rows)

    def _take_over_queues(self, connection: sqlite3.Connection) -> tuple[Path, list[str]] | None:
        """Number what waits in the queue files of an earlier version. Returns their folder and outputs."""
        folder = None if self.database.path is None else self.database.path.parent / "queues"
        if folder is None or not folder.is_dir():
            return None
        queues = read_queues(folder)
        numbers: dict[str, int] = {}
        first: dict[str, int] = {}
        for message, output in merge_queues(queues):
            if message.payload not in numbers:
                self._last += 1
                numbers[message.payload] = self._last
                values = (self._last, *message[1:4], message.created(self._wall()), message.payload)
                connection.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)", values)
            first.setdefault(output, numbers[message.payload])
        for output in queues:
            self._cursors[output] = _Cursor(first.get(output, self._last + 1) - 1)
            self._is_dirty = True
        if numbers:
            _log.info("%s: %d messages of an earlier version were taken over", folder, len(numbers))
        return folder, list(queues)

    # Appending

    @property
    def last_seq(self) -> int:
        """The highest number that was given."""
        return self._last

    @property
    def reserved_until(self) -> int:
        """Numbers below this are reserved on disk; the next process begins above them if this one is killed.

        If nothing could be reserved, a number that is higher for every later process.
        """
        return self._last + int(self._wall()) if self._is_detached else self._reserved

    @property
    def unstored(self) -> int:
        """Messages that wait in memory for the disk."""
        return self._unstored

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction of the database in which messages are appended. Outputs see them once it is committed.

        What waited in memory, and cursors that moved, are written with it. Raises as `Database.transaction`; the
        messages appended in it are gone then.
        """
        with self._writing:
            before = self._bytes, self._stored_kinds, self._reserved
            try:
                with self.database.transaction(durable=durable) as connection:
                    if self._is_detached:
                        connection.execute("INSERT OR REPLACE INTO meta VALUES ('store', ?)", (self.store_id,))
                        self._extend_reservation(connection)
                    waiting = self._waiting_rows()
                    self._insert(connection, waiting)
                    self._store_cursors(connection)
                    yield connection
                    self._insert(connection, self._pending)
                    if self._last >= self._reserved:
                        self._extend_reservation(connection)
            except BaseException:
                self._pending.clear()
                self._is_dirty = True
                self._bytes, self._stored_kinds, self._reserved = before
                raise
            self._is_detached = False
            self._mark_stored(waiting)
            published, self._pending = self._pending, []
            self._publish(published)

    def append(
        self, kind: str, machine: str | None, id: str | None, payload: str, *, created: float | None = None
    ) -> int:
        """Number a message and append it; inside `transaction()` it belongs to that. Returns its number.

        Outside, it is written by itself, and if the disk refuses it goes to memory.
        """
        with self._writing:
            message = self._number(kind, machine, id, payload, created)
            if self.database.in_transaction:
                self._pending.append(message)
                return message.seq
            try:
                with self.transaction(durable=kind == "event"):
                    self._pending.append(message)
            except DatabaseUnavailable:
                self._append_unstored(message)
            return message.seq

    def append_unstored(
        self, kind: str, machine: str | None, id: str | None, payload: str, *, created: float | None = None
    ) -> int:
        """Number a message and publish it from memory, after a transaction that the disk refused."""
        with self._writing:
            message = self._number(kind, machine, id, payload, created)
            self._append_unstored(message)
            return message.seq

    def flush(self) -> None:
        """Write what waits in memory, and the cursors; nothing if there is nothing. Raises DatabaseUnavailable."""
        if self._is_dirty or self._unstored:
            with self.transaction(durable=self._unstored > 0):
                pass

    def _number(
        self, kind: str, machine: str | None, id: str | None, payload: str, created: float | None
    ) -> OutboxMessage:
        self._last += 1
        return OutboxMessage(self._last, kind, machine, id, self._wall() if created is None else created, payload)

    def _append_unstored(self, message: OutboxMessage) -> None:
        if message.seq >= self._reserved:
            # A number beyond the reservation could be given again after a kill.
            self._count_drops([message])
            return
        self._publish([replace(message, stored=False)])

    def _insert(self, connection: sqlite3.Connection, messages: Collection[OutboxMessage]) -> None:
        wanted = self._wanted_kinds()
        some = [message for message in messages if wanted is None or message.kind in wanted]
        rows = [(m.seq, m.kind, m.machine, m.id, m.created, m.payload) for m in some]
        connection.executemany("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._bytes += sum(message.size for message in some)
        self._stored_kinds |= {message.kind for message in some}

    def _extend_reservation(self, connection: sqlite3.Connection) -> None:
        self._reserved = self._last + 1 + self._reserve
        self._write_reservation(connection, self._reserved)

    def _write_reservation(self, connection: sqlite3.Connection, reserved: int) -> None:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('reserved', ?)", (reserved,))

    def _waiting_rows(self) -> list[OutboxMessage]:
        with self._changed:
            return [message for message in self._tail if not message.stored] if self._unstored else []

    def _mark_stored(self, written: list[OutboxMessage]) -> None:
        if not written:
            return
        seqs = {message.seq for message in written}
        with self._changed:
            self._tail = [replace(m, stored=True) if m.seq in seqs else m for m in self._tail]
            self._unstored = sum(not message.stored for message in self._tail)
            self._trim()

    def _publish(self, messages: list[OutboxMessage]) -> None:
        if not messages:
            return
        with self._changed:
            self._visible = messages[-1].seq
            if not self._cursors:
                self._tail_start = self._visible + 1
                return
            self._tail += messages
            for message in messages:
                self._unstored += not message.stored
                for cursor in self._cursors.values():
                    if cursor.wants(message):
                        cursor.add(message)
            self._trim()
            self._changed.notify_all()

    def _trim(self) -> None:
        """Keep the tail short: the oldest stored messages are on disk; of the others, the least important go."""
        surplus = 0
        while surplus < len(self._tail) - self._newest and self._tail[surplus].stored:
            surplus += 1
        del self._tail[:surplus]
        if surplus:
            self._tail_start = self._tail[0].seq if self._tail else self._visible + 1
        excess = sum(m.size for m in self._tail if not m.stored) - self._memory_bytes if self._unstored else 0
        if excess > 0:
            self._drop_unstored(excess)

    def _drop_unstored(self, excess: int) -> None:
        gone: dict[int, OutboxMessage] = {}
        for kind in DROPPED_FIRST:
            for message in self._tail[:-1]:
                if excess > 0 and message.kind == kind and not message.stored:
                    gone[message.seq] = message
                    excess -= message.size
        self._tail = [message for message in self._tail if message.seq not in gone]
        self._unstored -= len(gone)
        self._count_drops(gone.values())

    # For the outputs

    def register(self, outputs: Mapping[str, Collection[str]]) -> None:
        """The outputs from now on, each with the kinds that it wants.

        A new one begins after the newest message; what waited for one that is no longer there is deleted.
        """
        with self._changed:
            for name in [name for name in self._cursors if name not in outputs]:
                del self._cursors[name]
            for name, kinds in outputs.items():
                cursor = self._cursors.setdefault(name, _Cursor(self._visible))
                cursor.kinds, cursor.is_registered = frozenset(kinds), True
                self._count(cursor)
            self._is_dirty = True
        try:
            self.flush()
        except DatabaseUnavailable as error:
            _log.warning("outputs begin where they are only once the disk works: %s", error)

    def _count(self, cursor: _Cursor) -> None:
        marks = ", ".join("?" * len(cursor.kinds))
        query = (
            f"SELECT count(*), coalesce(sum(length(payload) + {_OVERHEAD}), 0), min(created) FROM outbox "
            f"WHERE seq > ? AND seq < ? AND kind IN ({marks})"
        )
        try:
            row = self.database.read(query, (cursor.seq, self._tail_start, *cursor.kinds))[0]
        except DatabaseUnavailable:  # what is on the disk is counted when it is read
            row = (0, 0, None)
        cursor.count, cursor.bytes, cursor.oldest = row
        cursor.batch = []
        for message in self._tail:
            if cursor.wants(message):
                cursor.add(message)

    def read(self, output: str, limit: int) -> list[OutboxMessage]:
        """The first messages above the cursor of an output, in order. Raises DatabaseUnavailable."""
        with self._changed:
            cursor = self._cursors[output]
            position, start, kinds = cursor.seq, self._tail_start, cursor.kinds
            newer = [message for message in self._tail if cursor.wants(message)][:limit]
        messages = newer
        if position + 1 < start:
            marks = ", ".join("?" * len(kinds))
            query = (
                "SELECT seq, kind, machine, id, created, payload FROM outbox "
                f"WHERE seq > ? AND seq < ? AND kind IN ({marks}) ORDER BY seq LIMIT ?"
            )
            rows = self.database.read(query, (position, start, *kinds, limit))
            messages = [OutboxMessage(*row) for row in rows]
            if not all(_is_object(message.payload) for message in messages):
                return self._read_past_damage(output, messages, limit)
            messages += newer[: limit - len(rows)]
        with self._changed:
            cursor.batch = messages
            cursor.oldest = messages[0].created if messages else None
        return messages

    def _read_past_damage(self, output: str, messages: list[OutboxMessage], limit: int) -> list[OutboxMessage]:
        """A damaged message would delay all that follow: it is counted as dropped, and deleted."""
        damaged = [message for message in messages if not _is_object(message.payload)]
        _log.error("%s: %d messages are damaged and not delivered", self.database.name, len(damaged))
        with self.database.transaction(durable=False) as connection:
            connection.executemany("DELETE FROM outbox WHERE seq = ?", [(message.seq,) for message in damaged])
        with self._changed:
            self._forget([(message.seq, message.kind, message.size) for message in damaged])
        return self.read(output, limit)

    def advance(self, output: str, seq: int) -> None:
        """An output has delivered everything up to `seq`. Written with the next transaction."""
        with self._changed:
            cursor = self._cursors.get(output)
            if cursor is None or seq <= cursor.seq:
                return
            some = self._tail if cursor.seq + 1 >= self._tail_start else cursor.batch
            done = [message for message in some if cursor.wants(message) and message.seq <= seq]
            cursor.remove(len(done), sum(message.size for message in done))
            cursor.batch = [message for message in cursor.batch if message.seq > seq]
            cursor.seq, cursor.oldest = seq, cursor.batch[0].created if cursor.batch else None
            self._is_dirty = True

    def give_up(self, output: str, message: OutboxMessage) -> None:
        """The receiver refuses a message for good: count it and continue behind it."""
        with self._changed:
            if output in self._cursors:
                self._cursors[output].count_drop(message.kind)
        self.advance(output, message.seq)

    def wait(self, seq_seen: int, timeout: float) -> bool:
        """Wait until there is a message above `seq_seen`, or for `wake()`; True if there is one."""
        with self._changed:
            wakes = self._wakes
            self._changed.wait_for(lambda: self._visible > seq_seen or self._wakes > wakes, timeout)
            return self._visible > seq_seen

    def wake(self) -> None:
        """Let all that wait now return."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    @property
    def has_readers(self) -> bool:
        """Whether there is an output; without one, messages are numbered and forgotten."""
        return bool(self._cursors)

    @property
    def newest_seq(self) -> int:
        """Number of the newest message that outputs can read."""
        return self._visible

    def lag(self, output: str) -> OutboxLag:
        """What waits for an output. Reads no disk."""
        with self._changed:
            cursor = self._cursors.get(output)
            if cursor is None or not cursor.count:
                return OutboxLag()
            if cursor.oldest is None:
                cursor.oldest = next((m.created for m in self._tail if cursor.wants(m)), None)
            age = 0.0 if cursor.oldest is None else max(0.0, self._wall() - cursor.oldest)
            return OutboxLag(cursor.count, cursor.bytes, age)

    def dropped(self, output: str) -> dict[str, int]:
        """Messages that an output never gets, by kind: too old, too many, or refused for good."""
        with self._changed:
            cursor = self._cursors.get(output)
            return {} if cursor is None else dict(cursor.dropped)

    # Deleting

    def prune(self, now: float) -> None:
        """Delete what every output has delivered, and what is too old at `now` (wall clock) or too much.

        Raises DatabaseUnavailable.
        """
        with self._changed:
            wanted = self._wanted_kinds()
            cursors = list(self._cursors.values())
            floors = {kind: min(one.seq for one in cursors if kind in one.kinds) for kind in sorted(wanted or ())}
        limits, gone = self.limits, []
        with self.transaction(durable=False) as connection:
            for kind, floor in floors.items():
                self._delete(connection, "kind = ? AND seq <= ?", (kind, floor))
            if wanted is not None and not wanted >= self._stored_kinds:
                marks = ", ".join("?" * len(wanted))
                self._delete(connection, f"kind NOT IN ({marks})", tuple(wanted))
                self._stored_kinds = wanted
            for kinds, age in (("kind <> 'event'", limits.seconds), ("kind = 'event'", limits.event_seconds)):
                # The first one tells without reading all of them.
                query = f"SELECT created FROM outbox WHERE {kinds} ORDER BY seq LIMIT 1"
                first = connection.execute(query).fetchone()
                if first is not None and first[0] < now - age:
                    gone += self._delete(connection, f"{kinds} AND created < ?", (now - age,))
            for kind in DROPPED_FIRST:
                while self._bytes > limits.bytes and (last := self._oldest_rows(connection, kind, limits.bytes)):
                    gone += self._delete(connection, "kind = ? AND seq <= ?", (kind, last))
        with self._changed:
            self._forget(gone)

    def _wanted_kinds(self) -> frozenset[str] | None:
        """Kinds that an output wants; None until the outputs of this process are known."""
        if not all(cursor.is_registered for cursor in self._cursors.values()):
            return None
        return frozenset().union(*(cursor.kinds for cursor in self._cursors.values()))

    def _delete(
        self, connection: sqlite3.Connection, where: str, values: tuple[object, ...]
    ) -> list[tuple[int, str, int]]:
        """Delete messages; returns number, kind and size of each."""
        statement = f"DELETE FROM outbox WHERE {where} RETURNING seq, kind, length(payload) + {_OVERHEAD}"
        rows = list(connection.execute(statement, values).fetchall())
        self._bytes -= sum(size for _, _, size in rows)
        return rows

    def _oldest_rows(self, connection: sqlite3.Connection, kind: str, most: int) -> int:
        """Number up to which messages of `kind` must go for `most` bytes; 0 if none can. The newest event is kept."""
        query = "SELECT seq, length(payload) FROM outbox WHERE kind = ? ORDER BY seq LIMIT ?"
        rows = connection.execute(query, (kind, _BATCH + 1)).fetchall()
        if kind == "event" and len(rows) <= _BATCH:
            rows = rows[:-1]
        last, excess = 0, self._bytes - most
        for seq, length in rows[:_BATCH]:
            if excess <= 0:
                break
            last, excess = int(seq), excess - int(length) - _OVERHEAD
        return last

    def _forget(self, gone: list[tuple[int, str, int]]) -> None:
        """Deleted messages leave the tail, and are counted for the outputs that had not delivered them."""
        seqs = {seq for seq, _, _ in gone}
        self._tail = [message for message in self._tail if message.seq not in seqs]
        for cursor in self._cursors.values():
            for seq, kind, size in gone:
                if seq > cursor.seq and kind in cursor.kinds:
                    cursor.count_drop(kind)
                    cursor.remove(1, size)
                    self._is_dirty = True
            cursor.batch = [message for message in cursor.batch if message.seq not in seqs]
            cursor.oldest = cursor.batch[0].created if cursor.batch else None

    def _count_drops(self, messages: Collection[OutboxMessage]) -> None:
        for cursor in self._cursors.values():
            for message in messages:
                if cursor.wants(message):
                    cursor.count_drop(message.kind)
                    if message.seq <= self._visible:
                        cursor.remove(1, message.size)

    # At the beginning and the end

    def close(self) -> bool:
        """Write everything and give back the reserved numbers; False if the disk refused. May be called twice."""
        self.wake()
        try:
            with self.transaction() as connection:
                self._reserved = self._last + 1
                self._write_reservation(connection, self._reserved)
        except DatabaseUnavailable:
            return False
        return True

    def _store_cursors(self, connection: sqlite3.Connection) -> None:
        if not self._is_dirty:
            return
        with self._changed:
            self._is_dirty = False
            rows = [(name, c.seq, json.dumps(c.dropped)) for name, c in self._cursors.items()]
        marks = ", ".join("?" * len(rows))
        connection.execute(f"DELETE FROM cursors WHERE output NOT IN ({marks})", [row[0] for row in rows])
        connection.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", rows)


def _is_object(payload: object) -> bool:
    if not isinstance(payload, str) or payload[:1] != "{":
        return False
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return True


def _read_counts(text: str) -> dict[str, int]:
    try:
        value = json.loads(text)
        return {str(kind): int(count) for kind, count in value.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
