"""What a stream reports to the event recorder: scores, gaps, health, and the passing of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeasd.runtime.health import HealthReport
from edgeasd.runtime.outputs.messages import RecordKind
from edgeasd.runtime.states import OperatingState


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """The state of one stream at one moment. One follows every score, and one comes each second without any."""

    stream: str
    time: float
    """Seconds on a clock that never runs backwards: of capture for live sound, of the sound itself for files."""
    wall: float
    """Seconds since 1970, for messages."""
    clip_score: float | None = None
    is_complete: bool = False
    """Whether the clip score is a mean over all its segments."""
    is_unhealthy: bool = False
    is_suspect: bool = False
    """Whether the input may be unhealthy; no alarm is raised meanwhile."""
    has_gap: bool = False
    """Whether sound was lost just before."""
    position: int | None = None
    """Sample of the source before which the score ends."""
    window_seconds: float | None = None
    """Seconds of sound that the clip score covers."""
    health: HealthReport | None = None
    """Given when a health state began or ended."""
    operation: OperatingState | None = None
    """What the machine is doing; None where nothing tells it."""
    level_dbfs: float | None = None
    """Level of the last 10 s."""
    remark: str | None = None
    """What else is known about the sound, such as another gain."""
    record: tuple[RecordKind, dict[str, Any]] | None = None
    """Kind and body of the line for --jsonl that goes with it."""
    may_drop: bool = False
    """Whether that line may be left out when its reader is slow."""
