"""Whether evidence can be kept: the health of the disk as far as evidence goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1
STATES = ("ok", "no_room", "failing", "stopped")


@dataclass(frozen=True, slots=True)
class EvidenceStatus:
    """The state of the evidence writer at one moment, and what was lost since it began."""

    state: str
    """`ok`; `no_room`: the disk is down to its floor; `failing`: writing fails; `stopped`: nobody writes."""
    since: float
    """Wall clock in seconds."""
    detail: str | None
    """What is wrong, one line."""
    clips: int
    """Clips that were finished."""
    lost_clips: int
    """Events without a clip, or with one that was broken off."""
    lost_samples: int
    """Sound that did not come to the disk in time; silence stands in its place."""
    deleted: int
    """Events whose evidence was deleted, by age, size or for room."""

    @property
    def sick(self) -> bool:
        """Whether evidence is being lost."""
        return self.state != "ok"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the version of the schema."""
        return {"schema": SCHEMA, "type": "evidence_status", **asdict(self)}
