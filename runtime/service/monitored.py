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
from edgeasd.runtime.states import OperatingState
from edgeasd.runtime.storage import StateSpan, StoredScore
from edgeasd.runtime.system.clocks import Clock, utc_text

_MOST_SCORES = 10_000
"""Scores of one stream that wait for a disk that refuses: half an hour."""
_LONGEST_SPAN_SECONDS = 60.0
"""Updates that lie further apart say nothing of the time between."""
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
        threshold, modes = None, dict[str, Threshold]()
        self.window_seconds = 0.0
        if isinstance(manifest, Manifest):
            self.machine_type, self.id = manifest.machine.type, manifest.machine.id
            threshold, self.window_seconds = manifest.threshold, clip_seconds(manifest)
            modes = {name: mode.threshold for name, mode in manifest.modes.items() if mode.threshold is not None}
        else:
            self.machine_type, self.id = manifest
        self.shipped = threshold
        """The threshold of the bundle."""
        self.scoring = scoring_fingerprint(manifest) if isinstance(manifest, Manifest) else ""
        self.burn_in: BurnIn | None = None
        self.machine = AlarmMachine(self.machine_type, self.id, settings, threshold, modes=modes)
        self.scores: deque[StoredScore] = deque(maxlen=_MOST_SCORES)
        """Those that are not stored."""
        self.operation = OperatingState()
        """What the machine is doing."""
        self.hours: deque[StateSpan] = deque(maxlen=_MOST_SCORES)
        """How long it was in which state, as far as that is not stored."""
        self._state_at: tuple[str, float] | None = None
        self._scored_at: float | None = None
        self.trends: tuple[str, ...] = ()
        """Changes of its normal, in words."""
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
    def learnt(self) -> float | None:
        """The threshold that was learnt and accepted, if it is in force where no mode has one of its own."""
        return None if self.burn_in is None or self.settings.on is not None else self.burn_in.accepted

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
        self.operation = update.operation or OperatingState()
        self._count_hours(update)
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
                operating_state=self.operation.state,
                is_judged=self.operation.is_judged,
                confirm_seconds=self.operation.confirm_seconds,
                mode=self.operation.mode,
                remark=update.remark,
            )
        )
        if update.clip_score is not None:
            self.scores.append(self._stored_score(update, update.clip_score))
            self._summary_body = self._summary.add(
                update.clip_score,
                complete=update.is_complete,
                threshold=self.threshold,
                time=update.time,
                wall=update.wall,
            )
        return transitions

    def _stored_score(self, update: StreamUpdate, score: float) -> StoredScore:
        before, self._scored_at = self._scored_at, update.time
        seconds = (
            0.0 if before is None or not 0.0 < update.time - before <= _LONGEST_SPAN_SECONDS else update.time - before
        )
        is_heard = update.is_complete and not update.is_unhealthy and not update.is_suspect
        is_normal = (
            is_heard and self.operation.is_judged and self.machine.event is None and not self.machine.maintenance
        )
        mode = (self.operation.mode or "") if is_normal else None
        return StoredScore(update.wall, score, self.mark, update.level_dbfs, mode, seconds)

    def command(self, command: Command) -> list[Transition]:
        """Obey a command now; returns what changed."""
        return self.machine.command(command, self._advance(self._now()), time.time())

    def pass_time(self) -> list[Transition]:
        """Let time pass without an update; returns what changed."""
        if self._clock() - self._updated_at < _SILENT_SECONDS:
            return []
        now = self._advance(self._now())
        unhealthy, window = self.is_unhealthy, self.window_seconds
        # What the machine was last known to do goes on.
        input = AlarmInput(
            *(now, time.time()),
            input_unhealthy=unhealthy,
            window_seconds=window,
            is_judged=self.operation.is_judged,
            mode=self.operation.mode,
        )
        return self.machine.step(input)

    def take_summary(self) -> dict[str, Any] | None:
        """The body of a score message if one became due with the last update."""
        body, self._summary_body = self._summary_body, None
        if body is not None and self.operation.state is not None:
            body |= {"operating_state": self.operation.state, "judged": self.operation.is_judged}
        return body

    @property
    def mark(self) -> str | None:
        """What scores of this moment are marked with: the state, if they are not judged."""
        operation = self.operation
        return None if operation.is_judged else "starting" if operation.is_starting else operation.state

    def _count_hours(self, update: StreamUpdate) -> None:
        """Add the time since the last update to the state that the machine was in."""
        before, state = self._state_at, self.operation.state
        self._state_at = None if state is None else (state, update.time)
        if before is not None and 0.0 < update.time - before[1] <= _LONGEST_SPAN_SECONDS:
            self.hours.append(StateSpan(update.wall, before[0], update.time - before[1]))

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
            **({} if machine.operating_state is None else {"operating_state": machine.operating_state}),
        }

    def continue_from(self, earlier: MonitoredMachine) -> None:
        """Take over the state of the same machine, and the scores that are not stored."""
        self.machine.restore(earlier.machine.snapshot())
        self.scores, self.has_unstored, self.hours = earlier.scores, earlier.has_unstored, earlier.hours
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
