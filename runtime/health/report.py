"""The health of an input, as objects and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1

UNITS = {
    "digital_silence": "share of zeros",
    "silence": "dBFS",
    "clipping": "share of samples",
    "dc_offset": "dBFS",
    "stuck": "samples",
    "dropouts": "in 60 s",
    "level_low": "dBFS",
    "level_high": "dBFS",
}


@dataclass(frozen=True, slots=True)
class StateReport:
    """One health state. Times are seconds of sound since the monitor began, lost sound included."""

    active: bool
    since_seconds: float | None
    """When its cause began; None if it is not active."""
    value: float | None
    """The figure compared, in `unit`; None before there is one."""
    unit: str


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A state that began (`active`) or ended."""

    state: str
    active: bool
    at_seconds: float
    since_seconds: float
    """When its cause began; `at_seconds` is when that had lasted long enough."""
    value: float | None
    unit: str
    is_unhealthy: bool
    """Whether the input is unhealthy after this change."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the version of the schema."""
        values = asdict(self)
        values["sick"] = values.pop("is_unhealthy")
        return {"schema": SCHEMA, **values}


@dataclass(frozen=True, slots=True)
class HealthReport:
    """All states of one input at one moment."""

    at_seconds: float
    is_unhealthy: bool
    unhealthy_since_seconds: float | None
    level_dbfs: float | None
    """RMS of the last 10 s without the offset."""
    states: dict[str, StateReport]

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the states that are active."""
        return tuple(name for name, state in self.states.items() if state.active)

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the version of the schema."""
        return {
            "schema": SCHEMA,
            "at_seconds": self.at_seconds,
            "sick": self.is_unhealthy,
            "sick_since_seconds": self.unhealthy_since_seconds,
            "level_dbfs": self.level_dbfs,
            "states": {name: asdict(state) for name, state in self.states.items()},
        }
