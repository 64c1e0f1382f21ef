"""What people may ask of the alarm machine; parsed strictly, since it may come over a network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.runtime.alarms.event_id import PATTERN
from edgeasd.runtime.alarms.settings import first_problem
from edgeasd.runtime.errors import InputError

LONGEST_SNOOZE = 30 * 86_400.0
Kind = Literal["acknowledge", "snooze", "end_snooze", "maintenance_on", "maintenance_off", "clear", "test"]
_Printable = r"^[^\x00-\x1f\x7f-\x9f]*$"


class Command(BaseModel):
    """One command. `event` restricts acknowledge and clear to that event, so that a late one hits no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    command: Kind
    event: Annotated[str, Field(pattern=PATTERN)] | None = None
    seconds: Annotated[float, Field(gt=0.0, le=LONGEST_SNOOZE, allow_inf_nan=False)] | None = None
    """For snooze: for so long."""
    until: Annotated[float, Field(ge=0.0, le=1e11, allow_inf_nan=False)] | None = None
    """For snooze, in place of `seconds`: seconds since 1970. Made into a duration at once: a clock step later on
    changes nothing."""
    by: Annotated[str, Field(max_length=64, pattern=_Printable)] | None = None
    note: Annotated[str, Field(max_length=500, pattern=_Printable)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Command:
        given = [name for name in ("seconds", "until") if getattr(self, name) is not None]
        if self.command == "snooze" and len(given) != 1:
            raise ValueError("snooze needs either seconds or until")
        if self.command != "snooze" and given:
            raise ValueError(f"{given[0]} is for snooze")
        if self.event is not None and self.command not in ("acknowledge", "clear"):
            raise ValueError("event is for acknowledge and clear")
        return self

    def snooze_seconds(self, wall: float) -> float:
        """How long a snooze given at `wall` lasts. Raises InputError for an `until` that is past or too far."""
        if self.seconds is not None:
            return self.seconds
        assert self.until is not None
        left = self.until - wall
        if not 0 < left <= LONGEST_SNOOZE:
            raise InputError(
                f"snooze until {self.until:.0f}: {left:.0f} s from now; give a time within the next "
                f"{LONGEST_SNOOZE / 86_400:.0f} days"
            )
        return left


def parse_command(value: Any, place: str) -> Command:
    """A command from plain data. Raises InputError with one line that names `place`."""
    try:
        return Command.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{place}: {first_problem(error, 'command')}; see the list of commands") from None
