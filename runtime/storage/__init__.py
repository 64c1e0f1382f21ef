"""What is kept of alarms and scores on the device: one SQLite file."""

from __future__ import annotations

from edgeasd.runtime.storage.database import DamagedStore
from edgeasd.runtime.storage.event_store import EventStore, Retention, open_store

__all__ = ["DamagedStore", "EventStore", "Retention", "open_store"]
