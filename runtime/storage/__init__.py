"""Events, score history and the outbox of a data folder, in one SQLite file."""

from __future__ import annotations

from edgeasd.runtime.storage.database import Database, DatabaseCorrupt, DatabaseUnavailable
from edgeasd.runtime.storage.event_store import EventStore, Retention, StateSpan, StoredScore
from edgeasd.runtime.storage.outbox import Outbox, OutboxLag, OutboxLimits, OutboxMessage

__all__ = [
    "Database",
    "DatabaseCorrupt",
    "DatabaseUnavailable",
    "EventStore",
    "Outbox",
    "OutboxLag",
    "OutboxLimits",
    "OutboxMessage",
    "Retention",
    "StateSpan",
    "StoredScore",
]
