"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubles from `first` to `longest` seconds; each wait is drawn between half of that and all of it.

    Drawn, so that a hundred devices do not come back to one broker in the same second.
    """

    def __init__(self, first: float, longest: float, draw: Callable[[], float] = random.random) -> None:
        self._first, self._longest, self._draw = first, longest, draw
        self._failures = 0

    def succeeded(self) -> None:
        """Begin again with the first wait."""
        self._failures = 0

    def failed(self) -> float:
        """Seconds to wait after one more failure."""
        # Beyond 2 ** 40 nothing changes, and a year of failures would overflow a float.
        whole = min(self._longest, self._first * 2.0 ** min(self._failures, 40))
        self._failures += 1
        return whole * (0.5 + 0.5 * self._draw())
