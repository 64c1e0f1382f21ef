"""One process at a time for a job's folder, whichever command or node it belongs to.

Two processes that train one model in one folder would delete each other's checkpoints.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeasd.runtime.errors import InputError

WAIT_SECONDS = 60.0
"""A worker whose command was killed notices within a step, and a step of ResNet38 on a CPU takes half a minute."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def claimed(
    folder: Path, wait_seconds: float = WAIT_SECONDS, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold `folder` while the block runs; the system lets go of it when the process dies, however that happens.

    `waiting` is called again and again while it waits, and may raise. A file system without locks is taken at its word: there nothing is held. Raises InputError where another
    process still works there after `wait_seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as handle:
        deadline = time.monotonic() + wait_seconds
        while not _locked(handle.fileno()):
            if time.monotonic() >= deadline:
                raise InputError(
                    f"{folder}: another process works on this model; wait until it has ended and give the command "
                    "again, or use another --workspace"
                )
            waiting()
            time.sleep(0.2)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
