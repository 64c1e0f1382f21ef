"""The alarm machine of one machine: pure, without clocks and files of its own."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeasd.runtime.alarms.command import Command
from edgeasd.runtime.alarms.event_id import RandomBits, make_event_id
from edgeasd.runtime.alarms.settings import AlarmSettings, Levels
from edgeasd.runtime.alarms.state import LAST_ID, LATEST_WALL, Event, MachineState, State, dump_state, parse_state
from edgeasd.runtime.alarms.transition import Transition, describe
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Threshold


@dataclass(frozen=True, slots=True)
class AlarmInput:
    """What the alarm machine is given at one moment, usually a clip score.

    `time` is a reading in seconds of a clock that does not run backwards, `wall` seconds since 1970.
    """

    time: float
    wall: float
    score: float | None = None
    """The clip score; None without one, for instance while the source is gone. NaN counts as unhealthy input."""
    complete: bool = True
    """Whether the clip score is a mean over all its segments; others are ignored."""
    input_unhealthy: bool = False
    """Whether the input cannot be trusted; see `edgeasd.runtime.health`."""
    gap: bool = False
    """Whether sound was lost since the last input."""
    input_suspect: bool = False
    """Whether the input may be unhealthy. No alarm is raised meanwhile."""
    is_learning: bool = False
    """Whether the learning period lasts. No alarm is raised meanwhile, warnings are."""
    window_seconds: float = 0.0
    """Seconds of sound that a clip score covers. For this long after unhealthy input, scores may still contain it."""
    operating_state: str | None = None
    """What the machine is doing, such as running or off; None while that is not known."""
    is_judged: bool = True
    """Whether scores count: not while the machine is off, idle or starting. An open event stays as it is."""
    confirm_seconds: float = 0.0
    """For so long the condition of an alarm or a warning must have held, beside the settings: a stop of the machine is
    not known at once."""
    mode: str | None = None
    """The recorded mode whose threshold holds; None: that of the bundle."""
    remark: str | None = None
    """What else is known about the sound, such as another gain; for the messages."""


_LARGEST = sys.float_info.max


class AlarmMachine:
    """The alarm state of one machine. Store `snapshot()` with every transition that it returns."""

    def __init__(
        self,
        machine: str,
        id: str,
        settings: AlarmSettings,
        threshold: Threshold | None,
        *,
        modes: Mapping[str, Threshold] | None = None,
        random_bits: RandomBits = secrets.randbits,
    ) -> None:
        """`threshold` is the manifest's; without it and without `settings.on` no alarm is ever raised. `modes` has those of
        recorded modes.

        Raises InputError if the thresholds are not in order.
        """
        self.settings = settings
        self._levels_of: dict[str | None, Levels | None] = {None: settings.levels(threshold)}
        self._levels_of |= {name: settings.levels(one) for name, one in (modes or {}).items()}
        self._mode: str | None = None
        self._remark: str | None = None
        self._warns_since: float | None = None
        """Since when the condition of a warning has held. It is not stored: a restart begins a new row of scores."""
        self._random_bits = random_bits
        self._s = MachineState(machine=machine, id=id)

    # State

    @property
    def levels(self) -> Levels | None:
        """The thresholds in force: those of the present mode, else those of the bundle, which may be replaced."""
        return self._levels_of.get(self._mode, self._levels_of[None])

    @levels.setter
    def levels(self, levels: Levels | None) -> None:
        self._levels_of[None] = levels

    @property
    def state(self) -> str:
        """normal, warning, alarm, acknowledged or cleared."""
        return self._s.state

    @property
    def event(self) -> Event | None:
        """A copy of the open event."""
        return None if self._s.event is None else self._s.event.model_copy()

    @property
    def sequence(self) -> int:
        """Number of the last transition."""
        return self._s.sequence

    @property
    def maintenance(self) -> bool:
        """Whether alarms are off for maintenance."""
        return self._s.maintenance

    @property
    def snoozed(self) -> bool:
        """Whether alarms are snoozed."""
        return self._s.snoozed_until is not None

    @property
    def suspended(self) -> bool:
        """Whether scores are ignored because the input is or was just now unhealthy."""
        return self._s.unhealthy_at is not None

    @property
    def operating_state(self) -> str | None:
        """What the machine was last known to do."""
        return self._s.operating_state

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain JSON values."""
        return dump_state(self._s)

    def restore(self, snapshot: Any, *, time: float | None = None, place: str = "alarm state") -> None:
        """Continue with the state of `snapshot`.

        `time` is the present reading of a clock that has begun anew, as after a reboot: the time between does not
        count. Without it the clock is the same one; if it reads less, it has begun anew. Raises InputError that names
        `place`, and changes nothing, for what `snapshot()` cannot have returned and for the state of another machine.
        """
        state = parse_state(snapshot, place)
        if (state.machine, state.id) != (self._s.machine, self._s.id):
            theirs, ours = f"{state.machine} {state.id}", f"{self._s.machine} {self._s.id}"
            raise InputError(f"{place}: is of machine {theirs!r}, not of {ours!r}; give that of this machine")
        if time is not None and state.time is not None:
            state.move_clock(time - state.time)
        self._s = state

    def reset_history(self) -> None:
        """Forget the scores so far, as after a gap. An open event stays open."""
        self._s.reset_history()

    def advance_sequence(self, count: int) -> None:
        """Leave out `count` numbers: transitions that were published but never stored may have used them."""
        self._s.sequence += count

    def skip_sequence_to(self, last: int, wall: float) -> Transition:
        """Continue with numbers above `last`, because earlier transitions are lost.

        Returns a transition with the reason `store_lost` and the present state, for receivers of the lost ones.
        """
        self._s.sequence = max(self._s.sequence, last)
        return self._enter("store_lost", wall)

    # Input

    def step(self, input: AlarmInput) -> list[Transition]:
        """Process one input; returns the transitions in order. Raises InputError for a time that is not one."""
        now = self._advance(input.time, input.wall)
        s, transitions = self._s, self._time_passes(now, input.wall)
        transitions += self._operate(input)
        is_unhealthy = input.input_unhealthy or (input.score is not None and math.isnan(input.score))
        if is_unhealthy:
            is_new, s.unhealthy_at = s.unhealthy_at is None, now
            s.reset_history()
            return transitions + ([self._enter("input_unhealthy", input.wall)] if is_new else [])
        if s.unhealthy_at is not None:
            if now - s.unhealthy_at < max(self.settings.recovery_seconds, input.window_seconds):
                return transitions
            s.unhealthy_at = None
            transitions.append(self._enter("input_healthy", input.wall))
        if input.gap:
            transitions += self._gap(now, input.wall) + self._time_passes(now, input.wall)
        if s.maintenance:
            return transitions
        if not input.is_judged:
            s.reset_history()
            return transitions
        if self.levels is None:
            if s.event is not None:
                transitions.append(self._close("no_threshold", now, input.wall))
            return transitions
        if input.score is None or not input.complete:
            return transitions
        # Infinite scores happen and JSON has no infinity; no finite threshold tells the two apart.
        score = min(max(float(input.score), -_LARGEST), _LARGEST)
        raises, confirm = not input.input_suspect, input.confirm_seconds
        return transitions + self._judge(
            *(score, self.levels, now, input.wall), raises=raises, confirm=confirm, is_learning=input.is_learning
        )

    def command(self, given: Command, time: float, wall: float) -> list[Transition]:
        """Obey a command; returns the transitions, none if there is nothing to do, as for a repeated command.

        Raises InputError, and changes nothing, for a time that is not one and for a snooze that would end in the past.
        """
        length = given.snooze_seconds(wall) if given.command == "snooze" else 0.0
        now = self._advance(time, wall)
        s, transitions = self._s, self._time_passes(now, wall)
        who: dict[str, Any] = {"by": given.by, "note": given.note}
        hits = s.event is not None and given.event in (None, s.event.id)
        if given.command == "acknowledge" and hits and s.state == "alarm":
            transitions.append(self._enter("acknowledged", wall, "acknowledged", **who))
        elif given.command == "clear" and hits:
            transitions.append(self._close("cleared_by_hand", now, wall, **who))
        elif given.command == "snooze":
            s.snoozed_until = now + length
            transitions.append(self._enter("snoozed", wall, "acknowledged" if s.state == "alarm" else None, **who))
        elif given.command == "end_snooze" and s.snoozed_until is not None:
            s.snoozed_until = None
            transitions.append(self._enter("snooze_ended", wall, **who))
        elif given.command in ("maintenance_on", "maintenance_off"):
            transitions += self._maintain(given.command, now, wall, **who)
        elif given.command == "test":
            transitions += self._test(wall, **who)
        return transitions

    # Rules

    def _advance(self, time: float, wall: float) -> float:
        if not (math.isfinite(time) and abs(time) <= 1e11):
            raise InputError(f"time {time}: not a reading of a clock in seconds; pass a monotonic one")
        if not 0.0 <= wall <= LATEST_WALL:
            raise InputError(f"wall clock {wall}: not seconds since 1970; set the clock of this device")
        if self._s.time is not None and time < self._s.time:
            self._s.move_clock(time - self._s.time)
            self._warns_since = None
        self._s.time = float(time)
        return self._s.time

    def _time_passes(self, now: float, wall: float) -> list[Transition]:
        s, transitions = self._s, []
        if s.snoozed_until is not None and now >= s.snoozed_until:
            s.snoozed_until = None
            transitions.append(self._enter("snooze_over", wall))
        if s.cleared_at is not None and self._cooled(now):
            s.cleared_at = None
            transitions.append(self._enter("cooldown_over", wall, "normal"))
        return transitions

    def _operate(self, input: AlarmInput) -> list[Transition]:
        """Follow the operating state and mode. A warning ends with the state it was raised in; an event stays open."""
        s, self._remark = self._s, input.remark
        if input.mode != self._mode:
            self._mode = input.mode
            s.reset_history()
        if input.operating_state is None or input.operating_state == s.operating_state:
            return []
        s.operating_state = input.operating_state
        return [self._enter("operating_state", input.wall, "normal" if s.state == "warning" else None)]

    def _cooled(self, now: float) -> bool:
        return self._s.cleared_at is None or now - self._s.cleared_at >= self.settings.cooldown_seconds

    def _judge(
        self,
        score: float,
        levels: Levels,
        now: float,
        wall: float,
        *,
        raises: bool,
        confirm: float,
        is_learning: bool,
    ) -> list[Transition]:
        s = self._s
        s.alarm.add(score, levels.on, levels.off, levels.n)
        if levels.warning is not None and levels.warning_off is not None:
            s.warning.add(score, levels.warning, levels.warning_off, levels.n)
        holds = sum(s.alarm.above) >= levels.k
        s.held_since = (now if s.held_since is None else s.held_since) if holds else None
        if s.event is not None:
            s.event.peak = max(s.event.peak, score)
            over = s.alarm.quiet >= levels.clear_after
            return [self._close("score", now, wall, score=score)] if over else []
        due = s.held_since is not None and now - s.held_since >= max(self.settings.min_seconds, confirm)
        if due and raises and not is_learning and s.cleared_at is None and s.snoozed_until is None:
            s.event = Event(id=self._new_id(wall), raised_wall=wall, peak=score, raised_time=now)
            return [self._enter("score", wall, "alarm", score=score)]
        warns = sum(s.warning.above) >= levels.k
        self._warns_since = (now if self._warns_since is None else self._warns_since) if warns else None
        is_confirmed = self._warns_since is not None and now - self._warns_since >= confirm
        return self._warn(score, levels, wall, raises=raises and is_confirmed)

    def _warn(self, score: float, levels: Levels, wall: float, *, raises: bool) -> list[Transition]:
        s = self._s
        if raises and s.state == "normal":
            return [self._enter("score", wall, "warning", score=score)]
        if s.state == "warning" and (levels.warning is None or s.warning.quiet >= levels.clear_after):
            s.warning.above.clear()
            return [self._enter("score", wall, "normal", score=score)]
        return []

    def _close(self, reason: str, now: float, wall: float, **fields: Any) -> Transition:
        """Clear the open event and forget the scores so far."""
        s, event = self._s, self._s.event
        assert event is not None
        s.event, s.cleared_at = None, now
        s.reset_history()
        return self._enter(reason, wall, "cleared", event=event, **fields)

    def _gap(self, now: float, wall: float) -> list[Transition]:
        s = self._s
        s.reset_history()
        if not self.settings.clear_on_gap:
            return []
        if s.event is not None:
            return [self._close("gap", now, wall)]
        return [self._enter("gap", wall, "normal")] if s.state == "warning" else []

    def _maintain(self, reason: str, now: float, wall: float, **who: Any) -> list[Transition]:
        s, begins = self._s, reason == "maintenance_on"
        if s.maintenance == begins:
            return []
        s.maintenance = begins
        if s.event is not None:
            return [self._close(reason, now, wall, **who)]
        s.reset_history()
        return [self._enter(reason, wall, "normal" if s.state == "warning" else None, **who)]

    def _test(self, wall: float, **who: Any) -> list[Transition]:
        """An alarm and its end as transitions only; the state stays.

        An open event is repeated after them: a receiver that keeps only the last message would lose it otherwise.
        """
        event, before = Event(id=self._new_id(wall), raised_wall=wall, peak=0.0), self._s.state
        start = self._enter("test", wall, "alarm", event=event, **who)
        end = self._enter("test_over", wall, before, event=event, **who)
        return [start, end] if self._s.event is None else [start, end, self._enter("goes_on", wall)]

    def _new_id(self, wall: float) -> str:
        self._s.last_id = min(max(int(1000 * wall), self._s.last_id + 1), LAST_ID)
        return make_event_id(self._s.last_id, self._random_bits)

    def _enter(self, reason: str, wall: float, state: State | None = None, **more: Any) -> Transition:
        """Enter `state` (None: stay) and return the numbered transition."""
        previous = self._s.state
        self._s.state = previous if state is None else state
        self._s.sequence += 1
        threshold = self.levels.on if self.levels else None
        return describe(self._s, previous, reason, wall, threshold, remark=self._remark, **more)
