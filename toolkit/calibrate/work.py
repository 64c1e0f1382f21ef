"""Progress, interruption and cost of a calibration."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgeasd.toolkit.progress import ProgressCallback, progress

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Work:
    """`print_line` shows one line to the user; `check` raises if the user has asked to stop."""

    print_line: Callable[[str], None]
    check: Callable[[], None] = lambda: None

    def step(self, text: str) -> None:
        """Show the next step, unless the user has asked to stop."""
        self.check()
        self.print_line(text)

    @contextmanager
    def part(self, label: str) -> Iterator[ProgressCallback]:
        """Progress of one piece of work; each report checks for a request to stop."""
        self.check()
        with progress(label) as report:

            def checked(done: int, total: int, text: str = "") -> None:
                self.check()
                report(done, total, text)

            yield checked

    def beat(self, done: int, total: int, text: str = "") -> None:  # noqa: ARG002
        """A progress callback that shows nothing and checks for a request to stop."""
        self.check()


@dataclass
class Cost:
    """Filled when the block of `measured` ends."""

    seconds: float = 0.0
    peak_bytes: int = 0
    """Of the whole process, what was allocated before the block included."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Yield the cost of a block. If the system cannot reset the peak, it is that since the process started."""
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
