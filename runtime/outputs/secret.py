"""Passwords and keys, by reference only: a file or an environment variable that the settings name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgeasd.runtime.errors import InputError

LARGEST = 4096


def read_secret(file: str | None, variable: str | None, what: str) -> bytes | None:
    """The secret in `file` or in the environment variable `variable`, without line ends behind it; None where neither is set.

    `what` names it in errors, which never hold any of it. Raises InputError where it is absent, empty, longer
    than `LARGEST` bytes, or in a file that every user may read.
    """
    if file is not None:
        return _checked(_content(Path(file), what), f"{what}: {file}")
    if variable is not None:
        text = os.environ.get(variable)
        if text is None:
            raise InputError(f"{what}: no environment variable {variable}; set it for this service")
        return _checked(os.fsencode(text), f"{what}: environment variable {variable}")
    return None


def _content(path: Path, what: str) -> bytes:
    try:
        # A pipe in its place must not hold up the service.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{what}: {path} is no plain file; name a file that holds nothing but the secret")
            if mode & stat.S_IROTH:
                # Owner and group stay: a file of root that the group of the service may read is as it should be.
                raise InputError(f"{what}: every user may read {path}; chmod o= {path}")
            return handle.read(LARGEST + 2)
    except OSError as error:
        raise InputError(f"{what}: {path}: {error.strerror}; make it, readable for this service only") from None


def _checked(value: bytes, place: str) -> bytes:
    value = value.rstrip(b"\r\n")
    if not value:
        raise InputError(f"{place} is empty; put the secret there")
    if len(value) > LARGEST:
        raise InputError(f"{place} holds more than {LARGEST} bytes; it is no password or key")
    return value
