"""The state of the service and its streams at one moment: for the live view, status messages and `edgeasd status`."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.base import OutputState
from edgeasd.runtime.system.version import package_version

STATES = ("starting", "running", "degraded", "failed", "stopped")
_MESSAGE_FIELDS = (
    *("state", "reason", "source", "engine", "accelerator", "precision", "segments", "skipped_segments"),
    *("dropped_seconds", "overruns", "waiting_seconds", "latency_seconds", "level_dbfs"),
)
_LATENCIES_KEPT = 2000


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One stream. Counts and sums are since it started."""

    name: str
    machine: str
    id: str
    state: str
    """One of STATES."""
    reason: str | None
    """Why it is not running."""
    source: str
    engine: str | None
    accelerator: str | None
    precision: str | None
    level_dbfs: float
    clip_score: float | None
    complete: bool
    """Whether the clip score is a mean over all its segments."""
    threshold: float | None
    score_history: list[float]
    """The latest clip scores, oldest first."""
    unhealthy: bool
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
    decimation: int
    """Only every so many-th segment is scored; 1 if scoring keeps up."""
    seconds: float
    """Sound so far, lost sound included."""
    waiting_seconds: float
    """Sound that waits to be scored."""
    dropped_seconds: float
    """Sound that was lost, in the queue or at the source."""
    overruns: int
    latency_seconds: dict[str, float] | None
    events: int = 0
    """Alarms raised."""
    operating_state: str | None = None
    """What the machine is doing: running, off, idle or a mode; None where nothing tells it."""
    operating_source: str | None = None
    """Who knows it: tag, schedule, level, sound or default."""
    operating_phase: str | None = None
    """starting, in the time of grace after a start or a change of mode; else None."""
    operating_seconds: dict[str, float] = field(default_factory=dict)
    """How long the machine was in each state."""
    notices: tuple[str, ...] = ()
    """What a person should know, a line each: a stale tag, another gain than in the recordings."""
    highest: tuple[float, float] | None = None
    """The highest complete clip score, and the second of the sound in which it ends."""
    burn_in: str | None = None
    """Where a learning period or the threshold from it stands, in one line; None without one."""

    def message_body(self) -> dict[str, Any]:
        """The body of a status message."""
        body = {name: getattr(self, name) for name in _MESSAGE_FIELDS}
        if self.operating_state is not None:
            names = ("operating_state", "operating_source", "operating_phase", "operating_seconds")
            body |= {name: getattr(self, name) for name in names}
        return {**body, "notices": list(self.notices)} if self.notices else body


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The whole service."""

    site: str
    uptime_seconds: float
    streams: list[StreamStatus]
    outputs: list[OutputState] = field(default_factory=list)
    waiting_updates: int = 0
    """Scores that wait for alarms and the event store."""
    lost_lines: int = 0
    """Lines of --jsonl that were left out because their reader was slow."""
    problem: str | None = None
    """What is wrong with the service itself, such as a full disk."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "outputs": [output.model_dump() for output in self.outputs]}

    def message_body(self) -> dict[str, Any]:
        """The body of the status message of the service itself."""
        degraded = self.problem is not None or any(one.state in ("degraded", "failed") for one in self.streams)
        return {
            "state": "degraded" if degraded else "running",
            "reason": self.problem,
            "version": package_version(),
            "uptime_seconds": self.uptime_seconds,
            "outputs": [output.model_dump() for output in self.outputs],
        }


def parse_status(value: Any) -> ServiceStatus:
    """What `ServiceStatus.to_json` made, as the command socket answers. Raises InputError for anything else."""
    try:
        streams = [
            StreamStatus(
                **{
                    **one,
                    **{name: tuple(one[name]) for name in ("health", "notices")},
                    "highest": _pair(one.get("highest")),
                }
            )
            for one in value["streams"]
        ]
        outputs = [OutputState.model_validate(one) for one in value["outputs"]]
        return ServiceStatus(**{**value, "streams": streams, "outputs": outputs})
    except (TypeError, KeyError, ValueError):
        raise InputError(
            "status of the service: not as this edgeasd knows it; use the edgeasd that the service runs with"
        ) from None


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


class Latencies:
    """Seconds from the last sample of a segment to its score, of the latest segments."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_LATENCIES_KEPT)

    def add(self, seconds: float) -> None:
        """Add one."""
        self._last.append(seconds)

    def percentiles(self) -> dict[str, float] | None:
        """p50, p95 and p99 (nearest rank) in seconds; None without any."""
        ordered = sorted(self._last.copy())
        if not ordered:
            return None
        ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
        return {name: round(ordered[min(len(ordered) - 1, int(p * len(ordered)))], 6) for name, p in ranks.items()}
