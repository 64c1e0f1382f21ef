"""Commands to alarm machines: through the running service, or without one on the database and the outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeasd.runtime.alarms import Command
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.config import ServiceConfig
from edgeasd.runtime.config.check import named_manifest
from edgeasd.runtime.errors import EdgeasdError, InputError
from edgeasd.runtime.outputs.base import OutputState
from edgeasd.runtime.outputs.manager import OutputManager
from edgeasd.runtime.outputs.settings import PrometheusSettings, outbox_limits
from edgeasd.runtime.service.control import RequestRejected, ask
from edgeasd.runtime.service.recorder import EventRecorder
from edgeasd.runtime.storage import Database, Outbox
from edgeasd.runtime.system.lock import folder_lock

DELIVERY_SECONDS = 5.0
"""For outputs to deliver what a command caused. The rest stays in the outbox."""
_POLL_SECONDS = 0.1
_CLOSE_SECONDS = 1.0

States = Callable[[], Sequence[OutputState] | None]
"""The present states of the outputs; None if the service no longer answers."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What became of the messages of one output."""

    output: str
    delivered: bool | None
    """None if this output is sent no events."""
    waiting: int
    """Messages that wait, earlier ones included."""
    text: str
    """One line for people, without the name."""


@dataclass
class CommandResult:
    """What became of a command."""

    by_service: bool = True
    """Whether a running service carried it out."""
    transitions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What changed in each stream that accepted it, as bodies of event messages."""
    rejected: dict[str, str] = field(default_factory=dict)
    """One line for each stream that did not, beginning with its name."""
    deliveries: list[DeliveryResult] = field(default_factory=list)
    """What became of a test alarm at each output; empty for other commands."""

    def reject(self, name: str, reason: str) -> None:
        """Note that a stream did not accept the command."""
        self.rejected[name] = reason if reason.startswith(f"{name}: ") else f"{name}: {reason}"


def send_command(config: ServiceConfig, names: list[str], command: Command) -> CommandResult:
    """Give `command` to streams; one that rejects it does not stop the others. Waits for the delivery of a test alarm.

    Raises InputError if neither a service nor the database can be used.
    """
    value = command.model_dump(exclude_none=True)
    if command.command == "set_state" and ask(config.data, {"ask": "status"}) is None:
        raise InputError(f"{config.data}: no service runs there, and a state is only of a running one; start it first")
    is_test, result = command.command == "test", CommandResult()
    before = (_outputs_of_service(config) or []) if is_test else []
    for position, name in enumerate(names):
        try:
            answer = ask(config.data, {"ask": "command", "stream": name, "command": value})
        except RequestRejected as error:
            result.reject(name, str(error))
            continue
        if answer is None:
            result.by_service = False
            _command_without_service(config, names[position:], command, result)
            return result
        result.transitions[name] = answer
    if is_test and any(result.transitions.values()):
        result.deliveries = wait_for_delivery(config, before, lambda: _outputs_of_service(config), DELIVERY_SECONDS)
    return result


def _outputs_of_service(config: ServiceConfig) -> list[OutputState] | None:
    status = ask(config.data, {"ask": "status"})
    return None if status is None else [OutputState.model_validate(one) for one in status["outputs"]]


def _command_without_service(config: ServiceConfig, names: list[str], command: Command, result: CommandResult) -> None:
    # Without pages of metrics: whoever reads them would take this for the service.
    settings = {name: one for name, one in config.outputs.items() if not isinstance(one, PrometheusSettings)}
    with folder_lock(config.data), Database(config.data / "events.db") as database:
        outbox = Outbox(database, limits=outbox_limits(config.outputs))
        recorder = EventRecorder(database, outbox, site=config.name)
        outputs = OutputManager(settings, outbox, site=config.name)
        recorder.start()
        try:
            before = outputs.state()
            outputs.start()
            recorder.use_outputs(outputs)
            for name in names:
                _command_stream(config, name, command, recorder, result)
            deliveries = wait_for_delivery(config, before, outputs.state, DELIVERY_SECONDS)
            if command.command == "test" and any(result.transitions.values()):
                result.deliveries = deliveries
        finally:
            outputs.close(_CLOSE_SECONDS)
            recorder.close(DELIVERY_SECONDS)


def _command_stream(
    config: ServiceConfig, name: str, command: Command, recorder: EventRecorder, result: CommandResult
) -> None:
    stream = config.streams[name]
    try:
        with Bundle(Path(stream.bundle)) as bundle:
            manifest = named_manifest(bundle.manifest, stream)
        recorder.add_machine(name, manifest, stream.alarm)
    except EdgeasdError as error:
        result.reject(name, f"not loaded: {str(error).removeprefix(f'{name}: ')}")
        return
    try:
        result.transitions[name] = recorder.command(name, command)
    except EdgeasdError as error:
        result.reject(name, str(error))


def wait_for_delivery(
    config: ServiceConfig, before: Sequence[OutputState], states: States, seconds: float
) -> list[DeliveryResult]:
    """Wait until nothing waits for any output, at most `seconds`.

    `before` holds the states before the command: what was dropped since then was not delivered.
    """
    until, last = time.monotonic() + seconds, list(before)
    dropped = {one.name: sum(one.dropped.values()) for one in before}
    settled: dict[str, DeliveryResult] = {}
    while (present := states()) is not None:
        last = list(present)
        for one in last:
            if one.name not in settled and not one.queued:
                settled[one.name] = _settled(config, one, dropped.get(one.name, 0))
        if len(settled) == len(last) or time.monotonic() >= until:
            break
        time.sleep(_POLL_SECONDS)
    return [settled.get(one.name) or _waiting(config, one) for one in last]


def _settled(config: ServiceConfig, one: OutputState, dropped: int) -> DeliveryResult:
    if (unsent := _not_for_events(config, one)) is not None:
        return unsent
    if sum(one.dropped.values()) > dropped:
        return DeliveryResult(one.name, False, 0, f"NOT delivered, given up{_error(one)}")
    return DeliveryResult(one.name, True, 0, "delivered")


def _waiting(config: ServiceConfig, one: OutputState) -> DeliveryResult:
    text = f"NOT delivered, {one.queued} {'waits' if one.queued == 1 else 'wait'}{_error(one)}"
    return _not_for_events(config, one) or DeliveryResult(one.name, False, one.queued, text)


def _not_for_events(config: ServiceConfig, one: OutputState) -> DeliveryResult | None:
    if one.type == "prometheus":
        return DeliveryResult(one.name, None, 0, "is read by others, nothing is sent")
    settings = config.outputs.get(one.name)
    if settings is None or isinstance(settings, PrometheusSettings) or "event" in settings.kinds:
        return None
    return DeliveryResult(one.name, None, one.queued, "is sent no events, by its kinds")


def _error(one: OutputState) -> str:
    return f"; last error: {one.last_error}" if one.last_error else ""
