"""Clocks: intervals are measured by the monotonic clock, reports are stamped by the wall clock.

A step of the wall clock changes the times in reports and nothing else. Only deletion by age has to compare wall-clock
times; `SettledClock` is for that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timezone

Clock = Callable[[], float]


def wall_time(monotonic: float, clock: Clock = time.monotonic, wall: Clock = time.time) -> float:
    """The moment `monotonic` (seconds of `clock`) in seconds since 1970, by the present reading of `wall`."""
    return wall() - (clock() - monotonic)


class SettledClock:
    """The wall clock for deletion by age: a step ahead counts after it has lasted.

    Otherwise a clock set to a wrong year would delete everything. A step back counts at once: it only keeps more.
    """

    STEP_SECONDS = 60.0
    """A larger change between two readings is a step; a smaller one is drift."""
    LASTING_SECONDS = 6 * 3600.0
    """A device without a clock of its own has the right time seconds after its start, and may run for one shift only."""

    def __init__(self, wall: Clock = time.time, clock: Clock = time.monotonic, last: float | None = None) -> None:
        """`last` is a time of the wall clock that was stored before the start: more than that is a step ahead."""
        self._wall, self._clock = wall, clock
        self._offset = (wall() if last is None else min(last, wall())) - clock()
        self._new: tuple[float, float] | None = None
        """Offset after a step ahead, and since when (monotonic seconds)."""

    def __call__(self) -> float:
        """Seconds since 1970. Must be called at least every few hours."""
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


def local_text(seconds: float) -> str:
    """Seconds since 1970 as local time with its offset from UTC: "2026-01-31 13:34:56 +0100"."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S %z}"


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
