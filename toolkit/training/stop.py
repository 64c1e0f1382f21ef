"""Ctrl-C and SIGTERM as a request: training finishes its iteration, writes a checkpoint and stops."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether to stop. A second Ctrl-C raises KeyboardInterrupt at once."""
    asked = False

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        # Only Ctrl-C counts twice: a parent that stops its processes adds SIGTERM to the terminal's SIGINT.
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
