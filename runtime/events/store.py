"""Alarm transitions, events, machine states and score history in one SQLite file.

A transition is in the file exactly once, by machine and sequence number, together with the state of the
alarm machine that goes on from it. The file is sound after a kill or a power cut at any instant (WAL);
what `append` returned from is on the disk.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeasd.runtime.alarms.transition import Transition
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.events.connection import connect, explained, transaction
from edgeasd.runtime.events.history import RESOLUTIONS, add_scores, read_history
from edgeasd.runtime.events.pruning import Retention, prune_batches


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
