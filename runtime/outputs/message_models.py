"""The models of the messages: what `docs/schemas/` and docs/reference/messages.md are made from.

A module of its own, imported when the first message is checked: `run` without outputs checks none.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edgeasd.runtime.outputs.base import OutputState

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
EventID = Annotated[str, Field(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0)]
_Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True, defer_build=True)


# Bodies


class EventBody(_Part):
    """One transition of the alarm state of a machine."""

    machine: Name
    """Machine type."""
    id: Name
    """ID of the machine."""
    sequence: Annotated[int, Field(ge=1, le=2**53 - 1)]
    """1, 2, 3, … for each machine, restarts included; it never repeats, and jumps if the disk refused or events were
    lost. Not the `seq` of the envelope."""
    event: EventID | None
    """ID of the event that is open, or was closed by this transition."""
    previous: str
    """The state before."""
    state: str
    """normal, warning, alarm, acknowledged or cleared."""
    reason: str
    """What caused it, such as score, acknowledged or input_unhealthy; docs/reference/alarms.md lists all."""
    at: Time
    """Wall clock of the device, UTC."""
    raised_at: Time | None
    """When the event was raised."""
    score: _Number
    """The clip score that decided; null if no score did."""
    threshold: _Number
    """The threshold in force."""
    peak: _Number
    """The highest clip score of the event."""
    snoozed_seconds: float
    """How much longer alarms are snoozed."""
    maintenance: bool
    """Whether the machine is in maintenance mode."""
    suspended: bool
    """Whether scores are not used, because the input is or was just now unhealthy."""
    test: bool
    """Whether it is a test."""
    by: str | None
    """Who gave the command."""
    note: str | None
    """Note of the command."""
    operating_state: str | None = None
    """What the machine is doing: running, off, idle or a mode. Left out where nothing tells it."""
    remark: str | None = None
    """What else is known about the sound, such as another gain than in the recordings."""
    lasted_seconds: _Seconds | None = None
    """How long the event has lasted so far, by a clock that nobody sets; without the time that the device was off. Left
    out without an event and for tests."""


class ScoreBody(_Part):
    """The clip scores of a span of time in a few numbers."""

    since: Time
    """When the span began."""
    count: Annotated[int, Field(ge=1)]
    """Segments scored in it."""
    last: _Number
    """The last clip score."""
    mean: _Number
    """Mean of the clip scores."""
    lowest: _Number
    """The lowest one."""
    highest: _Number
    """The highest one."""
    threshold: _Number
    """The threshold in force."""
    complete: bool
    """Whether the last clip score is a mean over all the segments it should be."""
    operating_state: str | None = None
    """What the machine was doing at the last one. Left out where nothing tells it."""
    judged: bool | None = None
    """Whether the last one was judged: not while the machine is off, idle or starting."""


class HealthBody(_Part):
    """The health of an input: every health state with its value."""

    at_seconds: float
    """Seconds of sound since the monitor began."""
    unhealthy: bool
    """Whether the input cannot be trusted, or is not there. No alarm is raised meanwhile."""
    unhealthy_since_seconds: _Number
    """Since when, in seconds of sound."""
    level_dbfs: _Number
    """RMS level in decibels relative to full scale."""
    states: dict[str, dict[str, Any]]
    """For each health state `active`, `since_seconds`, `value` and `unit`."""


class Latency(_Part):
    """Seconds from the last sample of a segment to its score."""

    p50: _Number = None
    """Median."""
    p95: _Number = None
    """95th percentile."""
    p99: _Number = None
    """99th percentile."""


class StatusBody(_Part):
    """What a stream, or the service, is doing and with what. What is not known is left out or null.

    Counts and sums are since the start.
    """

    state: str
    """starting, running, degraded, failed or stopped."""
    reason: str | None = None
    """Why it is in that state."""
    source: str | None = None
    """The source in use."""
    engine: str | None = None
    """The engine in use."""
    accelerator: str | None = None
    """Where the engine computes: cpu or a GPU."""
    precision: str | None = None
    """The precision in use."""
    bundle_status: str | None = None
    """Status of the bundle, such as calibrated or uncalibrated."""
    threshold: _Number = None
    """Clip scores above it are suspicious; null if no alarm can be raised."""
    alpha: _Number = None
    """Weight of the classifier in the score."""
    d_mode: str | None = None
    """How d_min and d_max were found: deploy or paper."""
    version: str | None = None
    """Version of edgeasd."""
    uptime_seconds: _Seconds | None = None
    """Since the service started."""
    segments: _Count | None = None
    """Segments scored."""
    skipped_segments: _Count | None = None
    """Segments left out because scoring could not keep up."""
    decimation: Annotated[int, Field(ge=1)] | None = None
    """Only every so many-th segment is scored; 1 while scoring keeps up."""
    samples: _Count | None = None
    """Length of the sound in samples, lost ones included."""
    seconds: _Seconds | None = None
    """The same in seconds."""
    dropped_samples: _Count | None = None
    """Samples dropped because scoring could not keep up."""
    lost_samples: _Count | None = None
    """Samples known to be lost at the source."""
    dropped_seconds: _Seconds | None = None
    """Sound lost before scoring, in the queue or at the source."""
    overruns: _Count | None = None
    """Times that the buffer of the driver ran over. How much was lost is not known."""
    reconnects: _Count | None = None
    """Times that the source was opened again."""
    waiting_seconds: _Seconds | None = None
    """Sound that waits to be scored."""
    latency_seconds: Latency | None = None
    """From the last sample of a segment to its score."""
    level_dbfs: _Number = None
    """RMS level in decibels relative to full scale."""
    operating_state: str | None = None
    """What the machine is doing: running, off, idle or a mode. Left out where nothing tells it."""
    operating_source: str | None = None
    """Who knows it: tag, schedule, level, sound or default."""
    operating_phase: str | None = None
    """starting, in the time of grace after a start or a change of mode: no alarm is raised meanwhile."""
    operating_seconds: dict[str, float] | None = None
    """How long the machine was in each state."""
    notices: list[str] | None = None
    """What a person should know, a line each: a stale tag, another gain than in the recordings. Left out where nothing is."""
    outputs: list[OutputState] | None = None
    """The outputs of this device; only in messages of the service."""


class TrendBody(_Part):
    """A change of the normal sound of a machine over days or weeks. Nothing learns from it by itself."""

    quantity: Literal["score", "level", "spread"]
    """What changed: the mean of the scores, the level of the sound, or the standard deviation of the scores."""
    shape: Literal["step", "slope"]
    """From one day to the next, or slowly."""
    mode: str
    """The mode of the machine; empty if it has none."""
    began: Time
    """When it began, to about eight hours of sound."""
    found: Time
    """When there was enough sound to say so."""
    ended: Time | None
    """When it was again as before; null while it lasts."""
    before: float
    """A score, a level in dBFS, or a standard deviation, before it began."""
    after: float
    """The same afterwards."""
    text: str
    """The change in words."""
    remedy: str
    """What to do if the machine is known to be well."""


class SegmentBody(_Part):
    """One scored segment. Positions are samples since the sound began."""

    index: _Count
    """0, 1, 2, … since the last gap."""
    start_sample: _Count
    """The first sample."""
    end_sample: _Count
    """One past the last sample."""
    end_seconds: float
    """The same in seconds."""
    score: _Number
    """Score of the segment: alpha q + (1 - alpha) d_prime."""
    clip_score: _Number
    """Mean over the last `averaged` segments."""
    averaged: Annotated[int, Field(ge=1)]
    complete: bool
    """Whether the clip score is a mean over all the segments it should be."""
    q: _Number
    """Probability of not normal, by the classifier."""
    d: _Number
    """Distance of the embedding."""
    d_prime: _Number
    """Distance relative to d_min and d_max."""
    logit: _Number
    """Output of the classifier before the sigmoid."""
    threshold: _Number
    """The threshold of the bundle."""
    above_threshold: bool | None
    """Whether the clip score is complete and above the threshold; null without a threshold."""
    operating_state: str | None = None
    """What the machine is doing. Left out where nothing tells it."""
    judged: bool | None = None
    """Whether the score is judged: not while the machine is off, idle or starting."""


class GapBody(_Part):
    """Sound was lost. No segment spans the gap."""

    at_sample: int
    """Where the sound before it ended."""
    lost_samples: int
    """How much is known to be lost."""
    driver_overrun: bool
    """Whether the driver lost an unknown amount."""


class SourceBody(_Part):
    """The source was lost, came back, or went on with another file."""

    state: str
    """lost, reopened, playing, skipped, wrong_rate or right_rate."""
    detail: str
    """Why, or which file."""
    at_sample: int | None
    """Where in the sound; null if it is not known."""
    lost_seconds: float
    """How long it was away."""


# Messages


class Message(_Part):
    """The envelope. Messages of outputs also have `store`, `seq` and `stored`."""

    schema_: Literal[2] = Field(alias="schema")
    """Version of the schema."""
    store: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None
    """The outbox that numbers these messages. A new one begins at 1. Only in messages of outputs."""
    seq: Annotated[int, Field(ge=1)] | None = None
    """Number of the message in its store; it rises. A number that came before is a resend. Only in messages of
    outputs."""
    stored: bool | None = None
    """false if the disk refused the message: a crash may lose it. Only in messages of outputs."""
    site: Name | None
    """Name of the site; null in records of `score --live`, and of `run` without a site file."""
    machine: Name | None
    """Machine type; null in messages of the service itself."""
    id: Name | None
    """ID of the machine."""
    event: EventID | None
    """ID of the event that is open, or was closed by this message."""
    at: Time | None
    """Wall clock of the device, UTC; null in records of `score --live`."""


class EventMessage(Message):
    """A change of alarm state."""

    kind: Literal["event"]
    machine: Name
    id: Name
    body: EventBody


class ScoreMessage(Message):
    """A summary of clip scores, every so many seconds."""

    kind: Literal["score"]
    body: ScoreBody


class HealthMessage(Message):
    """The health of an input, when it changes."""

    kind: Literal["health"]
    body: HealthBody


class TrendMessage(Message):
    """The normal sound of a machine changed, or is again as before."""

    kind: Literal["trend"]
    machine: Name
    id: Name
    body: TrendBody


class StatusMessage(Message):
    """What a stream or the service is doing: `start` first, `stop` last, `status` between."""

    kind: Literal["status", "start", "stop"]
    body: StatusBody


class SegmentMessage(Message):
    """One scored segment. Only in records."""

    kind: Literal["segment"]
    machine: Name
    id: Name
    body: SegmentBody


class GapMessage(Message):
    """Lost sound. Only in records."""

    kind: Literal["gap"]
    body: GapBody


class SourceMessage(Message):
    """A change of the source. Only in records."""

    kind: Literal["source"]
    body: SourceBody


MODELS: dict[str, type[Message]] = {
    "event": EventMessage,
    "score": ScoreMessage,
    "health": HealthMessage,
    "trend": TrendMessage,
    "status": StatusMessage,
    "segment": SegmentMessage,
    "gap": GapMessage,
    "source": SourceMessage,
}
"""By the name of their schema file; that of `status` is for `start` and `stop` too."""


@cache
def any_output() -> TypeAdapter[Any]:
    """Checks a message of any kind that outputs send."""
    return TypeAdapter(
        Annotated[
            EventMessage | ScoreMessage | HealthMessage | TrendMessage | StatusMessage, Field(discriminator="kind")
        ]
    )
