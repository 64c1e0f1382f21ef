"""The file behind a queue: locked for one process, made, checked, and put aside where it is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import KINDS, is_queue_name, new_queue_name
from edgeasd.runtime.storage.database import is_damage, is_unreadable, put_aside

VERSION = 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE messages (
  position INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, machine TEXT NOT NULL, id TEXT NOT NULL,
  sequence INTEGER NOT NULL, born REAL NOT NULL, size INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX by_kind ON messages (kind, position);
CREATE TABLE streams (
  machine TEXT NOT NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL, event_sequence INTEGER,
  PRIMARY KEY (machine, id)) WITHOUT ROWID;
CREATE TABLE dropped (kind TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""
_KINDS = ", ".join(f"'{kind}'" for kind in KINDS)
_NONSENSE = (
    "SELECT count(*) FROM messages WHERE typeof(kind) <> 'text' OR typeof(machine) <> 'text' OR typeof(id) <> 'text' "
    f"OR typeof(sequence) <> 'integer' OR typeof(born) <> 'real' OR typeof(size) <> 'integer' OR kind NOT IN ({_KINDS})",
    "SELECT count(*) FROM streams WHERE typeof(machine) <> 'text' OR typeof(id) <> 'text' "
    "OR typeof(sequence) <> 'integer' OR typeof(event_sequence) NOT IN ('integer', 'null')",
    f"SELECT count(*) FROM dropped WHERE typeof(count) <> 'integer' OR kind NOT IN ({_KINDS})",
)
"""SQLite looks after its pages; what they say may have been damaged all the same."""
_LISTED = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


def lock_queue(path: Path) -> int:
    """Take the queue at `path` for this process; a file descriptor that holds it until it is closed.

    Raises InputError where another has it, or its folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        guard = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a folder that this user may write to") from None
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(guard)
        raise InputError(f"{path}: another edgeasd delivers from it; stop it or use another data folder") from None
    return guard


def open_queue(path: Path, *, damaged: bool = False) -> tuple[sqlite3.Connection, Path | None]:
    """The database at `path`, made where there is none, and where a damaged one was put aside.

    `damaged` says that the one at `path` is known to be.

    Raises InputError for one that a newer edgeasd made, and where it cannot be opened or written.
    """
    try:
        if not damaged:
            return _open(path), None
    except sqlite3.Error as error:
        if not is_damage(error) and not is_unreadable(
            path
        ):  # permissions, a full disk: nothing that a new file would mend
            raise InputError(f"{path}: {error}; make room or correct its permissions") from None
    aside = put_aside(path)
    try:
        return _open(path), aside
    except sqlite3.Error as error:
        raise InputError(f"{path}: {error}; make room or correct its permissions") from None


def _open(path: Path) -> sqlite3.Connection:
    # Used by two threads, which the queue keeps apart.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA journal_size_limit = 4194304")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0 and not database.execute(_LISTED).fetchall():
            first = f"INSERT INTO meta VALUES ('queue', '{new_queue_name()}'), ('clock', 0.0);"
            database.executescript(f"BEGIN; {_SCHEMA} {first} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version not in (0, VERSION):
            raise InputError(
                f"{path}: queue of version {version}, this edgeasd reads {VERSION}; use the edgeasd that wrote it, "
                "or move the file away and lose what it holds"
            )
        if not _sound(database):
            raise sqlite3.DatabaseError("damaged")
    except BaseException:
        database.close()
        raise
    return database


def _sound(database: sqlite3.Connection) -> bool:
    """Whether SQLite finds no damage, and the tables are those of `_SCHEMA`."""
    if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
        return False
    expected = sqlite3.connect(":memory:")
    expected.executescript(_SCHEMA)
    same: bool = database.execute(_LISTED).fetchall() == expected.execute(_LISTED).fetchall()
    expected.close()
    if not same or any(database.execute(query).fetchone() != (0,) for query in _NONSENSE):
        return False
    meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
    return isinstance(meta.get("clock"), float) and is_queue_name(meta.get("queue"))
