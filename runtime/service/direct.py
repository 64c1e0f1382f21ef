"""Commands to alarm machines where no service runs: on the store itself, and said through the outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeasd.runtime.alarms import Command, Transition
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.config import ServiceConfig
from edgeasd.runtime.config.check import named_manifest
from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.outputs.settings import PrometheusSettings
from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.service.control import Refused, ask
from edgeasd.runtime.service.delivery import Delivery, await_delivery
from edgeasd.runtime.service.finding import tell_nobody
from edgeasd.runtime.service.keeper import Keeper
from edgeasd.runtime.system.lock import folder_lock

DELIVER_SECONDS = 5.0
"""For outputs to deliver what a command gave; what they cannot stays in their queues."""
_CLOSE_SECONDS = 1.0


@dataclass
class Commanded:
    """What became of a command."""

    by_service: bool = True
    """Whether a service did all of it."""
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What changed in each stream that took it, as messages."""
    refused: dict[str, str] = field(default_factory=dict)
    """One line for each stream that did not, which begins with its name."""
    deliveries: list[Delivery] = field(default_factory=list)
    """What became of a test alarm at each output; nothing for other commands."""

    def refuse(self, name: str, why: str) -> None:
        """Count a stream as one that did not take the command."""
        self.refused[name] = why if why.startswith(f"{name}: ") else f"{name}: {why}"


def command_streams(site: ServiceConfig, names: list[str], command: Command, log: Callable[[str], None]) -> Commanded:
    """Give `command` to the streams; one that cannot take it keeps it from no other. A test alarm is waited for.

    `log` takes a line for people, where the event store had to be begun anew.
    Raises InputError where neither a service nor the event store can be asked.
    """
    value = command.model_dump(exclude_none=True)
    test, done = command.command == "test", Commanded()
    before = (_outputs_of_service(site) or []) if test else []
    for at, name in enumerate(names):
        try:
            answer = ask(site.data, {"ask": "command", "stream": name, "command": value})
        except Refused as error:
            done.refuse(name, str(error))
            continue
        if answer is None:
            done.by_service = False
            _command_store(site, names[at:], command, log, done)
            return done
        done.found[name] = answer
    if test and any(done.found.values()):
        done.deliveries = await_delivery(site, before, lambda: _outputs_of_service(site), DELIVER_SECONDS)
    return done


def _outputs_of_service(site: ServiceConfig) -> list[OutputState] | None:
    state = ask(site.data, {"ask": "state"})
    return None if state is None else [OutputState.model_validate(one) for one in state["outputs"]]


def _never_sick(name: str) -> bool:
    del name
    return False


def _say_nothing(name: str) -> None:
    del name


def _record_nothing(name: str | None, said: list[Transition], position: int | None) -> None:
    del name, said, position


def _command_store(
    site: ServiceConfig, names: list[str], command: Command, log: Callable[[str], None], done: Commanded
) -> None:
    with folder_lock(site.data):
        keeper = Keeper(site.data, tell_nobody, _never_sick, _say_nothing, _record_nothing, log, lasting=False)
        keeper.start()
        try:
            outputs = _open_outputs(site)
            try:
                keeper.teller.site = site.name
                keeper.teller.outputs = outputs
                before = [] if outputs is None else outputs.state()
                for name in names:
                    _command_one(site, name, command, keeper, done)
                if outputs is not None:
                    deliveries = await_delivery(site, before, outputs.state, DELIVER_SECONDS)
                    done.deliveries = deliveries if command.command == "test" and any(done.found.values()) else []
            finally:
                if outputs is not None:
                    # They have had their time.
                    outputs.close(_CLOSE_SECONDS)
        finally:
            keeper.close(DELIVER_SECONDS)


def _command_one(site: ServiceConfig, name: str, command: Command, keeper: Keeper, done: Commanded) -> None:
    stream = site.streams[name]
    try:
        with Bundle(Path(stream.bundle)) as bundle:
            manifest = named_manifest(bundle.manifest, stream)
        keeper.call(lambda: keeper.admit(name, manifest, stream.alarm))
    except EdgeasdError as error:
        why = str(error)
        done.refuse(name, f"not loaded: {why[len(name) + 2 :] if why.startswith(f'{name}: ') else why}")
        return
    try:
        done.found[name] = keeper.call(lambda: keeper.command(name, command))
    except EdgeasdError as error:
        done.refuse(name, str(error))


def _open_outputs(site: ServiceConfig) -> Outputs | None:
    """All that a message can be sent to. No page of metrics: who scrapes it would take this for the service."""
    settings = {name: one for name, one in site.outputs.items() if not isinstance(one, PrometheusSettings)}
    if not settings:
        return None
    folder = site.data / "queues"
    folder.mkdir(exist_ok=True, mode=0o750)
    return Outputs(settings, folder, site=site.name)
