"""What is kept of one stream: its alarm machine, and what of it is not yet in the store."""

from __future__ import annotations

from collections import deque
from typing import Any

from edgeasd.runtime.alarms import AlarmMachine, Command, Observation, Transition
from edgeasd.runtime.alarms.settings import AlarmSettings
from edgeasd.runtime.clocks import wall_time
from edgeasd.runtime.manifest import Manifest
from edgeasd.runtime.outputs import ScoreSummary
from edgeasd.runtime.service.finding import Finding

_MOST_SCORES = 10_000
"""Scores that wait for a store which cannot be written: half an hour of one stream."""


class Kept:
    """One stream as the keeper sees it. Used by the keeper's thread only."""

    def __init__(self, name: str, manifest: Manifest, settings: AlarmSettings, score_seconds: float) -> None:
        self.name = name
        self.machine_type, self.id = manifest.machine.type, manifest.machine.id
        self.machine = AlarmMachine(self.machine_type, self.id, settings, manifest.threshold)
        self.scores: deque[tuple[float, float]] = deque(maxlen=_MOST_SCORES)
        """(wall clock, clip score) pairs that are not in the store."""
        self.unsaved: list[Transition] = []
        """Transitions that are not in the store."""
        self.told = 0
        """Number of the last transition that is not to be counted again: told by this process, or from before it."""
        self._summary = ScoreSummary(score_seconds)
        self._clock = float("-inf")

    @property
    def who(self) -> tuple[str, str]:
        """Machine type and ID."""
        return self.machine_type, self.id

    def take_over(self, before: Kept) -> None:
        """Go on where `before`, of the same machine, stands; what of it is not in the store is to be written here."""
        self.machine.restore(before.machine.snapshot())
        self.scores, self.unsaved, self.told, self._clock = before.scores, before.unsaved, before.told, before._clock

    def _advance(self, time: float) -> float:
        """Findings are of the time of their sound, commands of now: the machine must not see time run back."""
        self._clock = max(self._clock, time)
        return self._clock

    def find(self, finding: Finding) -> dict[str, Any] | None:
        """Take in a finding; the body of a score message where one is due."""
        time, wall = self._advance(finding.time), wall_time(finding.time)
        seen = Observation(time, wall, finding.score, finding.complete, finding.sick, finding.gap)
        self.unsaved += self.machine.step(seen)
        if finding.score is None:
            return None
        self.scores.append((wall, finding.score))
        levels = self.machine.levels
        threshold = None if levels is None else levels.on
        return self._summary.add(finding.score, complete=finding.complete, threshold=threshold, time=time, wall=wall)

    def begin_numbers(self, last: int, wall: float) -> None:
        """Go on above `last`, and say that what was said up to there is no longer known."""
        self.unsaved.append(self.machine.number_after(last, wall))

    def tick(self, time: float, sick: bool) -> None:
        """Let time pass where no scores come."""
        self.unsaved += self.machine.step(Observation(self._advance(time), wall_time(time), sick=sick))

    def command(self, command: Command, time: float) -> list[Transition]:
        """Obey; returns what changed."""
        said = self.machine.command(command, self._advance(time), wall_time(time))
        self.unsaved += said
        return said
