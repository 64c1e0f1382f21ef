"""What is too old leaves the event store: machine by machine along its keys, in transactions of a bounded size."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeasd.runtime.events.connection import explained, transaction

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
