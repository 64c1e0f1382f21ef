"""The queue files of earlier versions, one for each output: read once, for the outbox that replaces them."""

from __future__ import annotations

import heapq
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)
_SUFFIX = ".queue.db"


class OldMessage(NamedTuple):
    """A message that waits in a queue file."""

    at: str
    """ISO 8601."""
    kind: str
    machine: str | None
    id: str | None
    payload: str

    def created(self, default: float) -> float:
        """`at` in seconds since 1970; `default` if it is not a time."""
        try:
            return datetime.fromisoformat(self.at.replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError):
            return default


def read_queues(folder: Path) -> dict[str, list[OldMessage]]:
    """What waits for each output, in order. A file that cannot be read is left as it is, with a line in the log."""
    queues = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            queues[path.name.removesuffix(_SUFFIX)] = _read(path)
        except (sqlite3.Error, OSError, ValueError) as error:
            _log.warning("%s: left as it is, its messages are not delivered: %s", path, error)
    return queues


def merge_queues(queues: dict[str, list[OldMessage]]) -> Iterator[tuple[OldMessage, str]]:
    """All messages with the output that each waits for, by time; those of one output stay in their order."""
    streams = ([(message, output) for message in messages] for output, messages in queues.items())
    return heapq.merge(*streams, key=lambda item: item[0].at)


def remove_queues(folder: Path, outputs: Iterable[str]) -> None:
    """Delete the files of `outputs`, the folder if it is empty then, and the boot ID that was kept beside it."""
    for output in outputs:
        for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
            (folder / f"{output}{_SUFFIX}{suffix}").unlink(missing_ok=True)
    (folder.parent / "boot_id").unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _read(path: Path) -> list[OldMessage]:
    with closing(sqlite3.connect(path, timeout=1.0)) as queue:
        rows = queue.execute("SELECT kind, machine, id, text FROM messages ORDER BY position").fetchall()
    messages = []
    for kind, machine, id, text in rows:
        value = json.loads(text)
        if isinstance(kind, str) and isinstance(value, dict):
            messages.append(OldMessage(str(value.get("at", "")), kind, machine or None, id or None, text))
    return messages
