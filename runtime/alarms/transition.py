"""Transitions of the alarm machine: one for every change, numbered without a hole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from edgeasd.runtime.alarms.state import Event, MachineState, State
from edgeasd.runtime.system.clocks import utc_text

STATES: tuple[str, ...] = get_args(State)
REASONS = (
    "score",
    "cooldown_over",
    "acknowledged",
    "cleared_by_hand",
    "snoozed",
    "snooze_ended",
    "snooze_over",
    "maintenance_on",
    "maintenance_off",
    "input_unhealthy",
    "input_healthy",
    "gap",
    "no_threshold",
    "test",
    "test_over",
    "goes_on",
    "store_lost",
    "operating_state",
)


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state or of mode of one machine. If only a mode changed, `state` equals `previous`."""

    machine: str
    id: str
    sequence: int
    """1 for the first of a machine, then one more each time, restarts included. It jumps if earlier ones were lost, or
    were published while the database could not be written."""
    event: str | None
    """The event this belongs to: the one that is open, or was closed by it."""
    previous: str
    state: str
    reason: str
    wall: float
    """Seconds since 1970 by the wall clock, for reports; nothing is computed from it."""
    score: float | None
    """The clip score that decided; None if no score did."""
    threshold: float | None
    """The `on` threshold in force."""
    peak: float | None
    """The highest clip score of the event so far."""
    raised_wall: float | None
    """When the event was raised, by the wall clock of that moment."""
    snoozed_seconds: float
    """How much longer alarms are snoozed; 0 if they are not."""
    maintenance: bool
    suspended: bool
    """Whether scores are ignored because the input is or was just now unhealthy."""
    test: bool
    by: str | None
    """Who gave the command."""
    note: str | None
    operating_state: str | None = None
    """What the machine is doing, such as running or off; None where nothing tells it."""
    remark: str | None = None
    """What else is known about the sound, such as another gain."""
    lasted_seconds: float | None = None
    """How long the event has lasted so far, whatever was done to the wall clock meanwhile; without the time that the
    device was off. None without an event, for tests, and for an event that an earlier edgeasd raised."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, the body of an event message; times as ISO 8601 in UTC. Without what nothing is known of."""
        value = asdict(self)
        wall, raised = value.pop("wall"), value.pop("raised_wall")
        times = {"at": utc_text(wall), "raised_at": None if raised is None else utc_text(raised)}
        for name in ("operating_state", "remark", "lasted_seconds"):
            if value[name] is None:
                del value[name]
        return {**value, **times}


def upgrade_message(message: dict[str, Any]) -> dict[str, Any]:
    """What `Transition.to_json` gives today, from what it gave in an earlier version of edgeasd."""
    if message.get("type") != "alarm_state":
        return message
    values = {{"frozen": "suspended"}.get(key, key): value for key, value in message.items()}
    if values.get("reason") == "input_sick":
        values["reason"] = "input_unhealthy"
    return {key: value for key, value in values.items() if key not in ("schema", "type")}


def describe(
    state: MachineState,
    previous: str,
    reason: str,
    wall: float,
    threshold: float | None,
    *,
    score: float | None = None,
    event: Event | None = None,
    by: str | None = None,
    note: str | None = None,
    remark: str | None = None,
) -> Transition:
    """The transition to `state`, just entered from `previous`; of `event`, by default of the open one."""
    event, test = event or state.event, reason in ("test", "test_over")
    snoozed = state.snoozed_until is not None and state.time is not None
    return Transition(
        machine=state.machine,
        id=state.id,
        sequence=state.sequence,
        event=event.id if event else None,
        previous=previous,
        state=state.state,
        reason=reason,
        wall=wall,
        score=score,
        threshold=threshold,
        peak=event.peak if event and not test else None,
        raised_wall=event.raised_wall if event else None,
        snoozed_seconds=max(0.0, (state.snoozed_until or 0.0) - (state.time or 0.0)) if snoozed else 0.0,
        maintenance=state.maintenance,
        suspended=state.unhealthy_at is not None,
        test=test,
        by=by,
        note=note,
        operating_state=state.operating_state,
        remark=remark,
        lasted_seconds=_lasted(state, event),
    )


def _lasted(state: MachineState, event: Event | None) -> float | None:
    if event is None or event.raised_time is None or state.time is None:
        return None
    return round(max(0.0, state.time - event.raised_time), 3)
