"""Reads events and their evidence beside a running service, without writing and without waiting for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeasd.runtime.alarms.event_id import is_event_id
from edgeasd.runtime.errors import InputError, printable
from edgeasd.runtime.evidence.archive import FOLDER, evidence_files
from edgeasd.runtime.evidence.clip import ClipMetadata, read_metadata
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.system.clocks import utc_text

DATABASE = "events.db"
"""The event store in a data folder."""
EVENT_STATES = ("alarm", "acknowledged", "cleared")
_TIMES = ("raised_at", "acknowledged_at", "cleared_at")
_LATEST = 1e11
_ALL = 2**62


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of one event."""

    metadata: ClipMetadata | None
    files: dict[str, Path]
    problem: str | None
    """Why the metadata cannot be read, one line."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to read; None is any."""

    machine: str | None = None
    id: str | None = None
    since: float | None = None
    """Raised at or after, wall clock in seconds."""
    until: float | None = None
    """Raised before."""
    state: str | None = None
    """One of `EVENT_STATES`, or `open`."""


class EventReader:
    """The data folder of a service. Raises InputError, one line, for one that cannot be read or holds nonsense."""

    def __init__(self, data: Path) -> None:
        self.data = Path(data)
        try:
            self._store = EventStore.open(self.data / DATABASE, read_only=True)
        except PermissionError:
            raise InputError(f"{self.data}: Permission denied; run this as the user of the service") from None

    def __enter__(self) -> EventReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    def events(self, wanted: EventFilter, limit: int | None = None) -> list[dict[str, Any]]:
        """Events newest first, as `EventStore.events` gives them, with `state`."""
        rows = self._store.events(
            wanted.machine,
            wanted.id,
            since=wanted.since,
            until=wanted.until,
            open_only=wanted.state == "open",
            # The state is found below, and the limit counts what is left.
            limit=_ALL if limit is None or wanted.state is not None else limit,
        )
        found = [self._checked(row) for row in rows]
        if wanted.state not in (None, "open"):
            found = [event for event in found if event["state"] == wanted.state]
        return found[:limit]

    def event(self, event: str) -> dict[str, Any]:
        """One event by its ID. Raises InputError if there is none."""
        if not is_event_id(event):
            raise InputError(f"{printable(event, 80)!r}: not an event ID; `edgeasd events list` shows them")
        found = next((row for row in self._store.events(limit=_ALL) if row["event"] == event), None)
        if found is None:
            raise InputError(f"{event}: no such event in {self.data / DATABASE}; `edgeasd events list` shows them")
        return self._checked(found)

    def transitions(self, event: str) -> list[dict[str, Any]]:
        """All messages of an event, in order."""
        messages = self._store.event_transitions(event)
        if any(isinstance(value, (dict, list)) for message in messages for value in message.values()):
            # Ours are flat; what is nested a thousand deep would break those who print it.
            place = self.data / DATABASE
            raise InputError(
                f"{place}: a message of event {printable(event, 80)} is damaged; restore a copy of the file"
            )
        return messages

    def evidence(self, event: str) -> Evidence:
        """The files of an event and their metadata."""
        files = evidence_files(self.data, event)
        try:
            return Evidence(read_metadata(self.data / FOLDER / event), files, None)
        except InputError as error:
            return Evidence(None, files, str(error))

    def _checked(self, row: dict[str, Any]) -> dict[str, Any]:
        """SQLite holds any value in any column; a damaged file may do so."""
        sound = isinstance(row["event"], str) and is_event_id(row["event"])
        sound = sound and all(isinstance(row[name], str) for name in ("machine", "id"))
        sound = sound and isinstance(row["cleared_by"], (str, type(None)))
        sound = sound and _number(row["raised_at"], 0.0)
        sound = sound and all(row[name] is None or _number(row[name], 0.0) for name in _TIMES)
        sound = sound and all(
            row[name] is None or _number(row[name], -math.inf, math.inf) for name in ("peak", "threshold")
        )
        lasted = row["lasted_seconds"]
        sound = sound and (lasted is None or _number(lasted, 0.0, math.inf))
        if not sound:
            place = self.data / DATABASE
            raise InputError(f"{place}: event {printable(str(row['event']))} is damaged; restore a copy of the file")
        return {**row, "state": _state(row)}


def _state(row: dict[str, Any]) -> str:
    if row["cleared_at"] is not None:
        return "cleared"
    return "alarm" if row["acknowledged_at"] is None else "acknowledged"


def as_json(event: dict[str, Any]) -> dict[str, Any]:
    """An event of `EventReader.events` with its times as ISO 8601 in UTC."""
    return {**event, **{name: None if event[name] is None else utc_text(event[name]) for name in _TIMES}}


def _number(value: object, least: float, most: float = _LATEST) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and least <= value <= most
