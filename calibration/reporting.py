"""How long work in this folder tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[int, int], None]
"""Called with (done, total)."""


def unreported(done: int, total: int) -> None:
    """A report that says nothing."""
