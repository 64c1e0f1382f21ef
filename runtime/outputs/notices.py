"""What people are told of an output: why it does not deliver, once, and that it delivers again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

PAUSE_SECONDS = 60.0
"""Between two troubles that are told: errors that take turns must not fill a log."""
_MOST_TEXTS = 16


def tell_no_one(line: str) -> None:
    """A log that nobody reads."""
    del line


class Notices:
    """One thing that may fail, and what was told of it. Used by one thread."""

    def __init__(self, who: str, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`who` begins every line; `log` takes one line for people; `clock` gives monotonic seconds."""
        self._who, self._log, self._clock = who, log, clock
        self._told: deque[str] = deque(maxlen=_MOST_TEXTS)
        self._told_at = float("-inf")

    def failed(self, text: str, follows: str = "") -> None:
        """Tell `text` where it was not told since all was well, and what `follows` from it.

        Within `PAUSE_SECONDS` of another it is left out, and told if it lasts: what fails is tried again.
        """
        now = self._clock()
        if text in self._told or now - self._told_at < PAUSE_SECONDS:
            return
        self._told.append(text)
        self._told_at = now
        self._say(f"{text}; {follows}" if follows else text)

    def well(self, text: str) -> None:
        """Tell `text` where a trouble was told before; an empty one only forgets that."""
        if self._told:
            self._told.clear()
            if text:
                self._say(text)

    def _say(self, text: str) -> None:
        with suppress(Exception):  # a log that cannot be written must not hold messages up
            self._log(f"{self._who}: {text}")
