"""What an output must be able to do, and how it says that it could not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One message in a queue. `text` is JSON without its number; machine and ID are "" in messages of the service."""

    kind: str
    machine: str
    id: str
    text: str
    event_sequence: int | None = None
    """Number of the transition in an event message."""
    position: int = 0
    sequence: int = 0


class DeliveryFailed(Exception):
    """The receiver could not be reached or did not confirm; the message stays and is sent again."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the receiver asks to be left alone."""


class MessageRefused(DeliveryFailed):
    """The receiver is there and will not have the first message that it has not confirmed."""


class Sink(Protocol):
    """One receiver. All but the properties and `remember` are called from one thread, which may wait in them."""

    batch: int
    """Messages that `deliver` is given at most."""

    @property
    def connected(self) -> bool | None:
        """See `OutputState.connected`."""

    @property
    def warning(self) -> str | None:
        """What is wrong although messages arrive."""

    def remember(self, entry: Entry) -> None:
        """Take in the last event of a machine, from before the start; it was delivered or is in the queue. Called
        from another thread, and must return at once."""

    def maintain(self) -> None:
        """Keep the connection while there is nothing to deliver. Raises DeliveryFailed."""

    def deliver(self, entries: Sequence[Entry], queue: str, confirm: Callable[[int], None]) -> None:
        """Send `entries` in order; `confirm(n)` says that the first n have arrived. Raises DeliveryFailed."""

    def close(self, seconds: float) -> None:
        """Leave in good order within `seconds`."""
