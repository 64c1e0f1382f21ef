"""Logging of a service: one line per message on standard error, with the priorities of the journal."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from edgeasd.runtime.errors import escaped, redact

LEVELS = ("debug", "info", "warning", "error")
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Handler(logging.Handler):
    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if record.exc_info:
            text += f" ({record.exc_info[1]!r})"
        text = escaped(redact(text))
        prefix = f"<{_PRIORITIES.get(record.levelno, 5)}>" if self._journal else ""
        # A log on a full disk, or one that is closed, must not end the service.
        with suppress(OSError, ValueError):
            print(f"{prefix}edgeasd: {text}", file=sys.stderr, flush=True)


def start_logging(level: str) -> None:
    """Write the messages of edgeasd from `level` on to standard error."""
    logger = logging.getLogger("edgeasd")
    for handler in [one for one in logger.handlers if isinstance(one, _Handler)]:
        logger.removeHandler(handler)
    logger.addHandler(_Handler("JOURNAL_STREAM" in os.environ))
    logger.setLevel(level.upper())
    logger.propagate = False
