"""One thing that was looked at: its state, what was found, why it matters and the command that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

STATES = ("ok", "absent", "hint", "warning", "problem")
"""From best to worst. `absent` is not there and not needed here, or could not be asked; `hint` could be better;
`warning` will harm a service of months; `problem` is in the way of something this machine is there for."""

_LONGEST = 300


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`area` and `name` say what was looked at and never change; the rest is for people.

    `found` and `why` are single lines of plain text whatever the system files held; `command` is typed by a
    person, so nothing that was read from a file goes into it unchecked.
    """

    area: str
    name: str
    state: str
    found: str
    why: str
    command: str | None = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"{self.state}: not a state of a finding")
        object.__setattr__(self, "found", one_line(self.found))
        object.__setattr__(self, "why", one_line(self.why))


def one_line(text: str) -> str:
    """Printable text in one line, of at most 300 characters: what a system file held must not drive a terminal."""
    plain = "".join(c if c.isprintable() else " " for c in text.replace("�", "?"))
    plain = re.sub(r"\s+", " ", plain).strip()
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def not_asked(area: str, name: str, why: str) -> CheckResult:
    """What only the running machine could tell, where a copy of its files is looked at."""
    return CheckResult(area, name, "absent", "not asked: only the running machine can tell", why)


def worst(findings: Iterable[CheckResult]) -> str:
    """The worst state among them, "ok" where there are none."""
    return max((found.state for found in findings), key=STATES.index, default="ok")
