"""The state of an alarm machine, as one object that can be stored and restored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.runtime.alarms.command import LONGEST_SNOOZE
from edgeasd.runtime.alarms.event_id import PATTERN
from edgeasd.runtime.alarms.settings import first_problem
from edgeasd.runtime.errors import InputError

SCHEMA = 1
LATEST_WALL = 1e11
"""The year 5138: later, and the milliseconds of an ID would overflow."""

LAST_ID = 2**47

State = Literal["normal", "warning", "alarm", "acknowledged", "cleared"]
_FURTHEST = 1e12
_Time = Annotated[float, Field(ge=-_FURTHEST, le=_FURTHEST, allow_inf_nan=False)]
_Row = Annotated[list[bool], Field(max_length=100_000)]
_Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
_Name = Annotated[str, Field(min_length=1, max_length=64)]


class Event(BaseModel):
    """The open event."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    id: Annotated[str, Field(pattern=PATTERN)]
    raised_wall: Annotated[float, Field(ge=0.0, le=LATEST_WALL)]
    peak: Annotated[float, Field(allow_inf_nan=False)]
    raised_time: _Time | None = None
    """When it was raised, by the clock that is passed in; None for one that an earlier edgeasd raised."""


class ThresholdCounter(BaseModel):
    """The last clip scores beside one pair of thresholds."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    above: _Row = Field(default_factory=list)
    """Which of the last n lay above the upper threshold, oldest first."""
    quiet: _Count = 0
    """Scores in a row at or below the lower one."""

    def add(self, score: float, on: float, off: float, n: int) -> None:
        """Add a score."""
        self.above.append(score > on)
        del self.above[:-n]
        self.quiet = self.quiet + 1 if score <= off else 0


class MachineState(BaseModel):
    """Instants are readings of the clock that is passed in; all but `snoozed_until` lie in the past."""

    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    machine: _Name
    id: _Name
    sequence: _Count = 0
    state: State = "normal"
    event: Event | None = None
    time: _Time | None = None
    cleared_at: _Time | None = None
    held_since: _Time | None = None
    """Since when the condition for an alarm has held."""
    unhealthy_at: Annotated[_Time | None, Field(alias="sick_at")] = None
    """When the input was last unhealthy; None once it has recovered. Stored as `sick_at`."""
    snoozed_until: _Time | None = None
    maintenance: bool = False
    alarm: ThresholdCounter = Field(default_factory=ThresholdCounter)
    warning: ThresholdCounter = Field(default_factory=ThresholdCounter)
    operating_state: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """What the machine was last known to do. Left out where nothing tells it, as an earlier edgeasd reads it."""
    last_id: Annotated[int, Field(ge=0, le=LAST_ID)] = 0
    """Milliseconds of the last event ID, so that IDs rise even if the wall clock was set back."""

    @model_validator(mode="after")
    def _possible(self) -> MachineState:
        raised = None if self.event is None else self.event.raised_time
        instants = [self.cleared_at, self.held_since, self.unhealthy_at, raised, self.snoozed_until]
        if self.time is None and any(instant is not None for instant in instants):
            raise ValueError("there are instants, but no time")
        now = self.time or 0.0
        if any(instant is not None and instant > now for instant in instants[:4]):
            raise ValueError("an instant lies in the future")
        if self.snoozed_until is not None and self.snoozed_until > now + LONGEST_SNOOZE + 1:
            raise ValueError("snoozed for longer than is possible")
        if (self.event is not None) != (self.state in ("alarm", "acknowledged")):
            raise ValueError(f"state {self.state} does not go with {'an' if self.event else 'no'} open event")
        if (self.cleared_at is not None) != (self.state == "cleared"):
            raise ValueError(f"state {self.state} does not go with its cleared_at")
        if self.maintenance and self.event is not None:
            raise ValueError("an event is open during maintenance")
        if self.snoozed_until is not None and self.state == "alarm":
            raise ValueError("an alarm that nobody has acknowledged is snoozed")
        return self

    def reset_history(self) -> None:
        """Forget the scores so far: the next one is the first."""
        self.alarm, self.warning, self.held_since = ThresholdCounter(), ThresholdCounter(), None

    def move_clock(self, shift: float) -> None:
        """Add `shift` to every instant: the clock has begun anew."""
        for name in ("time", "cleared_at", "held_since", "unhealthy_at", "snoozed_until"):
            if (instant := getattr(self, name)) is not None:
                setattr(self, name, max(-_FURTHEST, instant + shift))
        if self.event is not None and self.event.raised_time is not None:
            self.event.raised_time = max(-_FURTHEST, self.event.raised_time + shift)


def dump_state(state: MachineState) -> dict[str, Any]:
    """The state as plain JSON values."""
    values = state.model_dump(mode="json", by_alias=True)
    if state.operating_state is None:
        del values["operating_state"]
    return {"schema": SCHEMA, **values}


def parse_state(value: Any, place: str) -> MachineState:
    """What `dump_state` gave. Raises InputError with one line for anything else."""
    remedy = "remove it, and the machine begins as new"
    if not isinstance(value, dict):
        raise InputError(f"{place}: holds {type(value).__name__}, expected an alarm state; {remedy}")
    version = value.get("schema")
    if type(version) is not int or version != SCHEMA:
        raise InputError(f"{place}: schema {str(version)[:40]!r}, this edgeasd reads {SCHEMA}; {remedy}")
    try:
        return MachineState.model_validate({key: item for key, item in value.items() if key != "schema"})
    except ValidationError as error:
        raise InputError(f"{place}: {first_problem(error, 'alarm state')}; {remedy}") from None
