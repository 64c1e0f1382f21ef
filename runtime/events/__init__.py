"""What is kept of alarms and scores on the device: one SQLite file."""

from __future__ import annotations

from edgeasd.runtime.events.pruning import Retention
from edgeasd.runtime.events.replacing import open_store
from edgeasd.runtime.events.schema import DamagedStore
from edgeasd.runtime.events.store import EventStore

__all__ = ["DamagedStore", "EventStore", "Retention", "open_store"]
