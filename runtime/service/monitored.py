"""One monitored machine: the alarm machine of a stream, its scores that are not stored, and its clock."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgeasd.runtime.alarms import AlarmInput, AlarmMachine, AlarmSettings, Command, Transition
from edgeasd.runtime.alarms.burn_in import BurnIn
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.outputs.messages import ScoreSummary
from edgeasd.runtime.scoring.threshold import Threshold
from edgeasd.runtime.service.updates import StreamUpdate
from edgeasd.runtime.system.clocks import Clock, utc_text

_MOST_SCORES = 10_000
"""Scores of one stream that wait for a disk that refuses: half an hour."""
_SILENT_SECONDS = 3.0
"""Without updates for this long, the recorder itself lets time pass for a machine."""


def clip_seconds(manifest: Manifest) -> float:
    """Seconds of sound that a clip score covers if every segment is scored."""
    features, segments = manifest.features, manifest.segments
    frames = segments.frames + (segments.sections - 1) * segments.hop
    return features.sample_count(frames) / features.sample_rate


def scoring_fingerprint(manifest: Manifest) -> str:
    """What decides the scores of a bundle: a threshold holds for equal ones only."""
    files, score = manifest.files, manifest.score
    parts = [files["head.onnx"].sha256, manifest.features.fingerprint(), manifest.segments.model_dump_json()]
    parts += [files[manifest.precisions["fp32"].file].sha256] if "fp32" in manifest.precisions else sorted(files)
    parts += [manifest.amplitude.model_dump_json(), f"{score.alpha!r} {score.d_min!r} {score.d_max!r}"]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


class MonitoredMachine:
    """One machine and its stream: the alarm machine, its scores, its clock. Used by one thread."""

    def __init__(
        self,
        name: str,
        manifest: Manifest | tuple[str, str],
        settings: AlarmSettings,
        score_seconds: float = 10.0,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        """`name` is that of the stream. Without a stream, the machine is given by type and ID in place of a manifest.

        Raises InputError if the thresholds are not in order.
        """
        self.name, self.settings = name, settings
        threshold = None
        self.window_seconds = 0.0
        if isinstance(manifest, Manifest):
            self.machine_type, self.id = manifest.machine.type, manifest.machine.id
            threshold, self.window_seconds = manifest.threshold, clip_seconds(manifest)
        else:
            self.machine_type, self.id = manifest
        self.shipped = threshold
        """The threshold of the bundle."""
        self.scoring = scoring_fingerprint(manifest) if isinstance(manifest, Manifest) else ""
        self.burn_in: BurnIn | None = None
        self.machine = AlarmMachine(self.machine_type, self.id, settings, threshold)
        self.scores: deque[tuple[float, float]] = deque(maxlen=_MOST_SCORES)
        """(wall clock, clip score) pairs that are not stored."""
        self.has_unstored = False
        """Whether transitions left without having been stored."""
        self.is_unhealthy = False
        self._summary = ScoreSummary(score_seconds)
        self._summary_body: dict[str, Any] | None = None
        self._clock, self._updated_at = clock, clock()
        self._time: float | None = None
        self._time_set_at = self._updated_at

    def use_burn_in(self, burn_in: BurnIn | None) -> None:
        """Go on with this learning period; an accepted threshold takes the place of the bundle's.

        A threshold in the settings of the alarm comes first.
        """
        self.burn_in = burn_in
        threshold = self.shipped
        if burn_in is not None and burn_in.accepted is not None:
            found_by = f"learning period of {burn_in.hours:g} h"
            fresh = Threshold(clip=burn_in.accepted, found_by=found_by, clips=0)
            threshold = fresh if threshold is None else threshold.model_copy(update={"clip": burn_in.accepted})
        self.machine.levels = self.settings.levels(threshold)

    @property
    def is_learning(self) -> bool:
        """Whether the learning period lasts, in which no alarm is raised."""
        return self.burn_in is not None and self.burn_in.phase == "learning"

    @property
    def key(self) -> tuple[str, str]:
        """Machine type and ID."""
        return self.machine_type, self.id

    def update(self, update: StreamUpdate) -> list[Transition]:
        """Process an update of the stream; returns what changed. Raises InputError for a time that is not one."""
        self.is_unhealthy, self._updated_at = update.is_unhealthy, self._clock()
        if update.is_complete and update.window_seconds is not None:
            self.window_seconds = update.window_seconds
        transitions = self.machine.step(
            AlarmInput(
                time=self._advance(update.time),
                wall=update.wall,
                score=update.clip_score,
                complete=update.is_complete,
                input_unhealthy=update.is_unhealthy,
                gap=update.has_gap,
                input_suspect=update.is_suspect,
                is_learning=self.is_learning,
                window_seconds=self.window_seconds,
            )
        )
        if update.clip_score is not None:
            self.scores.append((update.wall, update.clip_score))
            self._summary_body = self._summary.add(
                update.clip_score,
                complete=update.is_complete,
                threshold=self.threshold,
                time=update.time,
                wall=update.wall,
            )
        return transitions

    def command(self, command: Command) -> list[Transition]:
        """Obey a command now; returns what changed."""
        return self.machine.command(command, self._advance(self._now()), time.time())

    def pass_time(self) -> list[Transition]:
        """Let time pass without an update; returns what changed."""
        if self._clock() - self._updated_at < _SILENT_SECONDS:
            return []
        now = self._advance(self._now())
        unhealthy, window = self.is_unhealthy, self.window_seconds
        return self.machine.step(AlarmInput(now, time.time(), input_unhealthy=unhealthy, window_seconds=window))

    def take_summary(self) -> dict[str, Any] | None:
        """The body of a score message if one became due with the last update."""
        body, self._summary_body = self._summary_body, None
        return body

    @property
    def threshold(self) -> float | None:
        """The clip score that raises an alarm; None if no alarm can be raised."""
        levels = self.machine.levels
        return None if levels is None else levels.on

    def state_body(self) -> dict[str, Any]:
        """The present state with the fields of an event body, as far as they are known without an event."""
        machine = self.machine
        return {
            "state": machine.state,
            "event": None if machine.event is None else machine.event.id,
            "at": utc_text(time.time()),
            "threshold": self.threshold,
            "maintenance": machine.maintenance,
            "snoozed_seconds": None if machine.snoozed else 0.0,
            "test": False,
        }

    def continue_from(self, earlier: MonitoredMachine) -> None:
        """Take over the state of the same machine, and the scores that are not stored."""
        self.machine.restore(earlier.machine.snapshot())
        self.scores, self.has_unstored = earlier.scores, earlier.has_unstored
        self._time, self._time_set_at = earlier._time, earlier._time_set_at

    def leave_out(self, transitions: Sequence[Transition], count: int) -> list[Transition]:
        """`transitions`, the last ones, with numbers that are higher by `count`."""
        self.machine.advance_sequence(count)
        return [replace(one, sequence=one.sequence + count) for one in transitions]

    def _now(self) -> float:
        """The present time of the clock of the updates."""
        now = self._clock()
        return now if self._time is None else self._time + now - self._time_set_at

    def _advance(self, moment: float) -> float:
        """Updates are of the time of their sound, commands of now: for the alarm machine, time never runs back."""
        self._time_set_at = self._clock()
        self._time = moment if self._time is None else max(self._time, moment)
        return self._time
