"""One service, or one command without a service, for a data folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeasd.runtime.errors import InputError


@contextmanager
def folder_lock(data: Path) -> Iterator[None]:
    """Hold the data folder, which is made where it is absent. Raises InputError where another process holds it."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(data / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise InputError(f"{data}: {error.strerror}; give this user the folder, or name another") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{data}: another edgeasd uses this folder; stop it, or name another folder") from None
        yield
    finally:
        os.close(descriptor)
