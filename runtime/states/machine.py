"""The operating state of one machine: pure, without clocks, sound and models of its own."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.states.settings import IDLE, OFF, RUNNING, OperationSettings

TAG, SCHEDULE, LEVEL, SOUND, DEFAULT = "tag", "schedule", "level", "sound", "default"
"""Who knows the state, in order of precedence."""
BACK_DB = 3.0
"""The machine runs again this far above the level below which it is off."""
START_SECONDS = 1.0
"""For so long, so that one knock in the hall starts nothing."""
GAIN_SECONDS = 5.0
"""Quiet sound that has had the shape of the recordings for so long is another gain, not a machine that is off: the 10 s
behind it hold nothing of before."""
DEEP_DB = 5.0
"""So far below the level of off, sound is off whatever its shape: a hall may sound like its machine, and nobody turns a
gain that far unseen."""
MODE_SECONDS = 2.0
"""The sound must be nearest to a mode, and have its shape, for so long."""
CHANGE_SECONDS = 12.0
"""After a change of mode no alarm is raised for so long: a clip score covers 10 s."""
_FURTHEST = 1e12


@dataclass(frozen=True, slots=True)
class StateInput:
    """What is known at one moment. None is not known."""

    time: float
    """Seconds of a clock that does not run backwards."""
    wall: float
    """Seconds since 1970, for the schedule."""
    level_dbfs: float | None = None
    """Level of 10 s."""
    recent_dbfs: float | None = None
    """Level of the last second."""
    fits: bool | None = None
    """Whether the spectrum of 10 s has the shape of the recordings, however loud."""
    mode: str | None = None
    """The recorded mode whose sound is nearest."""
    gain_db: float = 0.0
    """A known change of gain since the recordings."""
    tag: str | None = None
    """The state that the plant last gave."""
    tag_age: float = 0.0
    """Seconds since then."""


@dataclass(frozen=True, slots=True)
class OperatingState:
    """What the machine is doing."""

    state: str | None = None
    """running, off, idle or the name of a mode; None until it is known."""
    source: str = DEFAULT
    """tag, schedule, level, sound or default: who knows it."""
    mode: str | None = None
    """The recorded mode whose threshold and distances hold."""
    is_judged: bool = True
    """Whether scores may raise and end alarms: not while off or idle, nor in a time of grace."""
    is_starting: bool = False
    """Whether it is in the time of grace after a start or a change of mode."""
    is_stopping: bool = False
    """Whether it may be about to be off. No alarm is raised meanwhile."""
    confirm_seconds: float = 0.0
    """For so long the condition of an alarm must have held."""
    note: str | None = None
    """What a person should know about it: a stale tag, a mode that was never recorded."""

    @property
    def is_inactive(self) -> bool:
        """Whether the machine is off or idle."""
        return self.state in (OFF, IDLE)


class StateMachine:
    """Decides the state of one machine from what is known: a fresh tag, else the schedule, else level, else sound."""

    def __init__(
        self, settings: OperationSettings, off_below_dbfs: float | None = None, modes: Collection[str] = ()
    ) -> None:
        """`off_below_dbfs` is the level below which the machine is off, None if no level tells it.

        `modes` are those that were recorded.
        """
        self.settings, self.off_below_dbfs, self.modes = settings, off_below_dbfs, frozenset(modes)
        self.present = OperatingState()
        self.since: float | None = None
        """When the present state began."""
        self.seconds: dict[str, float] = {}
        """How long the machine was in each state."""
        self._shifts = settings.shifts()
        self._time: float | None = None
        self._is_off = False
        """By level."""
        self._loud_since: float | None = None
        self._quiet_fit_since: float | None = None
        self._mode: str | None = None
        self._candidate: tuple[str | None, float] = (None, 0.0)
        self._grace_until = -math.inf

    def step(self, given: StateInput) -> OperatingState:
        """Take in what is known now. Raises InputError for a time that is not one."""
        now = self._advance(given)
        stopping = self._follow_level(given, now)
        self._follow_sound(given, now)
        state, source, note = self._decide(given)
        mode = state if state in self.modes else self._mode if state == RUNNING and self.modes else None
        shown = mode if state == RUNNING and mode is not None else state
        is_recorded = shown in self.modes or not self.modes or shown in (OFF, IDLE, RUNNING, None)
        if not is_recorded:
            note = f"mode {shown} was never recorded: its scores are not judged"
        monitored = shown not in (OFF, IDLE) or shown in self.modes
        self._begin_grace(shown, monitored, now)
        starting = monitored and now < self._grace_until
        self.present = OperatingState(
            state=shown,
            source=SOUND if source in (LEVEL, DEFAULT) and shown == mode and mode is not None else source,
            mode=mode,
            is_judged=monitored and is_recorded and not starting,
            is_starting=starting,
            is_stopping=stopping and monitored and source not in (TAG, SCHEDULE),
            confirm_seconds=self._confirm(given),
            note=note,
        )
        return self.present

    # Parts

    def _advance(self, given: StateInput) -> float:
        now = float(given.time)
        if not abs(now) <= _FURTHEST:
            raise InputError(f"time {given.time}: not a reading of a clock in seconds; pass a monotonic one")
        before = now if self._time is None else min(self._time, now)
        if self.present.state is not None:
            self.seconds[self.present.state] = self.seconds.get(self.present.state, 0.0) + now - before
        if self._time is not None and now < self._time:
            # The clock has begun anew: what was to last lasts from now on.
            shift = now - self._time
            self._grace_until += shift
            self._loud_since = None if self._loud_since is None else self._loud_since + shift
            self._quiet_fit_since = None if self._quiet_fit_since is None else self._quiet_fit_since + shift
            self._candidate = (self._candidate[0], self._candidate[1] + shift)
        self._time = now
        return now

    def _decide(self, given: StateInput) -> tuple[str | None, str, str | None]:
        """State, who knows it, and a note. A state that is a mode is named; `running` may be any mode."""
        note = None
        if given.tag is not None:
            limit = self.settings.tag_seconds
            if limit is None or given.tag_age <= limit:
                return given.tag, TAG, None
            note = f"the tag {given.tag} is stale, {_span(given.tag_age)} old"
        if self._shifts is not None and not self._shifts.includes(given.wall):
            return OFF, SCHEDULE, _then(note, SCHEDULE)
        limit_dbfs = self._limit(given)
        if limit_dbfs is not None:
            if given.level_dbfs is None:
                # Unknown until there are 10 s of sound; afterwards what it was.
                known = self.present.state if self.present.source in (LEVEL, SOUND) else None
                known = RUNNING if known is not None and known not in (OFF, IDLE) else known
                return known, LEVEL, _then(note, LEVEL)
            if self._is_off:
                return OFF, LEVEL, _then(note, LEVEL)
        idle = self.settings.idle_below_dbfs
        if idle is not None and given.level_dbfs is not None and given.level_dbfs < idle + given.gain_db:
            return IDLE, LEVEL, _then(note, LEVEL)
        source = LEVEL if limit_dbfs is not None else DEFAULT
        return RUNNING, source, _then(note, source)

    def _confirm(self, given: StateInput) -> float:
        """Nothing waits for a state that only the clock can change."""
        changes = self._limit(given) is not None or given.tag is not None or (self.modes and self.settings.sound)
        return self.settings.confirm_seconds if changes else 0.0

    def _limit(self, given: StateInput) -> float | None:
        if not self.settings.level or self.off_below_dbfs is None:
            return None
        return self.off_below_dbfs + given.gain_db

    def _follow_level(self, given: StateInput, now: float) -> bool:
        """Whether the level alone says off; returns whether the last second is that quiet."""
        limit, level, recent = self._limit(given), given.level_dbfs, given.recent_dbfs
        if limit is None or recent is None:
            return False
        is_quiet = level is not None and level < limit
        may_be_gain = bool(given.fits) and level is not None and level >= limit - DEEP_DB
        fits_quietly = is_quiet and may_be_gain
        if not fits_quietly:
            self._quiet_fit_since = None
        elif self._quiet_fit_since is None:
            self._quiet_fit_since = now
        is_gain = self._quiet_fit_since is not None and now - self._quiet_fit_since >= GAIN_SECONDS
        if self._is_off:
            if recent < limit + BACK_DB:
                self._loud_since = None
            elif self._loud_since is None:
                self._loud_since = now
            is_loud = self._loud_since is not None and now - self._loud_since >= START_SECONDS
            if is_loud or is_gain:
                self._is_off, self._loud_since = False, None
        elif is_quiet and not may_be_gain:
            self._is_off, self._loud_since = True, None
        return recent < limit and not is_gain

    def _follow_sound(self, given: StateInput, now: float) -> None:
        """The mode that the sound has been nearest to for a while. Off sounds like none of them."""
        if not self.settings.sound or given.mode is None or self._is_off:
            self._candidate = (None, now)
            return
        if self._mode is not None and given.fits is False:
            # A fault may lie anywhere between the modes: it changes none, or each change would hold its alarm back.
            self._candidate = (None, now)
            return
        if given.mode != self._candidate[0]:
            self._candidate = (given.mode, now)
        if self._mode is None or now - self._candidate[1] >= MODE_SECONDS:
            self._mode = given.mode

    def _begin_grace(self, state: str | None, monitored: bool, now: float) -> None:
        before = self.present.state
        if state == before:
            return
        self.since = now
        if before is None or state is None or not monitored:
            return
        was_monitored = before not in (OFF, IDLE) or before in self.modes
        seconds = CHANGE_SECONDS if was_monitored else self.settings.grace_seconds
        self._grace_until = max(self._grace_until, now + seconds)


def _then(note: str | None, source: str) -> str | None:
    """A note about a stale tag, with who decides in its place."""
    if note is None:
        return None
    return f"{note}: {'nothing else is known' if source == DEFAULT else f'the {source} decides'}"


def _span(seconds: float) -> str:
    """A length of time in the largest unit of which there are two."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
