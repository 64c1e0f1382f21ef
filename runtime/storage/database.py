"""SQLite files that are damaged: how they are known, and how they are put aside whole, with nothing deleted."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeasd.runtime.errors import InputError

_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file; the file cannot be mended without it."""
_OF_THE_PLACE = (
    "unable to open",
    "readonly",
    "locked",
    "locking protocol",
    "busy",
    "full",
    "out of memory",
    "disk i/o error",
    "not authorized",
)
"""What SQLite says of disk, folder and permissions: a new file would not help."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether `error` says that the file itself holds nonsense. Python 3.10 has no error codes, so words decide."""
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.NotSupportedError)):
        return False
    said = str(error).lower()
    return not (isinstance(error, sqlite3.OperationalError) and any(word in said for word in _OF_THE_PLACE))


def is_unreadable(path: Path) -> bool:
    """Whether the disk itself cannot give the file back (EIO), as where a flash block has died."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.EIO
    try:
        while os.read(descriptor, 1 << 20):
            pass
    except OSError as error:
        return error.errno == errno.EIO
    finally:
        os.close(descriptor)
    return False


def put_aside(path: Path) -> Path:
    """Rename the file to PATH.damaged-DATE, in UTC, and what SQLite has beside it likewise; returns its new path.

    Nothing is ever deleted or written over. Raises InputError where the folder does not let it be renamed.
    """
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target, number = path.with_name(f"{path.name}.damaged-{date}"), 1
    while any(os.path.lexists(f"{target}{suffix}") for suffix in ("", *_BESIDE)):
        number += 1
        target = path.with_name(f"{path.name}.damaged-{date}-{number}")
    try:
        # The file itself last: a kill in between leaves it where it is found damaged again.
        for suffix in (*_BESIDE, ""):
            if os.path.lexists(f"{path}{suffix}"):
                os.rename(f"{path}{suffix}", f"{target}{suffix}")
    except OSError as error:
        raise InputError(f"{path}: is damaged and cannot be put aside ({error.strerror}); move it away") from None
    return target


def were_put_aside(path: Path) -> list[Path]:
    """Files that `put_aside` has made of `path`, the latest last."""
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(one for one in found if not one.name.endswith(_BESIDE))


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
