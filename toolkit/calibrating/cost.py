"""What a piece of work took: seconds, and the peak of resident memory while it ran."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """Filled when the block of `measured` ends."""

    seconds: float = 0.0
    peak_bytes: int = 0
    """Of the whole process, what it held before included."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Yield the cost of a block. Where the system cannot begin a new peak, it is that since the process started."""
    cost, started = Cost(), time.monotonic()
    # 5: forget the high-water mark (Linux, proc_pid_clear_refs(5)).
    with suppress(OSError):
        _CLEAR.write_text("5")
    try:
        yield cost
    finally:
        cost.seconds, cost.peak_bytes = time.monotonic() - started, _peak()


def _peak() -> int:
    with suppress(OSError, ValueError, StopIteration):
        line = next(one for one in _STATUS.read_text().splitlines() if one.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
