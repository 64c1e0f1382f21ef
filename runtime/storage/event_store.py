"""Transitions, events, machine snapshots and the score history of a data folder.

Scores are kept one by one for some days, by minutes for months, by hours for years.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeasd.runtime.alarms.transition import Transition, upgrade_message
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage.database import Database

RESOLUTIONS = {"score": ("scores", 1), "minute": ("score_minutes", 60_000), "hour": ("score_hours", 3_600_000)}
"""Name to (table, milliseconds)."""
_MERGE = (
    "INSERT INTO {table} VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT (machine, at) DO UPDATE SET count = count + 1, "
    "total = total + excluded.total, low = min(low, excluded.low), high = max(high, excluded.high)"
)
_MERGE_NORMAL = (
    "INSERT INTO normal_hours VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT (machine, at, mode) DO UPDATE SET "
    "seconds = seconds + excluded.seconds, count = count + 1, total = total + excluded.total, "
    "squares = squares + excluded.squares, levels = levels + excluded.levels, "
    "level_total = level_total + excluded.level_total"
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
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


@dataclass(frozen=True, slots=True)
class StoredScore:
    """A clip score for the history."""

    wall: float
    """Seconds since 1970."""
    score: float
    state: str | None = None
    """The operating state, if the score was not judged because of it."""
    level: float | None = None
    """Level of the sound in dBFS."""
    mode: str | None = None
    """The mode of the machine ("" if it has none) if the score is one of its normal sound: judged, healthy, complete
    and without an event."""
    seconds: float = 0.0
    """Since the score before."""


@dataclass(frozen=True, slots=True)
class StateSpan:
    """Some seconds of a machine in one state, up to `wall`."""

    wall: float
    state: str
    seconds: float


def boot_id() -> str:
    """The ID of the present boot of this device; "" if the kernel does not tell it."""
    try:
        return _BOOT_ID.read_text("ascii").strip()[:64]
    except (OSError, ValueError):
        return ""


class EventStore:
    """The tables of events in a database. One thread writes; other processes may read at the same time.

    Methods that write may be called inside `database.transaction()` and then belong to it. All raise
    DatabaseUnavailable or DatabaseCorrupt.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._pruning: Iterator[int] | None = None

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> EventStore:
        """The events of the file at `path`; see `Database`. Use it as a context manager, or call `close`."""
        return cls(Database(path, read_only=read_only))

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def __enter__(self) -> EventStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()

    # Writing

    def append(self, transitions: Sequence[Transition], snapshot: dict[str, Any] | None = None) -> int:
        """Store transitions and the state after the last of them, all or nothing; returns how many were new.

        Those that are stored already are left alone. Raises InputError, and stores nothing, if another transition has
        the same number. `snapshot` is that of `AlarmMachine.snapshot`.
        """
        with self.database.transaction() as connection:
            new = sum(self._store(connection, one) for one in transitions)
            if snapshot is not None:
                self._store_state(connection, snapshot)
        return new

    def store_states(self, snapshots: Iterable[dict[str, Any]], *, durable: bool = True) -> None:
        """Store what machines remember now. All their transitions must be stored already."""
        with self.database.transaction(durable=durable) as connection:
            for snapshot in snapshots:
                self._store_state(connection, snapshot)

    def _store_state(self, connection: sqlite3.Connection, snapshot: dict[str, Any]) -> None:
        key = _machine_key(connection, str(snapshot["machine"]), str(snapshot["id"]))
        text = json.dumps(snapshot, allow_nan=False)
        connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (key, text, boot_id()))

    def _store(self, connection: sqlite3.Connection, one: Transition) -> bool:
        key, message = _machine_key(connection, one.machine, one.id), json.dumps(one.to_json(), allow_nan=False)
        query = "SELECT message FROM transitions WHERE machine = ? AND sequence = ?"
        found = connection.execute(query, (key, one.sequence)).fetchone()
        if found is not None:
            if found[0] != message:
                raise InputError(
                    f"{self.database.name}: transition {one.sequence} of {one.machine} {one.id} is stored already with "
                    "other content; let one service at a time write for a machine"
                )
            return False
        row = (key, one.sequence, one.event, round(1000 * one.wall), message)
        connection.execute("INSERT INTO transitions VALUES (?, ?, ?, ?, ?)", row)
        if one.event is not None:
            _update_event(connection, one, key)
        return True

    def store_wall(self, wall: float) -> None:
        """Store the present time of a settled wall clock, for `last_wall` after the next start."""
        with self.database.transaction(durable=False) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('wall', ?)", (wall,))

    def add_scores(self, machine: str, id: str, scores: Iterable[StoredScore | tuple[float, float]]) -> int:
        """Add scores, or (wall clock in seconds, clip score) pairs, to the history; returns how many were new and finite.

        Minutes and hours are of scores that were judged: those of a machine that is off are not its scores.

        Give some seconds of them at once: each call is a transaction. It survives a kill at once, a power cut some
        seconds later. A score whose millisecond is taken is not counted again, at any resolution.
        """
        rows = [one if isinstance(one, StoredScore) else StoredScore(*one) for one in scores]
        finite = [one for one in rows if math.isfinite(one.score) and math.isfinite(one.wall)]
        new = 0
        with self.database.transaction(durable=False) as connection:
            key = _machine_key(connection, machine, id)
            for one in finite:
                at = round(1000 * one.wall)
                values = (key, at, float(one.score), one.state)
                if connection.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", values).rowcount:
                    new += 1
                    _summarise(connection, key, at, one)
        return new

    def add_hours(self, machine: str, id: str, spans: Iterable[StateSpan]) -> None:
        """Count for how long a machine was in which state, by hours of the wall clock."""
        width = RESOLUTIONS["hour"][1]
        with self.database.transaction(durable=False) as connection:
            key = _machine_key(connection, machine, id)
            for span in spans:
                at = round(1000 * span.wall)
                values = (key, at - at % width, span.state, span.seconds)
                connection.execute(
                    "INSERT INTO state_hours VALUES (?, ?, ?, ?) ON CONFLICT (machine, at, state) "
                    "DO UPDATE SET seconds = seconds + excluded.seconds",
                    values,
                )

    def put_change(self, machine: str, id: str, mode: str, change: Mapping[str, Any]) -> None:
        """Store a change of the normal: quantity, shape, began, found, before, after, ended. One that began at the same
        time is replaced."""
        began, found, ended = (
            None if change[name] is None else round(1000 * change[name]) for name in ("began", "found", "ended")
        )
        with self.database.transaction() as connection:
            key = _machine_key(connection, machine, id)
            row = (change["quantity"], began, change["shape"], found, change["before"], change["after"], ended)
            connection.execute("INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (key, mode, *row))

    def store_note(self, name: str, value: str) -> None:
        """Store a text under a name, for `note`."""
        with self.database.transaction(durable=False) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"note {name}", value))

    # Deleting

    def prune(self, now: float, retention: Retention | None = None) -> int:
        """Delete what is older than `retention` allows at `now` (wall clock in seconds); returns how many rows.

        In small transactions, so that writing is never held up for long.
        """
        return sum(self._prune_batches(now, retention or Retention()))

    def prune_some(self, now: float, retention: Retention) -> bool:
        """As `prune`, but one transaction of it; True if there may be more, which the next call continues."""
        if self._pruning is None:
            self._pruning = self._prune_batches(now, retention)
        more = False
        try:
            more = next(self._pruning, None) is not None
        finally:
            if not more:
                self._pruning = None
        return more

    def _prune_batches(self, now: float, keep: Retention) -> Iterator[int]:
        machines = [key for (key,) in self.database.read("SELECT key FROM machines")]
        ages = {"scores": keep.scores, "score_minutes": keep.minutes, "score_hours": keep.hours}
        ages |= {"level_minutes": keep.minutes, "level_hours": keep.hours}
        ages |= {"state_hours": keep.hours, "normal_hours": keep.hours}
        for table, age in ages.items():
            # The primary key begins with the machine: a condition on the time alone would read the whole table.
            for machine in machines:
                values = (machine, round(1000 * (now - age)))
                more = {"state_hours": ", state", "normal_hours": ", mode"}
                primary = f"machine, at{more.get(table, '')}"
                yield from self._delete(table, primary, "machine = ? AND at < ?", values)
        oldest = round(1000 * (now - keep.events))
        newest = "event NOT IN (SELECT event FROM events ORDER BY raised_at DESC LIMIT ?)"
        yield from self._delete("events", "event", f"cleared_at < ? AND {newest}", (oldest, keep.fewest_events))
        orphaned = "(event IS NULL OR event NOT IN (SELECT event FROM events))"
        for machine in machines:
            where = f"machine = ? AND at < ? AND {orphaned}"
            yield from self._delete("transitions", "machine, sequence", where, (machine, oldest))

    def _delete(self, table: str, key: str, where: str, values: tuple[object, ...]) -> Iterator[int]:
        statement = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {where} LIMIT {_BATCH})"
        count = _BATCH if self.database.read(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1", values) else 0
        while count == _BATCH:
            with self.database.transaction(durable=False) as connection:
                count = connection.execute(statement, values).rowcount
            yield count

    # Reading

    def machines(self) -> list[tuple[str, str]]:
        """Type and ID of every machine of which anything was stored."""
        return [
            (str(row[0]), str(row[1])) for row in self.database.read("SELECT machine, id FROM machines ORDER BY 1, 2")
        ]

    def note(self, name: str) -> str | None:
        """What `store_note` stored."""
        rows = self.database.read("SELECT value FROM meta WHERE name = ?", (f"note {name}",))
        return str(rows[0][0]) if rows else None

    def changes(self, machine: str, id: str) -> list[tuple[str, dict[str, Any]]]:
        """Mode and fields of the changes of the normal of a machine, in the order in which they were found."""
        query = (
            "SELECT mode, quantity, shape, began / 1000.0, found / 1000.0, before, after, ended / 1000.0 FROM changes "
            "JOIN machines ON key = changes.machine WHERE machines.machine = ? AND id = ? ORDER BY found, quantity"
        )
        names = ("quantity", "shape", "began", "found", "before", "after", "ended")
        rows = self.database.read(query, (machine, id))
        return [(str(mode), dict(zip(names, row, strict=True))) for mode, *row in rows]

    def normal_hours(self, machine: str, id: str, *, since: float, until: float) -> list[dict[str, Any]]:
        """Hours of normal sound from `since` to before `until`, in order: mode, at, seconds, mean, std, level."""
        query = (
            "SELECT mode, at / 1000.0, seconds, count, total, squares, levels, level_total FROM normal_hours "
            "JOIN machines ON key = normal_hours.machine WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? "
            "ORDER BY at, mode"
        )
        found = []
        values = (machine, id, round(1000 * since), round(1000 * until))
        for mode, at, seconds, count, total, squares, levels, level_total in self.database.read(query, values):
            mean = total / count
            std = math.sqrt(max(0.0, squares / count - mean**2))
            level = level_total / levels if levels else None
            found.append({"mode": mode, "at": at, "seconds": seconds, "mean": mean, "std": std, "level": level})
        return found

    def snapshot(self, machine: str, id: str) -> dict[str, Any] | None:
        """The state that was stored last of a machine, for `AlarmMachine.restore`; None if none was."""
        query = (
            "SELECT snapshot FROM states JOIN machines ON key = states.machine WHERE machines.machine = ? AND id = ?"
        )
        rows = self.database.read(query, (machine, id))
        return self._parsed(rows[0][0]) if rows else None

    def rebooted_since(self, machine: str, id: str) -> bool:
        """Whether the device was booted since the snapshot of a machine: then its times are of another clock."""
        query = "SELECT boot FROM states JOIN machines ON key = states.machine WHERE machines.machine = ? AND id = ?"
        rows, boot = self.database.read(query, (machine, id)), boot_id()
        return bool(rows) and (not boot or rows[0][0] != boot)

    def last_wall(self) -> float | None:
        """The time that was stored last."""
        rows = self.database.read("SELECT value FROM meta WHERE name = 'wall'")
        return float(rows[0][0]) if rows and isinstance(rows[0][0], (int, float)) else None

    def burn_in(self, machine: str, id: str) -> str | None:
        """What `store_burn_in` stored of a machine."""
        rows = self.database.read("SELECT value FROM meta WHERE name = ?", (f"burn_in {machine} {id}",))
        return str(rows[0][0]) if rows else None

    def store_burn_in(self, machine: str, id: str, text: str) -> None:
        """Store where the learning period of a machine stands."""
        with self.database.transaction() as connection:
            statement = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"
            connection.execute(statement, (f"burn_in {machine} {id}", text))

    def last_sequence(self, machine: str, id: str) -> int:
        """The highest number of a transition of a machine; 0 if there is none."""
        query = (
            "SELECT coalesce(max(sequence), 0) FROM transitions JOIN machines ON key = transitions.machine "
            "WHERE machines.machine = ? AND id = ?"
        )
        return int(self.database.read(query, (machine, id))[0][0])

    def transitions(self, machine: str, id: str, *, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Messages of a machine with a sequence number above `after`, in order, at most `limit`."""
        query = (
            "SELECT message FROM transitions JOIN machines ON key = transitions.machine "
            "WHERE machines.machine = ? AND id = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        )
        return [upgrade_message(self._parsed(row[0])) for row in self.database.read(query, (machine, id, after, limit))]

    def event_transitions(self, event: str) -> list[dict[str, Any]]:
        """All messages of an event, in order."""
        query = "SELECT message FROM transitions WHERE event = ? ORDER BY sequence"
        return [upgrade_message(self._parsed(row[0])) for row in self.database.read(query, (event,))]

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
        """Events raised from `since` to before `until` (wall clock in seconds), newest first; times in seconds.

        Of an event of this boot the monotonic clock says how long ago it was: one that was raised before the wall clock
        was set is found by the present time too. `lasted_seconds` is None for events of an earlier edgeasd.
        """
        query = (
            "SELECT event, machines.machine, id, raised_at / 1000.0 AS raised_at, acknowledged_at / 1000.0 AS "
            "acknowledged_at, cleared_at / 1000.0 AS cleared_at, cleared_by, peak, threshold, test, first_sequence, "
            "last_sequence, lasted FROM events JOIN machines ON key = events.machine WHERE (:machine IS NULL OR machines.machine = :machine) "
            "AND (:id IS NULL OR id = :id) AND (:since IS NULL OR raised_at >= :since OR "
            "(stored_boot = :boot AND :began + 1000 * stored_clock >= :since)) AND (:until IS NULL OR raised_at < :until) "
            "AND (NOT :open_only OR cleared_at IS NULL) ORDER BY events.raised_at DESC, event DESC LIMIT :limit"
        )
        start, end = (None if t is None else round(1000 * t) for t in (since, until))
        names = "event machine id raised_at acknowledged_at cleared_at cleared_by peak threshold test first_sequence"
        columns = [*names.split(), "last_sequence", "lasted_seconds"]
        values = {"machine": machine, "id": id, "since": start, "until": end, "open_only": open_only, "limit": limit}
        boot, began = boot_id() or None, 1000 * (time.time() - time.monotonic())
        rows = self.database.read(query, {**values, "boot": boot, "began": began})
        return [{**dict(zip(columns, row, strict=True)), "test": bool(row[9])} for row in rows]

    def history(
        self, machine: str, id: str, resolution: str = "minute", *, since: float = 0.0, until: float = 1e11
    ) -> list[dict[str, Any]]:
        """Scores from `since` to before `until` in order: `score` (each), `minute` or `hour` (count, mean, low, high).

        A score that was not judged has the operating `state`.
        """
        if resolution not in RESOLUTIONS:
            raise InputError(f"resolution {resolution}: unknown; use {', '.join(RESOLUTIONS)}")
        table, _ = RESOLUTIONS[resolution]
        columns = "score, state" if resolution == "score" else "count, total / count, low, high"
        query = (
            f"SELECT at / 1000.0, {columns} FROM {table} JOIN machines ON key = {table}.machine "
            "WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? ORDER BY at"
        )
        rows = self.database.read(query, (machine, id, round(1000 * since), round(1000 * until)))
        if resolution == "score":
            return [
                {"at": at, "score": score, **({} if state is None else {"state": state})} for at, score, state in rows
            ]
        return [dict(zip(("at", "count", "mean", "low", "high"), row, strict=True)) for row in rows]

    def levels(
        self, machine: str, id: str, resolution: str, *, since: float = 0.0, until: float = 1e11
    ) -> list[dict[str, Any]]:
        """Levels in dBFS from `since` to before `until` by `minute` or `hour`: at, count, mean, low, high."""
        if resolution not in ("minute", "hour"):
            raise InputError(f"resolution {resolution}: levels are kept by minute and hour")
        table = f"level_{resolution}s"
        query = (
            f"SELECT at / 1000.0, count, total / count, low, high FROM {table} JOIN machines ON key = {table}.machine "
            "WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? ORDER BY at"
        )
        rows = self.database.read(query, (machine, id, round(1000 * since), round(1000 * until)))
        return [dict(zip(("at", "count", "mean", "low", "high"), row, strict=True)) for row in rows]

    def states_by_hour(
        self, machine: str, id: str, *, since: float = 0.0, until: float = 1e11
    ) -> list[tuple[float, str, float]]:
        """Hour, state and seconds in it, of the hours from `since` to before `until`, in order."""
        query = (
            "SELECT at / 1000.0, state, seconds FROM state_hours JOIN machines ON key = state_hours.machine "
            "WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? ORDER BY at, state"
        )
        rows = self.database.read(query, (machine, id, round(1000 * since), round(1000 * until)))
        return [(float(at), str(state), float(seconds)) for at, state, seconds in rows]

    def state_hours(self, machine: str, id: str, *, since: float = 0.0, until: float = 1e11) -> dict[str, float]:
        """Seconds that a machine was in each state, of the hours from `since` to before `until` (wall clock)."""
        query = (
            "SELECT state, sum(seconds) FROM state_hours JOIN machines ON key = state_hours.machine "
            "WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? GROUP BY state ORDER BY state"
        )
        values = (machine, id, round(1000 * since), round(1000 * until))
        return {str(state): float(seconds) for state, seconds in self.database.read(query, values)}

    def _parsed(self, text: str) -> dict[str, Any]:
        with self.database.checked():
            try:
                value = json.loads(text)
            except (TypeError, ValueError, RecursionError) as error:
                raise sqlite3.DatabaseError(f"not JSON: {error}") from None
            if not isinstance(value, dict):
                raise sqlite3.DatabaseError(f"{type(value).__name__} in place of an object")
            return value


def _machine_key(connection: sqlite3.Connection, machine: str, id: str) -> int:
    query = "SELECT key FROM machines WHERE machine = ? AND id = ?"
    if (found := connection.execute(query, (machine, id)).fetchone()) is not None:
        return int(found[0])
    created = connection.execute("INSERT INTO machines (machine, id) VALUES (?, ?)", (machine, id)).lastrowid
    assert created is not None
    return created


def _summarise(connection: sqlite3.Connection, key: int, at: int, one: StoredScore) -> None:
    """Add a score to the minutes and hours that it belongs to."""
    quantities = [("score", one.score)] if one.state is None else []
    quantities += [] if one.level is None or not math.isfinite(one.level) else [("level", one.level)]
    for name, value in quantities:
        for span in ("minute", "hour"):
            width = RESOLUTIONS[span][1]
            merged = (key, at - at % width, value, value, value)
            connection.execute(_MERGE.format(table=f"{name}_{span}s"), merged)
    if one.mode is not None and one.state is None:
        width, level = RESOLUTIONS["hour"][1], one.level
        row = (key, at - at % width, one.mode, one.seconds, one.score, one.score**2)
        connection.execute(_MERGE_NORMAL, (*row, int(level is not None), level or 0.0))


def _update_event(connection: sqlite3.Connection, one: Transition, key: int) -> None:
    run, at = connection.execute, round(1000 * one.wall)
    raised = at if one.raised_wall is None else round(1000 * one.raised_wall)
    run(
        "INSERT OR IGNORE INTO events (event, machine, raised_at, threshold, test, first_sequence, last_sequence, "
        "stored_clock, stored_boot) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (one.event, key, raised, one.threshold, int(one.test), one.sequence, one.sequence, time.monotonic(), boot_id()),
    )
    query = "UPDATE events SET last_sequence = ?, peak = coalesce(?, peak) WHERE event = ?"
    run(query, (one.sequence, one.peak, one.event))
    if one.state == "acknowledged" and not one.test:
        run("UPDATE events SET acknowledged_at = coalesce(acknowledged_at, ?) WHERE event = ?", (at, one.event))
    if one.state not in ("alarm", "acknowledged") or one.reason == "test_over":
        query = "UPDATE events SET cleared_at = ?, cleared_by = ?, lasted = ? WHERE event = ?"
        run(query, (at, one.reason, one.lasted_seconds, one.event))
