"""Log lines for what fails again and again: one when it begins to fail, one when it works again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_SECONDS = 60.0
"""Between two errors: errors that take turns must not fill a log."""
_MOST_TEXTS = 16


class LogOnce:
    """Logs each error of one subject once until it works again. Used by one thread."""

    def __init__(self, logger: logging.Logger, subject: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`subject` begins every line; `clock` gives monotonic seconds."""
        self._logger, self._subject, self._clock = logger, subject, clock
        self._logged: deque[str] = deque(maxlen=_MOST_TEXTS)
        self._logged_at = float("-inf")

    def error(self, text: str, consequence: str = "") -> None:
        """Log `text` as a warning, unless it was logged since the last recovery.

        Within `PAUSE_SECONDS` of another error it is left out. It is logged later if it lasts.
        """
        now = self._clock()
        if text in self._logged or now - self._logged_at < PAUSE_SECONDS:
            return
        self._logged.append(text)
        self._logged_at = now
        self._logger.warning("%s: %s", self._subject, f"{text}; {consequence}" if consequence else text)

    @contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """For what is done beside the work, such as a status or a picture: whatever it raises is logged, and the work
        goes on. It may be a descriptor, memory or the disk that is not there just now.
        """
        try:
            yield
        except Exception as error:
            self.error(
                f"{what} failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})", "all else goes on"
            )

    def recovered(self, text: str = "") -> None:
        """Log `text` if an error was logged before. Without a text, only forget the errors."""
        if self._logged:
            self._logged.clear()
            if text:
                self._logger.info("%s: %s", self._subject, text)
