"""What the scoring side tells the keeping side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeasd.runtime.health import HealthReport


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found about a stream at `time` (monotonic seconds)."""

    stream: str
    time: float
    score: float | None = None
    """A clip score."""
    complete: bool = False
    sick: bool = False
    """Whether the input is sick at this moment."""
    gap: bool = False
    """Whether sound was lost before this."""
    position: int | None = None
    """Of the score: the sample of the source before which it ends."""
    health: HealthReport | None = None
    """Given where a health state began or ended."""
    suspect: bool = False
    """Whether the input may be sick, and that is not known yet."""
    looks_back: float | None = None
    """Of the score: the seconds of sound that it comes from."""


Record = dict[str, Any]


def tell_nobody(record: Record, may_drop: bool) -> None:
    """Where records go when nobody wants them."""
    del record, may_drop
