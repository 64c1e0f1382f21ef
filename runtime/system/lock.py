"""One service, or one command without a service, for a data folder at a time."""

from __future__ import annotations

import fcntl
import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeasd.runtime.errors import InputError


@contextmanager
def folder_lock(data: Path) -> Iterator[None]:
    """Hold the data folder, which is made where it is absent.

    Raises InputError where another process holds it, where this user may not write there, and for root in the folder
    of another user.
    """
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
        _refuse_root_as_a_guest(data)
        descriptor = os.open(data / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        place = error.filename or data
        raise InputError(f"{place}: {error.strerror}; give this user {data} with all in it, or name another") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{data}: another edgeasd uses this folder; stop it, or name another folder") from None
        yield
    finally:
        os.close(descriptor)


def _refuse_root_as_a_guest(data: Path) -> None:
    """Root may write anywhere; what it leaves behind, the service of the folder's owner could not open."""
    owner = data.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    way = f"sudo -u {shlex.quote(name)}"
    raise InputError(f"{data}: belongs to {name}, whom files of root would lock out; run this with `{way}`")
