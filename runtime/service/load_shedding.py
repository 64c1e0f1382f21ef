"""What is left out when scoring cannot keep up: segments, evenly, and never without saying so.

A stream that is behind would give its alarms later and later, and lose sound when its ring is full. So of the
segments of every live stream on an engine only each second, fourth, … is scored until the engine keeps up.
A clip score stays the mean of ten segments; they lie further apart.
"""

from __future__ import annotations

LATE_SECONDS = 1.0
"""Sound that waits, beyond which more is left out."""
EASY_SECONDS = 0.25
"""Sound that waits, below which less may be left out."""
SETTLE_SECONDS = 1.0
"""Over which it is seen whether the waiting sound grows; twice as long lies between two steps up."""
CALM_SECONDS = 10.0
"""Without a step, before a step down."""
SPARE = 0.8
"""A step down doubles the work; it is made only where this share of the time will do for it."""
MOST = 64
"""Never fewer than one of so many segments: some twelve seconds."""


class Overload:
    """Decides which share of the segments of an engine is scored."""

    def __init__(self, now: float) -> None:
        self.keep_every = 1
        self._changed_at = now
        self._window_began = now
        self._busy = 0.0
        self._share = 0.0
        self._behind_before = 0.0
        self._growing = True

    def update(self, behind: float, busy: float, now: float) -> bool:
        """Take in `behind`, seconds of sound that wait, and `busy`, seconds of work since the last call.

        True where `keep_every` changed.
        """
        self._busy += busy
        if now - self._window_began >= SETTLE_SECONDS:
            self._share = self._busy / (now - self._window_began)
            self._window_began, self._busy = now, 0.0
            self._growing, self._behind_before = behind >= self._behind_before, behind
        since = now - self._changed_at
        if self._late(behind, since):
            self.keep_every *= 2
        elif self._calm(behind, since):
            self.keep_every //= 2
        else:
            return False
        self._changed_at = now
        return True

    def _late(self, behind: float, since: float) -> bool:
        # What is being worked off needs no further step, only time.
        settled = self.keep_every == 1 or (since >= 2 * SETTLE_SECONDS and self._growing)
        return behind > LATE_SECONDS and self.keep_every < MOST and settled

    def _calm(self, behind: float, since: float) -> bool:
        return self.keep_every > 1 and behind < EASY_SECONDS and since >= CALM_SECONDS and 2 * self._share < SPARE
