"""Two clocks: intervals by the monotonic one, which never jumps, and reports by the wall clock, which may.

Nothing that judges sound keeps a wall-clock time in order to subtract it later, so a step of the wall clock changes
what reports say from then on and nothing else. What is kept on the disk for days has only wall-clock times to be
judged by; `SettledClock` is for that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timezone

Clock = Callable[[], float]


def wall_time(monotonic: float, clock: Clock = time.monotonic, wall: Clock = time.time) -> float:
    """The moment `monotonic` (seconds of `clock`) in seconds since 1970, by what `wall` says now."""
    return wall() - (clock() - monotonic)


class SettledClock:
    """The wall clock for what deletes by age: a step ahead counts once it has lasted.

    A clock that was set to a wrong year would otherwise take all that is kept with it at the next look, and
    setting it right brings nothing back. A step back counts at once: it only keeps things longer.
    """

    STEP_SECONDS = 60.0
    """What is more between two looks is a step; less is the drift of a clock or of a look."""
    LASTING_SECONDS = 6 * 3600.0
    """A box without a clock of its own has the right time some seconds after its start, and may run for a shift only."""

    def __init__(self, wall: Clock = time.time, clock: Clock = time.monotonic, last: float | None = None) -> None:
        """`last` is a time of the wall clock that was stored before the start: more than that is a step ahead."""
        self._wall, self._clock = wall, clock
        self._offset = (wall() if last is None else min(last, wall())) - clock()
        self._new: tuple[float, float] | None = None
        """Offset after a step ahead, and since when (monotonic seconds)."""

    def __call__(self) -> float:
        """Seconds since 1970; to be asked at least every few hours."""
        at = self._clock()
        offset = self._wall() - at
        if offset <= self._offset + self.STEP_SECONDS:
            self._offset, self._new = offset, None
        elif self._new is None or abs(offset - self._new[0]) > self.STEP_SECONDS:
            self._new = (offset, at)
        elif at - self._new[1] >= self.LASTING_SECONDS:
            self._offset, self._new = offset, None
        return at + self._offset


def utc_text(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 with milliseconds: "2026-01-31T12:34:56.789Z"."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class Backoff:
    """Doubles from `first` to `longest` seconds, each time drawn between half and all of it.

    Drawn, so that a hundred devices do not come back to one broker in the same second.
    """

    def __init__(self, first: float, longest: float, draw: Callable[[], float] = random.random) -> None:
        self._first, self._longest, self._draw = first, longest, draw
        self._failures = 0

    def succeeded(self) -> None:
        """The next wait is the first again."""
        self._failures = 0

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        # Beyond 2 ** 40 nothing changes, and a year of failures would overflow a float.
        whole = min(self._longest, self._first * 2.0 ** min(self._failures, 40))
        self._failures += 1
        return whole * (0.5 + 0.5 * self._draw())
