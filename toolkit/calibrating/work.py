"""How a calibration says what it does and how far it is, and learns that it should stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgeasd.toolkit.progress import Report, progress


@dataclass(frozen=True)
class Work:
    """`say` takes one line for the user; `check` raises where the user has asked to stop."""

    say: Callable[[str], None]
    check: Callable[[], None] = lambda: None

    def step(self, text: str) -> None:
        """Say what comes next, unless the user has asked to stop."""
        self.check()
        self.say(text)

    @contextmanager
    def part(self, label: str) -> Iterator[Report]:
        """Progress of one piece of work; every report is a chance to stop."""
        self.check()
        with progress(label) as report:

            def told(done: int, total: int, text: str = "") -> None:
                self.check()
                report(done, total, text)

            yield told

    def beat(self, done: int, total: int, text: str = "") -> None:  # noqa: ARG002
        """A report that says nothing and is a chance to stop."""
        self.check()
