"""An event store that opens whatever became of its file: a damaged one is put aside whole, and a new one begun."""

from __future__ import annotations

from pathlib import Path

from edgeasd.runtime.damaged import is_unreadable, put_aside
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.events.schema import DamagedStore
from edgeasd.runtime.events.store import EventStore


def open_store(path: Path) -> tuple[EventStore, str | None]:
    """The store at `path`, and one line about what was put aside for it, if something was.

    Raises InputError for a foreign or newer file, and where the folder or the disk does not let it be opened.
    """
    try:
        return EventStore(path), None
    except InputError as error:
        if not isinstance(error, DamagedStore) and not is_unreadable(path):
            raise
        aside = put_aside(path)
        return EventStore(path), put_aside_line(error, aside)


def put_aside_line(error: InputError, aside: Path) -> str:
    """What happened, and what it costs, in one line."""
    what = str(error).partition(";")[0]
    return f"{what}; it is kept as {aside.name}, and a new event store was begun: earlier events are only there"
