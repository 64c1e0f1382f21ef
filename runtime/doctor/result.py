"""The result of one check: its state, what was found, why it matters, and the command that repairs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeasd.runtime.errors import printable

STATES = ("ok", "absent", "hint", "warning", "problem")
"""From best to worst. `absent`: missing and not needed here, or not checked; `hint`: could be better; `warning`: will
harm a service that runs for months; `problem`: prevents something that this machine is for."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`area` and `name` identify the check and never change; the rest is for people.

    `found` and `why` are single lines of printable text, whatever the system files hold. `command` is typed by a person:
    nothing read from a file goes into it unchecked.
    """

    area: str
    name: str
    state: str
    found: str
    why: str
    command: str | None = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"{self.state}: not a state of a check")
        object.__setattr__(self, "found", _shown(self.found))
        object.__setattr__(self, "why", _shown(self.why))


def _shown(text: str) -> str:
    """Text on one line of at most 300 characters: what a system file holds must not control a terminal."""
    return printable(text.replace("\ufffd", "?"), 300)


def not_asked(area: str, name: str, why: str) -> CheckResult:
    """A check that needs the running machine, when a copy of its files is checked."""
    return CheckResult(area, name, "absent", "not asked: only the running machine can tell", why)


def worst(results: Iterable[CheckResult]) -> str:
    """The worst state of all results; "ok" if there are none."""
    return max((result.state for result in results), key=STATES.index, default="ok")
