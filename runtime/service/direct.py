"""Commands to alarm machines where no service runs: on the store itself, and said through the outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeasd.runtime.alarms import Command, Transition
from edgeasd.runtime.bundle import Bundle
from edgeasd.runtime.outputs import Outputs
from edgeasd.runtime.outputs.settings import PrometheusSettings
from edgeasd.runtime.service.control import ask
from edgeasd.runtime.service.finding import tell_nobody
from edgeasd.runtime.service.keeper import Keeper
from edgeasd.runtime.service.lock import folder_lock
from edgeasd.runtime.site import Site
from edgeasd.runtime.site.check import named_manifest

DELIVER_SECONDS = 5.0
"""For outputs to deliver what a command gave; what they cannot waits for the service."""


def command_streams(
    site: Site, names: list[str], command: Command, log: Callable[[str], None]
) -> tuple[dict[str, list[dict[str, Any]]], bool]:
    """Give `command` to the streams; what changed in each, and whether a service did it.

    `log` takes a line for people, where the event store had to be begun anew.
    Raises InputError or BundleError.
    """
    value = command.model_dump(exclude_none=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        answer = ask(site.data, {"ask": "command", "stream": name, "command": value})
        if answer is None:
            return _command_store(site, names, command, log), False
        found[name] = answer
    return found, True


def _never_sick(name: str) -> bool:
    del name
    return False


def _say_nothing(name: str) -> None:
    del name


def _record_nothing(name: str, said: list[Transition], position: int | None) -> None:
    del name, said, position


def _command_store(
    site: Site, names: list[str], command: Command, log: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    with folder_lock(site.data):
        keeper = Keeper(site.data, tell_nobody, _never_sick, _say_nothing, _record_nothing, log, lasting=False)
        keeper.start()
        try:
            outputs = _open_outputs(site)
            try:
                keeper.teller.site = site.name
                keeper.teller.outputs = outputs
                for name in names:
                    stream = site.streams[name]
                    with Bundle(Path(stream.bundle)) as bundle:
                        manifest = named_manifest(bundle.manifest, stream)
                    keeper.call(lambda n=name, m=manifest, a=stream.alarm: keeper.admit(n, m, a))  # type: ignore[misc]
                    found[name] = keeper.call(lambda n=name: keeper.command(n, command))  # type: ignore[misc]
                _settle(outputs)
            finally:
                if outputs is not None:
                    outputs.close(DELIVER_SECONDS)
        finally:
            keeper.close(DELIVER_SECONDS)
    return found


def _open_outputs(site: Site) -> Outputs | None:
    """All that a message can be sent to. No page of metrics: who scrapes it would take this for the service."""
    settings = {name: one for name, one in site.outputs.items() if not isinstance(one, PrometheusSettings)}
    if not settings:
        return None
    folder = site.data / "queues"
    folder.mkdir(exist_ok=True, mode=0o750)
    return Outputs(settings, folder, site=site.name)


def _settle(outputs: Outputs | None) -> None:
    """Give every output time to deliver; one that is dead costs no more than that."""
    until = time.monotonic() + DELIVER_SECONDS
    while outputs is not None and time.monotonic() < until:
        states = outputs.state()
        if not any(one.queued for one in states):
            return
        time.sleep(0.05)
