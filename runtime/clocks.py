"""Two clocks: intervals by the monotonic one, which never jumps, and reports by the wall clock, which may.

Nothing keeps a wall-clock time in order to subtract it later, so a step of the wall clock changes what reports
say from then on and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone

Clock = Callable[[], float]


def wall_time(monotonic: float, clock: Clock = time.monotonic, wall: Clock = time.time) -> float:
    """The moment `monotonic` (seconds of `clock`) in seconds since 1970, by what `wall` says now."""
    return wall() - (clock() - monotonic)


def utc_text(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 with milliseconds: "2026-01-31T12:34:56.789Z"."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
