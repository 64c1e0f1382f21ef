"""Score history: every score for some days, minutes for months, hours for years."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeasd.runtime.alarms.transition import Transition
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage.database import DamagedStore, connect, explained, is_unreadable, put_aside, transaction

RESOLUTIONS = {"score": ("scores", 1), "minute": ("score_minutes", 60_000), "hour": ("score_hours", 3_600_000)}
"""Name to (table, milliseconds)."""

_MERGE = (
    "INSERT INTO {table} VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT (machine, at) DO UPDATE SET count = count + 1, "
    "total = total + excluded.total, low = min(low, excluded.low), high = max(high, excluded.high)"
)


def add_scores(connection: sqlite3.Connection, key: int, scores: Sequence[tuple[int, float]]) -> int:
    """Add (milliseconds, score) pairs of a machine inside a transaction; returns how many were new.

    A score whose millisecond is taken is not counted again, at any resolution.
    """
    new = 0
    for at, score in scores:
        if not connection.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", (key, at, score)).rowcount:
            continue
        new += 1
        for table, width in (RESOLUTIONS["minute"], RESOLUTIONS["hour"]):
            connection.execute(_MERGE.format(table=table), (key, at - at % width, score, score, score))
    return new


def read_history(
    connection: sqlite3.Connection, machine: str, id: str, resolution: str, since: float, until: float
) -> list[dict[str, float]]:
    """Rows from `since` to before `until` (seconds since 1970), in order of time."""
    table, _ = RESOLUTIONS[resolution]
    columns = "score" if resolution == "score" else "count, total / count, low, high"
    query = (
        f"SELECT at / 1000.0, {columns} FROM {table} JOIN machines ON key = {table}.machine "
        "WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? ORDER BY at"
    )
    rows = connection.execute(query, (machine, id, round(1000 * since), round(1000 * until)))
    names = ("at", "score") if resolution == "score" else ("at", "count", "mean", "low", "high")
    return [dict(zip(names, row, strict=True)) for row in rows]


_DAY = 86_400.0
_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept, in seconds. Open events and the newest `fewest_events` are always kept."""

    scores: float = 2 * _DAY
    minutes: float = 92 * _DAY
    hours: float = 3 * 366 * _DAY
    events: float = 3 * 366 * _DAY
    fewest_events: int = 1000


def prune_batches(connection: sqlite3.Connection, path: Path, now: float, keep: Retention) -> Iterator[int]:
    """Delete what is older than `keep` allows at `now` (wall clock in seconds); the rows that each transaction took.

    Others may write between two transactions. Raises InputError where the file cannot be written.
    """
    with explained(path):
        machines = [key for (key,) in connection.execute("SELECT key FROM machines")]
    ages = {"scores": keep.scores, "score_minutes": keep.minutes, "score_hours": keep.hours}
    for table, age in ages.items():
        # The key begins with the machine: a question about the time alone would read the whole table.
        for machine in machines:
            values = (machine, round(1000 * (now - age)))
            yield from _batches(connection, path, table, "machine, at", "machine = ? AND at < ?", values)
    oldest = round(1000 * (now - keep.events))
    newest = "event NOT IN (SELECT event FROM events ORDER BY raised_at DESC LIMIT ?)"
    rows = (oldest, keep.fewest_events)
    yield from _batches(connection, path, "events", "event", f"cleared_at < ? AND {newest}", rows)
    kept = "(event IS NULL OR event NOT IN (SELECT event FROM events))"
    for machine in machines:
        where, rows = f"machine = ? AND at < ? AND {kept}", (machine, oldest)
        yield from _batches(connection, path, "transitions", "machine, sequence", where, rows)


def _batches(
    connection: sqlite3.Connection, path: Path, table: str, key: str, where: str, values: tuple[object, ...]
) -> Iterator[int]:
    found = f"SELECT 1 FROM {table} WHERE {where} LIMIT 1"
    statement = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {where} LIMIT {_BATCH})"
    with explained(path):
        count = _BATCH if connection.execute(found, values).fetchone() else 0
    while count == _BATCH:
        with transaction(connection, path, durable=False):
            count = connection.execute(statement, values).rowcount
        yield count


