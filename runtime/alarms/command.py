"""What people may ask of the alarm machine; parsed strictly, since it may come over a network."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeasd.runtime.alarms.event_id import PATTERN
from edgeasd.runtime.alarms.settings import first_problem
from edgeasd.runtime.errors import InputError

LONGEST_SNOOZE = 30 * 86_400.0
Kind = Literal["acknowledge", "snooze", "end_snooze", "maintenance_on", "maintenance_off", "clear", "test", "set_state"]
_Printable = r"^[^\x00-\x1f\x7f-\x9f]*$"


class Command(BaseModel):
    """One command. `event` restricts acknowledge and clear to that event, so that a late one hits no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    command: Kind
    event: Annotated[str, Field(pattern=PATTERN)] | None = None
    seconds: Annotated[float, Field(gt=0.0, le=LONGEST_SNOOZE, allow_inf_nan=False)] | None = None
    """For snooze: for so long."""
    until: Annotated[float, Field(ge=0.0, le=1e11, allow_inf_nan=False)] | None = None
    """For snooze, in place of `seconds`: seconds since 1970. Made into a duration at once: a clock step later on
    changes nothing."""
    state: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")] | None = None
    """For set_state: what the machine is doing, such as off, running or a mode. The operating state takes it as a tag."""
    by: Annotated[str, Field(max_length=64, pattern=_Printable)] | None = None
    note: Annotated[str, Field(max_length=500, pattern=_Printable)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Command:
        given = [name for name in ("seconds", "until") if getattr(self, name) is not None]
        if self.command == "snooze" and len(given) != 1:
            raise ValueError("snooze needs either seconds or until")
        if self.command != "snooze" and given:
            raise ValueError(f"{given[0]} is for snooze")
        if (self.state is None) == (self.command == "set_state"):
            raise ValueError("set_state needs a state, and nothing else takes one")
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


_LARGEST_PAYLOAD = 4096
_MOST_FIELDS, _LONGEST_NAME, _LONGEST_TEXT = 16, 32, 500
_EXAMPLE = 'send an object such as {"command": "acknowledge", "by": "anna"}'


def parse_payload(payload: bytes, place: str) -> Command:
    """A command from a flat JSON object that came over a network.

    Raises InputError with one line that names `place` for anything else: too long, not UTF-8, nested, NaN, a name
    given twice, an unknown command or field.
    """
    if len(payload) > _LARGEST_PAYLOAD:
        raise InputError(f"{place}: {len(payload)} bytes, at most {_LARGEST_PAYLOAD} are read; {_EXAMPLE}")
    try:
        value = json.loads(payload.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: not a JSON object with each name once; {_EXAMPLE}") from None
    if not isinstance(value, dict) or not 1 <= len(value) <= _MOST_FIELDS:
        raise InputError(f"{place}: not an object of 1 to {_MOST_FIELDS} fields; {_EXAMPLE}")
    for name, item in value.items():
        if not (0 < len(name) <= _LONGEST_NAME and name.isascii() and name.isidentifier()):
            raise InputError(f"{place}: a field has no plain name; {_EXAMPLE}")
        if not _is_plain(item):
            raise InputError(f"{place}: {name} is neither short text, number, true, false nor null; {_EXAMPLE}")
    return parse_command(value, place)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice")
    return value


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and all(c.isprintable() for c in value)
    if isinstance(value, int):
        return abs(value) < 2**53
    return value is None or (isinstance(value, float) and math.isfinite(value))
