"""Whether each output has delivered what a command said, or why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeasd.runtime.config import ServiceConfig
from edgeasd.runtime.outputs.state import OutputState

States = Callable[[], Sequence[OutputState] | None]
"""How the outputs are doing now; None where nobody can say any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the messages of one output."""

    output: str
    delivered: bool | None
    """None where this output is sent no events."""
    waiting: int
    """Messages that wait, others before them included."""
    said: str
    """One line for people, without the name."""


def await_delivery(
    site: ServiceConfig, before: Sequence[OutputState], states: States, seconds: float
) -> list[Delivery]:
    """Wait until no output has anything waiting, for `seconds` at the most.

    `before` is how the outputs were before the command: what was given up since then was not delivered.
    """
    until, found = time.monotonic() + seconds, list(before)
    given_up = {one.name: sum(one.dropped.values()) for one in before}
    settled: dict[str, Delivery] = {}
    while (now := states()) is not None:
        found = list(now)
        for one in found:
            if one.name not in settled and not one.queued:
                settled[one.name] = _settled(site, one, given_up.get(one.name, 0))
        if len(settled) == len(found) or time.monotonic() >= until:
            break
        time.sleep(0.1)
    return [settled.get(one.name) or _waiting(site, one) for one in found]


def _settled(site: ServiceConfig, one: OutputState, given_up: int) -> Delivery:
    if (silent := _sent_nothing(site, one)) is not None:
        return silent
    if sum(one.dropped.values()) > given_up:
        return Delivery(one.name, False, 0, f"NOT delivered, given up{_error(one)}")
    return Delivery(one.name, True, 0, "delivered")


def _waiting(site: ServiceConfig, one: OutputState) -> Delivery:
    waits = f"NOT delivered, {one.queued} {'waits' if one.queued == 1 else 'wait'}{_error(one)}"
    return _sent_nothing(site, one) or Delivery(one.name, False, one.queued, waits)


def _sent_nothing(site: ServiceConfig, one: OutputState) -> Delivery | None:
    if one.type == "prometheus":
        return Delivery(one.name, None, 0, "is read by others, nothing is sent")
    settings = site.outputs.get(one.name)
    if settings is not None and "event" not in getattr(settings, "kinds", ("event",)):
        return Delivery(one.name, None, one.queued, "is sent no events, by its kinds")
    return None


def _error(one: OutputState) -> str:
    return f"; last error: {one.last_error}" if one.last_error else ""
