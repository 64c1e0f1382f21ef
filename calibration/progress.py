"""The callback by which long work reports its progress."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """Called with (done, total) and, if there is something to add, a short text."""

    def __call__(self, done: int, total: int, text: str = "") -> None: ...


def no_progress(done: int, total: int, text: str = "") -> None:
    """Ignores the progress."""
