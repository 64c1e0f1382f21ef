"""The SQLite file of a data folder: opened, migrated, quarantined when corrupt, and written in transactions.

A disk that is full, read-only or slow raises DatabaseUnavailable: try again later. A corrupt file raises
DatabaseCorrupt and stays corrupt: end the process. `Database` quarantines such a file when it is opened next time.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeasd.runtime.errors import InputError

BUSY_SECONDS = 5.0
"""How long SQLite waits for a lock of another process."""
_SLOW_SECONDS = 1.0
_RETRY_SECONDS, _RETRY_SLOW_SECONDS = 1.0, 5.0
"""Pause after a write that failed at once, and after one that took longer than `_SLOW_SECONDS` to fail."""
_LARGEST_LOG = 4 << 20
"""Bytes that the write-ahead log keeps once all of it is in the file."""
_BALLAST_BYTES = 512 << 10
"""Size of a file that is given up if a full disk leaves no room to open the database."""
_SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file; the file cannot be repaired without it."""
_NOT_CORRUPT = (
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
"""SQLite's words for problems of disk, folder and permissions: a new file would not help."""

APPLICATION_ID = 0x45415344
"""EASD in ASCII marks a SQLite file as one of ours."""
_HISTORY = (
    "CREATE TABLE {name} (machine INTEGER NOT NULL, at INTEGER NOT NULL, count INTEGER NOT NULL, total REAL NOT NULL, "
    "low REAL NOT NULL, high REAL NOT NULL, PRIMARY KEY (machine, at)) WITHOUT ROWID"
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE machines (key INTEGER PRIMARY KEY, machine TEXT NOT NULL, id TEXT NOT NULL, UNIQUE (machine, id))",
        # The message holds every field of the transition; the columns beside it are for queries.
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
    (
        # The boot under which a snapshot was taken: its times are of the monotonic clock of that boot.
        "ALTER TABLE states ADD COLUMN boot TEXT",
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
        "CREATE TABLE outbox (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, machine TEXT, id TEXT, "
        "created REAL NOT NULL, payload TEXT NOT NULL)",
        "CREATE TABLE cursors (output TEXT PRIMARY KEY, seq INTEGER NOT NULL, dropped TEXT NOT NULL) WITHOUT ROWID",
    ),
    (
        # The operating state of a score that was not judged, as of a machine that is off.
        "ALTER TABLE scores ADD COLUMN state TEXT",
        "CREATE TABLE state_hours (machine INTEGER NOT NULL, at INTEGER NOT NULL, state TEXT NOT NULL, "
        "seconds REAL NOT NULL, PRIMARY KEY (machine, at, state)) WITHOUT ROWID",
    ),
    (
        _HISTORY.format(name="level_minutes"),
        _HISTORY.format(name="level_hours"),
        # Of sound that was judged, healthy and without an event: what the watch over the normal goes by.
        "CREATE TABLE normal_hours (machine INTEGER NOT NULL, at INTEGER NOT NULL, mode TEXT NOT NULL, "
        "seconds REAL NOT NULL, count INTEGER NOT NULL, total REAL NOT NULL, squares REAL NOT NULL, "
        "levels INTEGER NOT NULL, level_total REAL NOT NULL, PRIMARY KEY (machine, at, mode)) WITHOUT ROWID",
        "CREATE TABLE changes (machine INTEGER NOT NULL, mode TEXT NOT NULL, quantity TEXT NOT NULL, "
        "began INTEGER NOT NULL, shape TEXT NOT NULL, found INTEGER NOT NULL, before REAL NOT NULL, "
        "after REAL NOT NULL, ended INTEGER, PRIMARY KEY (machine, mode, quantity, began)) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE events ADD COLUMN lasted REAL",
        # When an event was stored, by the monotonic clock of that boot: its age does not go by a wall clock that was set.
        "ALTER TABLE events ADD COLUMN stored_clock REAL",
        "ALTER TABLE events ADD COLUMN stored_boot TEXT",
    ),
)
VERSION = len(MIGRATIONS)


class DatabaseUnavailable(InputError):
    """The disk refuses for now: full, read-only, locked, or without permission."""


class DatabaseCorrupt(InputError):
    """The file holds nonsense. The process ends; the next one quarantines the file."""

    exit_code = 3


class Database:
    """One open file; `None` in place of a path keeps everything in memory. Used by any thread.

    Writing and reading use two connections: a reader never waits for a slow write.
    """

    def __init__(
        self, path: Path | None, *, read_only: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open `path`, create it if it is absent (not with `read_only`), and migrate an older one.

        Raises InputError for a file of another program or of a newer edgeasd, DatabaseUnavailable if the folder or
        the disk refuses. A corrupt file is quarantined and a new one created; with `read_only` it is an InputError.
        """
        self.path = None if path is None else Path(path)
        self.name = str(path or "memory")
        self.quarantined: str | None = None
        """One line if a corrupt file was quarantined by this opening."""
        self.problem: str | None = None
        """Why the last write failed; None while writing works."""
        self.corrupt: DatabaseCorrupt | None = None
        """The first corruption that was found while running."""
        self._read_only, self._clock, self._retry_at = read_only, clock, float("-inf")
        self._write_lock, self._read_lock = threading.RLock(), threading.RLock()
        if self.path is None:
            self._writer = self._reader = _in_memory()
            self._read_lock = self._write_lock
            return
        self._mark = self.path.with_name(f"{self.path.name}.is-corrupt")
        try:
            if not read_only and self._mark.exists():
                raise DatabaseCorrupt(f"{self.path}: was found corrupt while it was in use")
            self._writer = self._connect_with_ballast(read_only)
        except InputError as error:
            if read_only:
                raise InputError(str(error)) from None
            if not (isinstance(error, DatabaseCorrupt) or is_unreadable(self.path)):
                raise
            what = str(error).partition(";")[0]
            kept = quarantine(self.path)
            self._mark.unlink(missing_ok=True)
            self._writer = _connect(self.path, read_only)
            self.quarantined = f"{what}; kept as {kept.name}, and a new database was begun without earlier events"
        self._reader = self._writer if read_only else _connect(self.path, read_only=True)

    def _connect_with_ballast(self, read_only: bool) -> sqlite3.Connection:
        """As `_connect`. On a full disk the ballast makes room for the write-ahead log."""
        assert self.path is not None
        ballast = self.path.with_name(f"{self.path.name}.ballast")
        try:
            connection = _connect(self.path, read_only)
        except DatabaseUnavailable:
            if read_only or not ballast.exists():
                raise
            with suppress(OSError):
                ballast.unlink()
            return _connect(self.path, read_only)
        if not read_only and not ballast.exists():
            try:
                ballast.write_bytes(bytes(_BALLAST_BYTES))
            except OSError:
                ballast.unlink(missing_ok=True)
        return connection

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        with self._read_lock:
            self._reader.close()
        with self._write_lock, suppress(sqlite3.Error):
            self._writer.close()

    @property
    def lost_history(self) -> bool:
        """Whether a corrupt file was ever quarantined here: then numbers were given that this one does not know."""
        return self.path is not None and bool(quarantined_files(self.path))

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing. `durable`: on the disk when the block ends, even after a power cut; else after a kill only.

        Nested blocks belong to the outer one. Raises DatabaseUnavailable, at once while the pause after a failed
        write lasts, and DatabaseCorrupt.
        """
        with self._write_lock:
            if self._writer.in_transaction:
                yield self._writer
                return
            began = self._clock()
            if began < self._retry_at:
                raise DatabaseUnavailable(self.problem or f"{self.name}: cannot be written now; try again")
            try:
                with self.checked(), _transaction(self._writer, durable):
                    yield self._writer
            except DatabaseUnavailable as error:
                now = self._clock()
                self.problem = str(error)
                self._retry_at = now + (_RETRY_SLOW_SECONDS if now - began > _SLOW_SECONDS else _RETRY_SECONDS)
                raise
            self.problem = None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; ask in the thread that opens them."""
        return self._writer.in_transaction

    def read(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Any]:
        """All rows of a query. Raises DatabaseUnavailable or DatabaseCorrupt."""
        with self._read_lock, self.checked():
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Turn a sqlite3.Error raised inside into DatabaseUnavailable or DatabaseCorrupt."""
        try:
            with _explained(self.name):
                yield
        except DatabaseCorrupt as error:
            if self._read_only:
                raise InputError(str(error)) from None
            if self.corrupt is None and self.path is not None:
                # Not all corruption shows when a file is opened: the next opening trusts this mark.
                with suppress(OSError):
                    self._mark.touch()
            self.corrupt = self.corrupt or error
            raise


@contextmanager
def _transaction(connection: sqlite3.Connection, durable: bool) -> Iterator[None]:
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back already, for instance on a full disk.
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn an error of SQLite into one line that names the file."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # The text may quote what a corrupt file holds.
        text = "".join(c if c.isprintable() else " " for c in str(error))[:160]
        if isinstance(error, sqlite3.Error) and not is_corrupt(error):
            raise DatabaseUnavailable(
                f"{name}: {text}; check the folder, its permissions and the space on the disk"
            ) from None
        raise DatabaseCorrupt(
            f"{name}: corrupt ({text}); restart the service, which moves it aside and begins a new one"
        ) from None


def _in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    for statements in MIGRATIONS:
        for statement in statements:
            connection.execute(statement)
    return connection


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    if read_only and not path.is_file():
        raise InputError(f"{path}: no such file; name the database of a running service")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path}: not a place for a file; name a file in a folder that exists")
    with _explained(str(path)):
        uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            _prepare(connection, path, read_only)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, read_only: bool) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    # Checked before anything is written: a file that is not ours stays as it is.
    version = _check(connection, path)
    if read_only:
        if version == 0:
            raise InputError(f"{path}: holds nothing yet; let the service write to it first")
        return
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise InputError(f"{path}: this file system has no write-ahead log; use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
    _migrate(connection, path)
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise sqlite3.DatabaseError(f"damaged: {' '.join(str(result).split())}")


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


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of an open file, 0 if it is empty.

    Raises InputError for a foreign or newer one, DatabaseCorrupt for one of ours with other tables. The tables must
    be exactly those of our migrations: a foreign file may hold triggers, and views in place of tables.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    objects = _objects(connection)
    remedy = "name another file, or move this one away"
    if not objects and version == 0 and application in (0, APPLICATION_ID):
        return 0
    if application != APPLICATION_ID or version < 1:
        if any(objects == _expected(known) for known in range(1, VERSION + 1)):
            raise DatabaseCorrupt(f"{path}: an event database whose header is damaged; {remedy}")
        raise InputError(f"{path}: a SQLite file of another program; {remedy}")
    if version > VERSION:
        raise InputError(f"{path}: version {version}, this edgeasd knows {VERSION}; use a newer edgeasd, or {remedy}")
    if objects != _expected(version):
        raise DatabaseCorrupt(f"{path}: its tables are not those of an event database of version {version}; {remedy}")
    return int(version)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _check(connection, path) == VERSION:
        return
    with _transaction(connection, durable=True):
        # Read again under the lock: another process may have been faster.
        for number in range(_check(connection, path), VERSION):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether `error` says that the file holds nonsense. Python 3.10 has no error codes, so the text decides."""
    if isinstance(error, (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.NotSupportedError)):
        return False
    text = str(error).lower()
    return not (isinstance(error, sqlite3.OperationalError) and any(word in text for word in _NOT_CORRUPT))


def is_unreadable(path: Path) -> bool:
    """Whether the disk cannot read the file back (EIO), as when a flash block has died."""
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


def quarantine(path: Path) -> Path:
    """Rename the file, and SQLite's files beside it, to PATH.corrupt-DATE in UTC; returns the new path.

    Nothing is deleted or overwritten. Raises InputError if the folder does not allow it.
    """
    date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target, number = path.with_name(f"{path.name}.corrupt-{date}"), 1
    while any(os.path.lexists(f"{target}{suffix}") for suffix in ("", *_SIDE_FILES)):
        number += 1
        target = path.with_name(f"{path.name}.corrupt-{date}-{number}")
    try:
        # The file itself last: after a kill in between it is found corrupt again.
        for suffix in (*_SIDE_FILES, ""):
            if os.path.lexists(f"{path}{suffix}"):
                os.rename(f"{path}{suffix}", f"{target}{suffix}")
    except OSError as error:
        raise InputError(f"{path}: is corrupt and cannot be renamed ({error.strerror}); move it away") from None
    return target


def quarantined_files(path: Path) -> list[Path]:
    """Files that `quarantine` has made of `path`, the latest last; earlier versions named them `.damaged-DATE`."""
    found = [*path.parent.glob(f"{path.name}.damaged-*"), *path.parent.glob(f"{path.name}.corrupt-*")]
    return sorted((one for one in found if not one.name.endswith(_SIDE_FILES)), key=lambda one: one.name[-20:])
