"""One state with hysteresis in value and in time."""

from __future__ import annotations


class Latch:
    """Begins after `on` windows in a row that ask for it, ends after `off` windows in a row that do.

    A window that asks for neither breaks both rows. Counts are at least 1.
    """

    def __init__(self, on: int, off: int) -> None:
        self._needed = (max(1, off), max(1, on))
        self.active = False
        self.since = 0
        """Sample at which the windows began that made the state what it is."""
        self._row = 0
        self._row_began = 0

    @property
    def pending(self) -> bool:
        """Whether the last window asked for it to begin, and it has not begun."""
        return self._row > 0 and not self.active

    def update(self, begin: bool, end: bool, position: int) -> bool:
        """Add the window that starts at sample `position`; True where the state changed."""
        asked = end if self.active else begin
        if not asked:
            self._row = 0
            return False
        if not self._row:
            self._row_began = position
        self._row += 1
        if self._row < self._needed[not self.active]:
            return False
        self.active = not self.active
        self.since, self._row = self._row_began, 0
        return True
