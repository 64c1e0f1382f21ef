"""The environment of processes that we start: without the variables that hold secrets of the service."""

from __future__ import annotations

import os
from collections.abc import Iterable

_HIDDEN: set[str] = set()


def hide_variables(names: Iterable[str]) -> None:
    """Leave these variables out of the environment of every process that is started from now on."""
    _HIDDEN.update(names)


def child_environment(**more: str) -> dict[str, str]:
    """The environment for a process that is started now, with `more` in it."""
    return {name: value for name, value in os.environ.items() if name not in _HIDDEN} | more
