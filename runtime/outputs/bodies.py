"""What messages say: the body of each kind. See `messages` for the envelope."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeasd.runtime.outputs.state import OutputState

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
EventID = Annotated[str, Field(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
_Count = Annotated[int, Field(ge=0)]
_Number = float | None


class Part(BaseModel):
    """A part of a message; fields that nobody knows yet pass."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, populate_by_name=True)


class EventBody(Part):
    """One change of the alarm state of a machine, numbered without a hole."""

    schema_: Literal[1] = Field(alias="schema")
    type: Literal["alarm_state"]
    machine: Name
    id: Name
    sequence: Annotated[int, Field(ge=1, le=2**53 - 1)]
    """1, 2, 3, … for each machine, restarts included; not the `sequence` of the envelope."""
    event: EventID | None
    previous: str
    state: str
    """normal, warning, alarm, acknowledged or cleared."""
    reason: str
    at: Time
    raised_at: Time | None
    score: _Number
    threshold: _Number
    peak: _Number
    snoozed_seconds: float
    maintenance: bool
    frozen: bool
    test: bool
    by: str | None
    note: str | None


class ScoreBody(Part):
    """The clip scores of a span of time in a few numbers."""

    since: Time
    """When the span began."""
    count: Annotated[int, Field(ge=1)]
    """Segments scored in it."""
    last: _Number
    """The last clip score."""
    mean: _Number
    lowest: _Number
    highest: _Number
    threshold: _Number
    complete: bool
    """Whether the last clip score is a mean over all the segments it should be."""


class HealthBody(Part):
    """The health of an input: every state with its figure."""

    schema_: Literal[1] = Field(alias="schema")
    at_seconds: float
    """Seconds of sound since the monitor began."""
    sick: bool
    """Whether no alarm may come from the input: one of its states says so, or its source is not there."""
    sick_since_seconds: _Number
    level_dbfs: _Number
    states: dict[str, dict[str, Any]]
    """For each health state `active`, `since_seconds`, `value` and `unit`."""


class Latency(Part):
    """Seconds from the last sample of a segment to its score."""

    p50: _Number = None
    p95: _Number = None
    p99: _Number = None


class StatusBody(Part):
    """What a stream, or the service, is doing and with what. What is not known is left out or null."""

    state: str
    """starting, running, degraded, failed or stopped."""
    reason: str | None = None
    """Why it is in that state."""
    source: str | None = None
    engine: str | None = None
    accelerator: str | None = None
    precision: str | None = None
    version: str | None = None
    """Version of edgeasd."""
    uptime_seconds: Annotated[float, Field(ge=0)] | None = None
    segments: _Count | None = None
    """Segments scored since the start."""
    skipped_segments: _Count | None = None
    """Segments left out because scoring could not keep up, since the start."""
    dropped_seconds: Annotated[float, Field(ge=0)] | None = None
    """Sound lost before scoring, since the start."""
    overruns: _Count | None = None
    """Times at which the driver's own buffer ran over, since the start."""
    waiting_seconds: Annotated[float, Field(ge=0)] | None = None
    """Sound that waits to be scored."""
    latency_seconds: Latency | None = None
    level_dbfs: _Number = None
    outputs: list[OutputState] | None = None
    """The outputs of this box; in messages of the service only."""
