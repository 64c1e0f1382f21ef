"""A sum over the last windows."""

from __future__ import annotations

from collections import deque


class SlidingCount:
    """The sum of the last `length` whole numbers, without adding them all up again."""

    def __init__(self, length: int) -> None:
        self._last: deque[int] = deque([0] * length, maxlen=length)
        self.total = 0

    def add(self, count: int) -> None:
        """Add a number; the oldest leaves."""
        self.total += count - self._last[0]
        self._last.append(count)
