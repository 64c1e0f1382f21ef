"""What the service says to its outputs, and what it says again after a crash. Used by the keeper's thread."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs import Outputs, make_message
from edgeasd.runtime.service.kept import Kept
from edgeasd.runtime.service.ledger import Ledger
from edgeasd.runtime.storage import EventStore


class Teller:
    """Makes messages of what happened. `outputs` may be None, and exchanged."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.outputs: Outputs | None = None
        self.site = "site"
        """Name of the site, in every message."""
        self.trouble: str | None = None
        """Why a message could not be made; whoever sees that things are well again sets it to None."""

    def say(
        self,
        kind: Any,
        body: dict[str, Any],
        kept: Kept | None = None,
        *,
        again: bool = False,
        who: tuple[str, str] | None = None,
    ) -> None:
        """A message to every output; `again`: one that may have been said before.

        `who` is machine and ID where nothing is kept of them; without both it is a message of the service itself.
        """
        if self.outputs is None:
            return
        machine, id = (who or (None, None)) if kept is None else (kept.machine_type, kept.id)
        event = None if kept is None or kept.machine.event is None else kept.machine.event.id
        try:
            message = make_message(kind, body, site=self.site, machine=machine, id=id, wall=time.time(), event=event)
            self.outputs.put(message, again=again)
        except InputError as error:
            self.trouble = str(error)

    def say_transition(self, message: dict[str, Any], kept: Kept) -> None:
        """To the outputs; where there are none just now, `catch_up` says it for the first time."""
        if self.outputs is not None:
            self.say("event", message, kept, again=message["sequence"] <= kept.told)
            kept.told = max(kept.told, message["sequence"])

    def catch_up(self, kept: Kept) -> None:
        """Say again what a crash, or outputs that were not there, kept from them; what they have they pass over."""
        if self.outputs is None:
            return
        machine, id = kept.machine_type, kept.id
        # What is not in the store yet is said when it is.
        latest = kept.machine.sequence - len(kept.unsaved)
        last = self.outputs.last_event(machine, id, latest)
        while found := self._transitions(machine, id, last):
            for message in found:
                self.say_transition(message, kept)
            last = int(found[-1]["sequence"])
        remembered = self._transitions(machine, id, latest - 1)
        for message in remembered:
            self.outputs.remember(make_message("event", message, site=self.site, wall=time.time()))
        if not remembered and not kept.unsaved:
            self.outputs.present(machine, id, kept.present(time.time()))

    def _transitions(self, machine: str, id: str, after: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ledger.read(
            partial(EventStore.transitions, machine=machine, id=id, after=after)
        )
        return found
