"""Messages for tests, what a receiver keeps of them, and waiting for things to happen. Standard library only."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

EVENT_ID = "01KEZZCJ5C00000000000000ZZ"


def event(sequence: int, machine: str = "valve", id: str = "00", state: str = "alarm", **body: Any) -> dict[str, Any]:
    """An event message as the alarm machine's transitions make it."""
    at = "2027-01-15T08:00:03.000Z"
    whole = {
        "schema": 1,
        "type": "alarm_state",
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
        "frozen": False,
        "test": False,
        "by": None,
        "note": None,
        "at": at,
        "raised_at": at,
        **body,
    }
    head = {"schema": 1, "kind": "event", "site": "plant", "machine": machine, "id": id}
    return {**head, "event": EVENT_ID, "at": at, "body": whole}


def score(value: float, machine: str = "valve", id: str = "00") -> dict[str, Any]:
    """A score message."""
    at = "2027-01-15T08:00:03.000Z"
    names = ("last", "mean", "lowest", "highest")
    body = {"since": at, "count": 1, **dict.fromkeys(names, value), "threshold": 0.04, "complete": True}
    head = {"schema": 1, "kind": "score", "site": "plant", "machine": machine, "id": id}
    return {**head, "event": None, "at": at, "body": body}


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
        port = random.randrange(12_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def firsts(received: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a receiver keeps that drops resends: by queue and machine, nothing at or below the highest number."""
    highest: dict[tuple[str, str, str], int] = {}
    kept = []
    for message in received:
        stream = (message["queue"], message["machine"], message["id"])
        if message["sequence"] > highest.get(stream, 0):
            highest[stream] = message["sequence"]
            kept.append(message)
    return kept
