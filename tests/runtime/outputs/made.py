"""Messages for tests, outputs on a real outbox, and waiting for things to happen."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeasd.runtime.outputs import OutputState

EVENT_ID = "01KEZZCJ5C00000000000000ZZ"
FAST = {"retry_first_seconds": 0.02, "retry_longest_seconds": 0.1}


def event(sequence: int, machine: str = "valve", id: str = "00", state: str = "alarm", **body: Any) -> dict[str, Any]:
    """An event message as the transitions of an alarm machine make it."""
    at = "2027-01-15T08:00:03.000Z"
    whole = {
        "machine": machine,
        "id": id,
        "sequence": sequence,
        "event": EVENT_ID,
        "previous": "normal",
        "state": state,
        "reason": "score",
        "score": 0.06,
        "threshold": 0.04,
        "peak": 0.06,
        "snoozed_seconds": 0.0,
        "maintenance": False,
        "suspended": False,
        "test": False,
        "by": None,
        "note": None,
        "at": at,
        "raised_at": at,
        **body,
    }
    head = {"schema": 2, "kind": "event", "site": "plant", "machine": machine, "id": id}
    return {**head, "event": EVENT_ID, "at": at, "body": whole}


def score(value: float, machine: str = "valve", id: str = "00") -> dict[str, Any]:
    """A score message."""
    at = "2027-01-15T08:00:03.000Z"
    names = ("last", "mean", "lowest", "highest")
    body = {"since": at, "count": 1, **dict.fromkeys(names, value), "threshold": 0.04, "complete": True}
    head = {"schema": 2, "kind": "score", "site": "plant", "machine": machine, "id": id}
    return {**head, "event": None, "at": at, "body": body}


class Station:
    """Started outputs on the outbox of a data folder."""

    def __init__(
        self,
        folder: Path,
        tables: Mapping[str, Mapping[str, Any]],
        *,
        site: str = "plant",
        on_command: Any = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        from edgeasd.runtime.outputs import OutputManager, outbox_limits, parse_outputs
        from edgeasd.runtime.storage.database import Database
        from edgeasd.runtime.storage.outbox import Outbox

        folder.mkdir(parents=True, exist_ok=True)
        self.database = Database(folder / "events.db")
        settings = parse_outputs(tables, "outputs")
        self.outbox = Outbox(self.database, limits=outbox_limits(settings), wall=wall)
        try:
            self.manager = OutputManager(settings, self.outbox, site=site, device="box", on_command=on_command)
        except BaseException:
            self.database.close()
            raise
        self.manager.start()

    def put(self, message: Mapping[str, Any]) -> int:
        """Append a message to the outbox and show it on the pages; its number."""
        from edgeasd.runtime.outputs import encode

        self.manager.observe(message)
        return self.outbox.append(message["kind"], message["machine"], message["id"], encode(message))

    def state(self, name: str | None = None) -> OutputState:
        """The state of an output; of the first without a name."""
        return next(each for each in self.manager.state() if name in (None, each.name))

    def close(self, seconds: float = 5.0) -> bool:
        """Close the outputs and the data folder."""
        has_ended = self.manager.close(seconds)
        with suppress(Exception):
            self.outbox.flush()
        self.database.close()
        return has_ended

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for `condition` to be true; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return value


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to nobody who does not ask for it."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def firsts(received: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a receiver keeps that drops resends: of each store, nothing at or below the highest number."""
    highest: dict[str, int] = {}
    kept = []
    for message in received:
        if message["seq"] > highest.get(message["store"], 0):
            highest[message["store"]] = message["seq"]
            kept.append(message)
    return kept
