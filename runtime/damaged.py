"""SQLite files that are damaged: how they are known, and how they are put aside whole, with nothing deleted."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
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
