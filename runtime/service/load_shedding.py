"""Leaves out segments when scoring cannot keep up: evenly, and reported.

A stream that falls behind would raise its alarms later and later, and lose sound once its queue is full. So only
every second, fourth, … segment of the live streams of an engine is scored until the engine keeps up. A clip score
stays the mean of ten segments, which then lie further apart.
"""

from __future__ import annotations

LATE_SECONDS = 1.0
"""More waiting sound than this: more segments are left out."""
EASY_SECONDS = 0.25
"""Less waiting sound than this: fewer may be left out."""
SETTLE_SECONDS = 1.0
"""Time over which growth of the waiting sound is judged; twice as long lies between two steps up."""
CALM_SECONDS = 10.0
"""Without a step, before a step down."""
SPARE = 0.8
"""A step down doubles the work; it is made only if this share of the time is enough for it."""
MOST = 64
"""At least one of so many segments is scored: one in some twelve seconds."""
CATCH_UP = 0.25
"""Seconds of sound per second by which the sound that waited at the start must shrink."""


class LoadShedder:
    """Decides which share of the segments of an engine is scored. Times are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.decimation = 1
        """Only every so many-th segment is scored."""
        self._changed_at = now
        self._window_began = now
        self._busy = 0.0
        self._share = 0.0
        self._behind_before = 0.0
        self._growing = True
        self._excused_at, self._at_start, self._excused = now, 0.0, 0.0

    def excuse(self, behind: float, now: float) -> None:
        """Do not count `behind` seconds of sound that came while a bundle was loaded, if they are worked off."""
        self._excused_at, self._at_start = now, behind
        self._excused = behind

    def update(self, behind: float, busy: float, now: float) -> bool:
        """Take in `behind`, seconds of sound that wait, and `busy`, seconds of work since the last call.

        True if `decimation` changed.
        """
        allowed = self._at_start - CATCH_UP * (now - self._excused_at)
        self._excused = max(0.0, min(self._excused, behind, allowed))
        behind -= self._excused
        self._busy += busy
        if now - self._window_began >= SETTLE_SECONDS:
            self._share = self._busy / (now - self._window_began)
            self._window_began, self._busy = now, 0.0
            self._growing, self._behind_before = behind >= self._behind_before, behind
        since = now - self._changed_at
        if self._is_late(behind, since):
            self.decimation *= 2
        elif self._is_calm(behind, since):
            self.decimation //= 2
        else:
            return False
        self._changed_at = now
        return True

    def _is_late(self, behind: float, since: float) -> bool:
        # A backlog that shrinks needs time, not another step.
        settled = self.decimation == 1 or (since >= 2 * SETTLE_SECONDS and self._growing)
        return behind > LATE_SECONDS and self.decimation < MOST and settled

    def _is_calm(self, behind: float, since: float) -> bool:
        waited = behind < EASY_SECONDS and since >= CALM_SECONDS
        return self.decimation > 1 and waited and 2 * self._share < SPARE
