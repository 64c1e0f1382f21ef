"""What an output must offer, how it reports its state, and the errors it raises."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class OutputMessage:
    """One message as an output sends it."""

    seq: int
    """Its number in the outbox."""
    kind: str
    machine: str | None
    """None in messages of the service itself."""
    id: str | None
    text: str
    """The whole message as one line of JSON, numbered."""
    store: str
    """Id of the outbox that numbers it."""

    @property
    def body(self) -> dict[str, Any]:
        """The parsed body; empty without one."""
        body = json.loads(self.text).get("body")
        return body if isinstance(body, dict) else {}


class DeliveryError(Exception):
    """The receiver cannot be reached or did not confirm. The message is sent again."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the receiver asks to wait."""


class MessageRejected(DeliveryError):
    """The receiver answers, and rejects the first message that is not confirmed."""


class Output(Protocol):
    """One receiver. `deliver`, `maintain` and `close` are called by one thread and may block."""

    batch: int
    """The most messages that `deliver` takes at once."""

    @property
    def connected(self) -> bool | None:
        """See `OutputState.connected`."""

    @property
    def warning(self) -> str | None:
        """What is wrong although messages arrive."""

    def maintain(self) -> None:
        """Keep the connection while there is nothing to deliver. Raises DeliveryError."""

    def deliver(self, messages: Sequence[OutputMessage], confirm: Callable[[int], None]) -> None:
        """Send `messages` in order. `confirm(n)` says that the first n have arrived. Raises DeliveryError."""

    def close(self, seconds: float) -> None:
        """Disconnect within `seconds`."""


class OutputState(BaseModel):
    """One output at one moment. Counts are since the start of the process."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    type: str
    """jsonl, mqtt, webhook or prometheus."""
    connected: bool | None
    """Whether the last attempt reached the receiver; null before the first, and for prometheus."""
    queued: int = 0
    """Messages in the outbox that the receiver has not confirmed."""
    queued_bytes: int = 0
    """Their size."""
    oldest_seconds: float = 0.0
    """Age of the oldest of them."""
    delivered: int = 0
    """Messages that the receiver confirmed."""
    failed: int = 0
    """Attempts that failed. Each is repeated."""
    dropped: dict[str, int] = {}
    """Messages given up, by kind: too many, too old, or rejected for good."""
    last_error: str | None = None
    last_error_at: str | None = None
    """Wall clock, ISO 8601 in UTC."""
