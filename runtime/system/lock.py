"""Locks between processes: one on an open file, and the one that a data folder has."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeasd.runtime.errors import InputError

_HELD = (errno.EAGAIN, errno.EACCES)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock of an open file or folder without waiting; False if another process holds it.

    The lock lasts until the descriptor is closed. True on a file system without locks, where none can be held.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD
    return True


def open_locked(path: Path, busy: str) -> int:
    """Open the lock file `path`, created if absent, and lock it; returns the descriptor that holds the lock.

    Raises InputError(busy) if another process holds it, OSError if the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if not try_lock(descriptor):
        os.close(descriptor)
        raise InputError(busy)
    return descriptor


@contextmanager
def folder_lock(data: Path) -> Iterator[None]:
    """Hold the data folder, created if absent: one service, or one command without a service, at a time.

    Raises InputError if another process holds it, if this user may not write there, and for root in the folder
    of another user.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
        _refuse_root_in_folder_of_another(data)
        descriptor = open_locked(
            data / "service.lock", f"{data}: another edgeasd uses this folder; stop it, or name another folder"
        )
    except OSError as error:
        place = error.filename or data
        raise InputError(f"{place}: {error.strerror}; give this user {data} with all in it, or name another") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _refuse_root_in_folder_of_another(data: Path) -> None:
    """Root may write anywhere, but the service of the folder's owner cannot open what root creates."""
    owner = data.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    command = f"sudo -u {shlex.quote(name)}"
    raise InputError(f"{data}: belongs to {name}, who could not open files of root; run this with `{command}`")
