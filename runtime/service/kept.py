"""What is kept of one stream: its alarm machine, and what of it is not yet in the store."""

from __future__ import annotations

from collections import deque
from typing import Any

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, Command, Transition
from edgeasd.runtime.alarms.settings import AlarmSettings
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.outputs import ScoreSummary
from edgeasd.runtime.outputs.messages import iso_time
from edgeasd.runtime.service.finding import Finding
from edgeasd.runtime.system.clocks import wall_time

_MOST_SCORES = 10_000
"""Scores that wait for a store which cannot be written: half an hour of one stream."""


def clip_seconds(manifest: Manifest) -> float:
    """Seconds of sound that a clip score comes from where every segment is scored."""
    features, segments = manifest.features, manifest.segments
    frames = segments.frames + (segments.sections - 1) * segments.hop
    return features.sample_count(frames) / features.sample_rate


class Kept:
    """One stream as the keeper sees it. Used by the keeper's thread only."""

    def __init__(
        self, name: str, manifest: Manifest | tuple[str, str], settings: AlarmSettings, score_seconds: float
    ) -> None:
        """A machine that nobody listens to is given by its type and ID alone."""
        known = manifest if isinstance(manifest, Manifest) else None
        who = manifest if isinstance(manifest, tuple) else (manifest.machine.type, manifest.machine.id)
        self.name, (self.machine_type, self.id) = name, who
        self.machine = AlarmMachine(*who, settings, None if known is None else known.threshold)
        self.scores: deque[tuple[float, float]] = deque(maxlen=_MOST_SCORES)
        """(wall clock, clip score) pairs that are not in the store."""
        self.unsaved: list[Transition] = []
        """Transitions that are not in the store."""
        self.told = 0
        """Number of the last transition that is not to be counted again: told by this process, or from before it."""
        self.state_saved = False
        """Of one that has left: whether what it remembers is in the store."""
        self._summary = ScoreSummary(score_seconds)
        self._clock = float("-inf")
        self._looks_back = 0.0 if known is None else clip_seconds(known)

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
        if finding.complete and finding.looks_back is not None:
            self._looks_back = finding.looks_back
        self.unsaved += self.machine.step(
            AlarmInput(
                time=time,
                wall=wall,
                score=finding.score,
                complete=finding.complete,
                input_unhealthy=finding.sick,
                gap=finding.gap,
                input_suspect=finding.suspect,
                window_seconds=self._looks_back,
            )
        )
        if finding.score is None:
            return None
        self.scores.append((wall, finding.score))
        levels = self.machine.levels
        threshold = None if levels is None else levels.on
        return self._summary.add(finding.score, complete=finding.complete, threshold=threshold, time=time, wall=wall)

    def present(self, wall: float) -> dict[str, Any]:
        """The state as the body of an event would say it; `wall` is now."""
        machine = self.machine
        return {
            "state": machine.state,
            "event": None if machine.event is None else machine.event.id,
            "at": iso_time(wall),
            "threshold": None if machine.levels is None else machine.levels.on,
            "maintenance": machine.maintenance,
            "snoozed_seconds": None if machine.snoozed else 0.0,
            "test": False,
        }

    def begin_numbers(self, last: int, wall: float) -> None:
        """Go on above `last`, and say that what was said up to there is no longer known."""
        self.unsaved.append(self.machine.skip_sequence_to(last, wall))

    def tick(self, time: float, sick: bool) -> None:
        """Let time pass where no scores come."""
        seen = AlarmInput(self._advance(time), wall_time(time), input_unhealthy=sick, window_seconds=self._looks_back)
        self.unsaved += self.machine.step(seen)

    def command(self, command: Command, time: float) -> list[Transition]:
        """Obey; returns what changed."""
        said = self.machine.command(command, self._advance(time), wall_time(time))
        self.unsaved += said
        return said
