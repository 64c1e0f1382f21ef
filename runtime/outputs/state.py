"""How an output is doing, for status messages and metrics."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class OutputState(BaseModel):
    """One output at one moment. Counts are since the start of the process, unless they say otherwise."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    type: str
    """jsonl, mqtt, webhook or prometheus."""
    connected: bool | None
    """Whether the last attempt reached the receiver; null before the first, and where there is nothing to reach."""
    queued: int = 0
    """Messages on disk or on their way there that the receiver has not confirmed."""
    queued_bytes: int = 0
    oldest_seconds: float = 0.0
    """Age of the oldest of them, counted while the service ran."""
    delivered: int = 0
    """Messages that the receiver confirmed."""
    failed: int = 0
    """Attempts that failed; each is made again."""
    dropped: dict[str, int] = {}
    """Messages given up, by kind, since the queue was made: full, too old, or refused for good."""
    last_error: str | None = None
    last_error_at: str | None = None
    """Wall clock, ISO 8601 in UTC."""
