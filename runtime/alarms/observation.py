"""What the alarm machine is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at one moment: usually a clip score.

    `time` is a reading in seconds of a clock that does not run backwards, `wall` seconds since 1970.
    """

    time: float
    wall: float
    score: float | None = None
    """The clip score; None where there is none, for instance while the input is dead. NaN counts as sick."""
    complete: bool = True
    """Whether the clip score is a mean over all its segments; no other is looked at."""
    sick: bool = False
    """Whether the input is sick; see `edgeasd.runtime.health`."""
    gap: bool = False
    """Whether sound was lost since the last observation."""
    suspect: bool = False
    """Whether the input may be sick, and that is not known yet. Nothing is raised meanwhile."""
    looks_back: float = 0.0
    """Seconds of sound that a clip score comes from: so long scores after sick input may still contain it."""
