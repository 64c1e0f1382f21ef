"""The tables of the event store, and how an older file becomes a newer one.

Times are whole milliseconds since 1970. `PRAGMA user_version` counts the migrations that were made.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from edgeasd.runtime.errors import InputError

APPLICATION_ID = 0x45415344
"""EASD: says that a SQLite file is one of ours."""

_HISTORY = (
    "CREATE TABLE {name} (machine INTEGER NOT NULL, at INTEGER NOT NULL, count INTEGER NOT NULL, total REAL NOT NULL, "
    "low REAL NOT NULL, high REAL NOT NULL, PRIMARY KEY (machine, at)) WITHOUT ROWID"
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE machines (key INTEGER PRIMARY KEY, machine TEXT NOT NULL, id TEXT NOT NULL, UNIQUE (machine, id))",
        # The whole message is kept as it was said; the columns beside it are for finding it.
        "CREATE TABLE transitions (machine INTEGER NOT NULL, sequence INTEGER NOT NULL, event TEXT, "
        "at INTEGER NOT NULL, message TEXT NOT NULL, PRIMARY KEY (machine, sequence)) WITHOUT ROWID",
        "CREATE INDEX transitions_of_event ON transitions (event) WHERE event IS NOT NULL",
        "CREATE TABLE events (event TEXT PRIMARY KEY, machine INTEGER NOT NULL, raised_at INTEGER NOT NULL, "
        "acknowledged_at INTEGER, cleared_at INTEGER, cleared_by TEXT, peak REAL, threshold REAL, "
        "test INTEGER NOT NULL, first_sequence INTEGER NOT NULL, last_sequence INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE TABLE states (machine INTEGER PRIMARY KEY, snapshot TEXT NOT NULL)",
        "CREATE TABLE scores (machine INTEGER NOT NULL, at INTEGER NOT NULL, score REAL NOT NULL, "
        "PRIMARY KEY (machine, at)) WITHOUT ROWID",
        _HISTORY.format(name="score_minutes"),
        _HISTORY.format(name="score_hours"),
    ),
)
VERSION = len(MIGRATIONS)


class DamagedStore(InputError):
    """A file that is ours and holds nonsense: it can be put aside, and a new one begun."""


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    return set(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"))


def _expected(version: int) -> set[tuple[str, str, str | None]]:
    memory = sqlite3.connect(":memory:")
    try:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                memory.execute(statement)
        return _objects(memory)
    finally:
        memory.close()


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The version of an open file, 0 for an empty one. Raises InputError for one that is not ours, or too new,
    and DamagedStore for one of ours whose tables are not.

    The tables must be exactly those that our migrations make: a foreign file may hold triggers that run when
    we write, and views in the place of tables.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    objects = _objects(connection)
    remedy = "name another file, or move this one away"
    if not objects and version == 0 and application in (0, APPLICATION_ID):
        return 0
    if (application != APPLICATION_ID or version < 1) and objects == _expected(VERSION):
        raise DamagedStore(f"{path}: an event store that does not say so, so it is damaged; {remedy}")
    if application != APPLICATION_ID or version < 1:
        raise InputError(f"{path}: a SQLite file of another program; {remedy}")
    if version > VERSION:
        raise InputError(f"{path}: version {version}, this edgeasd knows {VERSION}; use a newer edgeasd, or {remedy}")
    if objects != _expected(version):
        raise DamagedStore(f"{path}: its tables are not those of an event store of version {version}; {remedy}")
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the present version, whole or not at all; raises InputError as `check`."""
    if check(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked up again under the lock: another process may have been faster.
        for number in range(check(connection, path), VERSION):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
