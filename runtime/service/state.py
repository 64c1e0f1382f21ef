"""How a site and its streams are doing at one moment: what views, status messages and a dashboard read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.state import OutputState

STATES = ("starting", "running", "degraded", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream. Counts and sums are since it started."""

    name: str
    machine: str
    id: str
    state: str
    """One of STATES."""
    reason: str | None
    """Why it is not simply running."""
    source: str
    engine: str | None
    accelerator: str | None
    precision: str | None
    level_dbfs: float
    clip_score: float | None
    complete: bool
    """Whether the clip score is a mean over all the segments it should be."""
    threshold: float | None
    trace: list[float]
    """The latest clip scores, oldest first."""
    sick: bool
    health: tuple[str, ...]
    """Health states that are active."""
    alarm: str
    """State of the alarm machine."""
    event: str | None
    """ID of the open event."""
    maintenance: bool
    snoozed: bool
    segments: int
    skipped_segments: int
    keep_every: int
    """Only each so many-th segment is scored; 1 where scoring keeps up."""
    waiting_seconds: float
    """Sound in the ring."""
    dropped_seconds: float
    """Sound that was lost, in the ring or at the source."""
    overruns: int
    latency_seconds: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class SiteState:
    """The whole service."""

    site: str
    uptime_seconds: float
    streams: list[StreamState]
    outputs: list[OutputState] = field(default_factory=list)
    waiting_results: int = 0
    """Scores that wait for alarms and the event store."""
    lost_lines: int = 0
    """Lines that nobody read from --jsonl in time."""
    trouble: str | None = None
    """What is wrong with the service itself, such as a full disk."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "outputs": [one.model_dump() for one in self.outputs]}


def read_state(value: Any) -> SiteState:
    """What `SiteState.to_json` made, as the command socket answers. Raises InputError for anything else."""
    try:
        streams = [StreamState(**{**one, "health": tuple(one["health"])}) for one in value["streams"]]
        outputs = [OutputState.model_validate(one) for one in value["outputs"]]
        return SiteState(**{**value, "streams": streams, "outputs": outputs})
    except (TypeError, KeyError, ValueError):
        raise InputError(
            "state of the service: not as this edgeasd knows it; use the edgeasd that the service runs with"
        ) from None
