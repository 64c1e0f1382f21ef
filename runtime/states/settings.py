"""The `states` table of a stream: how the operating state of its machine is known. docs/how-to/off-and-modes.md."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgeasd.runtime.states.schedule import Schedule

OFF, IDLE, RUNNING = "off", "idle", "running"
STATE_NAME = r"^[a-z0-9][a-z0-9_-]{0,31}$"
"""Of a state or mode: it stands in file names, topics and metrics."""

OFF_MARGIN_DB = 4.0
"""Below the quietest recordings; hall noise of a machine that is off lies 10 dB and more below them."""

_Dbfs = Annotated[float, Field(ge=-120.0, le=0.0, allow_inf_nan=False)]
_Decibels = Annotated[float, Field(gt=0.0, le=60.0, allow_inf_nan=False)]
_State = Annotated[str, Field(pattern=STATE_NAME)]


class OperationSettings(BaseModel):
    """How the operating state is known: from a tag of the plant, else the schedule, else the level, else the sound."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    level: bool = True
    """Whether the level tells that the machine is off."""
    off_below_dbfs: _Dbfs | None = None
    """Off below this level of 10 s; by default `off_margin_db` below the quietest recordings of the bundle."""
    off_margin_db: _Decibels = OFF_MARGIN_DB
    """How far below the quietest recordings the machine counts as off."""
    idle_below_dbfs: _Dbfs | None = None
    """Idle below this level and not off; no level tells it by default."""
    schedule: Annotated[tuple[str, ...], Field(strict=False, max_length=64)] = ()
    """Shifts, such as "Mon-Fri 06:00-22:00", in local time. Outside of all of them the machine is off."""
    timezone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Zone of the schedule, such as Europe/Berlin; that of the device by default."""
    tag_topic: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^+#\x00-\x1f]+$")] | None = None
    """MQTT topic of the plant that says the state, read through every mqtt output."""
    tag_field: Annotated[str, Field(min_length=1, max_length=64)] = "value"
    """Field of a tag that is a JSON object."""
    tag_values: Annotated[dict[str, _State], Field(max_length=64)] = {}
    """What values of the tag mean, such as { "0" = "off", "1" = "running" }; others are taken as they are."""
    tag_seconds: Annotated[float, Field(gt=0.0, le=1e8, allow_inf_nan=False)] | None = None
    """A tag that was not repeated for so long is stale, and the next source decides; by default it holds."""
    sound: bool = True
    """Whether the sound tells which of the recorded modes the machine is in."""
    confirm_seconds: Annotated[float, Field(ge=0.0, le=3600.0, allow_inf_nan=False)] = 15.0
    """An alarm waits for so long, because it takes 10 s until a stop or another mode is known."""
    grace_seconds: Annotated[float, Field(ge=0.0, le=86_400.0, allow_inf_nan=False)] = 30.0
    """After a start no alarm is raised for so long."""
    silent_hours: Annotated[float, Field(gt=0.0, le=100_000.0, allow_inf_nan=False)] = 72.0
    """After so long without any sound at all, a machine that is off by its level counts as a dead microphone."""
    gain: Literal["name", "follow", "ignore"] = "name"
    """When the level moves and the spectrum keeps its shape. name: say so. follow: also undo it in the features."""
    gain_db: _Decibels = 4.0
    """A level that moved by more than this is named."""

    @field_validator("tag_values")
    @classmethod
    def _plain_values(cls, value: dict[str, str]) -> dict[str, str]:
        return {key.strip().lower(): state for key, state in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> OperationSettings:
        self.shifts()
        off, idle = self.off_below_dbfs, self.idle_below_dbfs
        if off is not None and idle is not None and idle <= off:
            raise ValueError(f"idle_below_dbfs {idle:g} > off_below_dbfs {off:g} does not hold")
        return self

    def shifts(self) -> Schedule | None:
        """The schedule; None without one. Raises ValueError for a shift or a zone that is none."""
        if not self.schedule:
            return None
        return Schedule.parse(self.schedule, self.timezone)
