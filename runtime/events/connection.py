"""An open SQLite file: settings, transactions, and errors as one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeasd.runtime.damaged import is_damage
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.events.schema import DamagedStore, check, migrate

BUSY_SECONDS = 5.0
MOVE_AWAY = "move it away, and a new one is made"
_LARGEST_LOG = 4 << 20
"""Bytes that the write-ahead log keeps when all of it is in the file."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into one line that names the file."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # Messages may quote what a damaged file holds.
        said = "".join(c if c.isprintable() else " " for c in str(error))[:160]
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            raise InputError(f"{path}: {said}; check the folder, its permissions and the space on the disk") from None
        raise DamagedStore(f"{path}: cannot be used as an event store ({said}); {MOVE_AWAY}") from None


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open or make the file. Raises DamagedStore for one that is damaged, InputError for a foreign or newer one."""
    if read_only and not path.is_file():
        raise InputError(f"{path}: no such file; name the database of a running service")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: not a place for a file; name a file in a folder that exists")
    with explained(path):
        mode = "ro" if read_only else "rwc"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS)
        try:
            _prepare(connection, path, read_only)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, read_only: bool) -> None:
    # Transactions are begun and ended below, never by the module behind our back.
    connection.isolation_level = None
    connection.execute("PRAGMA trusted_schema = OFF")
    # Before anything is written: a file that is not ours stays as it is.
    version = check(connection, path)
    if read_only:
        if version == 0:
            raise InputError(f"{path}: holds nothing yet; let the service write to it first")
        return
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise InputError(f"{path}: this file system has no write-ahead log; use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    # A tool that reads for hours makes the write-ahead log grow; it need not keep that size for ever.
    connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
    migrate(connection, path)
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"damaged: {' '.join(str(found).split())}")


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path, *, durable: bool = True) -> Iterator[None]:
    """All or nothing. `durable`: on the disk when the block ends, also after a power cut."""
    with explained(path):
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # After a full disk SQLite may have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