class EventStore:
    """The open file. One thread writes; other processes may read at the same time with `read_only`.

    Every method raises InputError with one line that names the file where it cannot be read or written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open `path`, and make it where it is absent (not with `read_only`). Older files are brought up to date."""
        self.path = Path(path)
        self._connection = connect(self.path, read_only)
        self._pruning: Iterator[int] | None = None

    def __enter__(self) -> EventStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._connection.close()

    # Writing

    def append(self, transitions: Sequence[Transition], snapshot: dict[str, Any] | None = None) -> int:
        """Store transitions and the state after the last of them, all or nothing; returns how many were new.

        What is there already is left alone. Raises InputError, and stores nothing, where another transition has
        the same number. `snapshot` is that of `AlarmMachine.snapshot`.
        """
        new = 0
        with transaction(self._connection, self.path):
            for one in transitions:
                new += self._store(one)
            if snapshot is not None:
                self._keep_state(snapshot)
        return new

    def keep_states(self, snapshots: Iterable[dict[str, Any]], *, durable: bool = True) -> None:
        """Store what machines remember now, in one transaction. All that they said must be in the store already.

        Not `durable`: it survives a kill at once, a power cut some seconds later.
        """
        with transaction(self._connection, self.path, durable=durable):
            for snapshot in snapshots:
                self._keep_state(snapshot)

    def _keep_state(self, snapshot: dict[str, Any]) -> None:
        key = self._key(str(snapshot["machine"]), str(snapshot["id"]))
        text = json.dumps(snapshot, allow_nan=False)
        self._connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (key, text))

    def _store(self, one: Transition) -> bool:
        key, message = self._key(one.machine, one.id), json.dumps(one.to_json(), allow_nan=False)
        run = self._connection.execute
        found = run(
            "SELECT message FROM transitions WHERE machine = ? AND sequence = ?", (key, one.sequence)
        ).fetchone()
        if found is not None:
            if found[0] != message:
                raise InputError(
                    f"{self.path}: transition {one.sequence} of {one.machine} {one.id} is there already and says "
                    "something else; let one service at a time write for a machine"
                )
            return False
        at = round(1000 * one.wall)
        run("INSERT INTO transitions VALUES (?, ?, ?, ?, ?)", (key, one.sequence, one.event, at, message))
        if one.event is not None:
            self._update_event(one, key, at)
        return True

    def _update_event(self, one: Transition, key: int, at: int) -> None:
        run = self._connection.execute
        raised = at if one.raised_wall is None else round(1000 * one.raised_wall)
        run(
            "INSERT OR IGNORE INTO events VALUES (?, ?, ?, NULL, NULL, NULL, NULL, ?, ?, ?, ?)",
            (one.event, key, raised, one.threshold, int(one.test), one.sequence, one.sequence),
        )
        peak = one.peak
        run(
            "UPDATE events SET last_sequence = ?, peak = coalesce(?, peak) WHERE event = ?",
            (one.sequence, peak, one.event),
        )
        if one.state == "acknowledged" and not one.test:
            run("UPDATE events SET acknowledged_at = coalesce(acknowledged_at, ?) WHERE event = ?", (at, one.event))
        if one.state not in ("alarm", "acknowledged") or one.reason == "test_over":
            run("UPDATE events SET cleared_at = ?, cleared_by = ? WHERE event = ?", (at, one.reason, one.event))

    def add_scores(self, machine: str, id: str, scores: Iterable[tuple[float, float]]) -> int:
        """Add (wall clock in seconds, clip score) pairs to the history; returns how many were new and finite.

        Give many at once, some seconds of them: each call is a transaction. It survives a kill at once, a power cut
        some seconds later.
        """
        with transaction(self._connection, self.path, durable=False):
            finite = [(round(1000 * wall), float(s)) for wall, s in scores if math.isfinite(s) and math.isfinite(wall)]
            return add_scores(self._connection, self._key(machine, id), finite)

    def prune(self, now: float, retention: Retention | None = None) -> int:
        """Delete what is older than `retention` allows at `now` (wall clock in seconds); returns how many rows.

        In small transactions, so that writing is never held up for long.
        """
        return sum(prune_batches(self._connection, self.path, now, retention or Retention()))

    def prune_some(self, now: float, retention: Retention) -> bool:
        """As `prune`, but one transaction of it; whether there may be more, for the next call to go on with."""
        if self._pruning is None:
            self._pruning = prune_batches(self._connection, self.path, now, retention)
        more = False
        try:
            more = next(self._pruning, None) is not None
        finally:
            if not more:
                self._pruning = None
        return more

    def _key(self, machine: str, id: str) -> int:
        found = self._connection.execute(
            "SELECT key FROM machines WHERE machine = ? AND id = ?", (machine, id)
        ).fetchone()
        if found is not None:
            return int(found[0])
        made = self._connection.execute("INSERT INTO machines (machine, id) VALUES (?, ?)", (machine, id)).lastrowid
        assert made is not None
        return made

    # Reading

    def snapshot(self, machine: str, id: str) -> dict[str, Any] | None:
        """The state that was stored last for a machine, for `AlarmMachine.restore`; None where there is none."""
        query = (
            "SELECT snapshot FROM states JOIN machines ON key = states.machine WHERE machines.machine = ? AND id = ?"
        )
        rows = self._rows(query, (machine, id))
        return None if not rows else self._parsed(rows[0][0])

    def last_sequence(self, machine: str, id: str) -> int:
        """The highest number of a transition of a machine; 0 where there is none."""
        query = (
            "SELECT coalesce(max(sequence), 0) FROM transitions JOIN machines ON key = transitions.machine "
            "WHERE machines.machine = ? AND id = ?"
        )
        return int(self._rows(query, (machine, id))[0][0])

    def transitions(self, machine: str, id: str, *, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Messages of a machine with a sequence number above `after`, in order, at most `limit`."""
        query = (
            "SELECT message FROM transitions JOIN machines ON key = transitions.machine "
            "WHERE machines.machine = ? AND id = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        )
        return [self._parsed(row[0]) for row in self._rows(query, (machine, id, after, limit))]

    def event_transitions(self, event: str) -> list[dict[str, Any]]:
        """All messages of an event, in order."""
        query = "SELECT message FROM transitions WHERE event = ? ORDER BY sequence"
        return [self._parsed(row[0]) for row in self._rows(query, (event,))]

    def events(
        self,
        machine: str | None = None,
        id: str | None = None,
        *,
        since: float | None = None,
        until: float | None = None,
        open_only: bool = False,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Events raised from `since` to before `until` (wall clock in seconds), newest first; times in seconds."""
        query = (
            "SELECT event, machines.machine, id, raised_at / 1000.0 AS raised_at, acknowledged_at / 1000.0 AS "
            "acknowledged_at, cleared_at / 1000.0 AS cleared_at, cleared_by, peak, threshold, test, first_sequence, "
            "last_sequence FROM events JOIN machines ON key = events.machine WHERE (:machine IS NULL OR machines.machine = :machine) "
            "AND (:id IS NULL OR id = :id) AND (:since IS NULL OR raised_at >= :since) AND (:until IS NULL OR raised_at < :until) "
            "AND (NOT :open_only OR cleared_at IS NULL) ORDER BY events.raised_at DESC, event DESC LIMIT :limit"
        )
        start, end = (None if t is None else round(1000 * t) for t in (since, until))
        names = "event machine id raised_at acknowledged_at cleared_at cleared_by peak threshold test first_sequence"
        columns = [*names.split(), "last_sequence"]
        values = {"machine": machine, "id": id, "since": start, "until": end, "open_only": open_only, "limit": limit}
        rows = self._rows(query, values)
        return [{**dict(zip(columns, row, strict=True)), "test": bool(row[9])} for row in rows]

    def history(
        self, machine: str, id: str, resolution: str = "minute", *, since: float = 0.0, until: float = 1e11
    ) -> list[dict[str, float]]:
        """Scores from `since` to before `until` in order: `score` (each), `minute` or `hour` (count, mean, low, high)."""
        if resolution not in RESOLUTIONS:
            raise InputError(f"resolution {resolution}: unknown; use {', '.join(RESOLUTIONS)}")
        with explained(self.path):
            return read_history(self._connection, machine, id, resolution, since, until)

    def _rows(self, query: str, values: tuple[object, ...] | Mapping[str, object]) -> list[Any]:
        with explained(self.path):
            return self._connection.execute(query, values).fetchall()

    def _parsed(self, text: str) -> dict[str, Any]:
        with explained(self.path):
            try:
                value = json.loads(text)
            except (TypeError, ValueError, RecursionError) as error:
                raise sqlite3.DatabaseError(f"not JSON: {error}") from None
            if not isinstance(value, dict):
                raise sqlite3.DatabaseError(f"{type(value).__name__} in the place of an object")
            return value


def open_store(path: Path) -> tuple[EventStore, str | None]:
    """The store at `path`, and one line about what was put aside for it, if something was.

    Raises InputError for a foreign or newer file, and where the folder or the disk does not let it be opened.
    """
    try:
        return EventStore(path), None
    except InputError as error:
        if not isinstance(error, DamagedStore) and not is_unreadable(path):
            raise
        aside = put_aside(path)
        return EventStore(path), put_aside_line(error, aside)


def put_aside_line(error: InputError, aside: Path) -> str:
    """What happened, and what it costs, in one line."""
    what = str(error).partition(";")[0]
    return f"{what}; it is kept as {aside.name}, and a new event store was begun: earlier events are only there"
