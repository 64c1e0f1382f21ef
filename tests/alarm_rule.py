"""The rule of the manifest in twenty lines: what the alarm machine does with default settings."""

from __future__ import annotations

from edgeasd.runtime.scoring.threshold import Threshold


class AlarmRule:
    """Raises when `consecutive` complete clip scores in a row lie above the threshold.

    Clears as soon as one does not. Without a threshold (an uncalibrated bundle) it never raises.
    """

    def __init__(self, threshold: Threshold | None) -> None:
        self.threshold = threshold
        self.active = False
        self._run = 0

    def reset(self) -> None:
        """Forget the row, for instance after a gap in the sound; an active alarm is cleared."""
        self.active = False
        self._run = 0

    def update(self, clip_score: float, complete: bool) -> bool | None:
        """Add a clip score; True when the alarm begins, False when it ends, None when nothing changes."""
        if self.threshold is None or not complete:
            return None
        self._run = self._run + 1 if clip_score > self.threshold.clip else 0
        active = self._run >= self.threshold.consecutive
        if active == self.active:
            return None
        self.active = active
        return active
