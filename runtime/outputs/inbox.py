"""The messages of one output that are not yet on disk: what makes `put` cheap when a disk stalls."""

from __future__ import annotations

import threading
from collections import Counter, deque
from heapq import merge

from edgeasd.runtime.outputs.sink import Entry

LARGEST = 8 * 1024 * 1024
_OVERHEAD = 256

_Ticketed = tuple[int, int, Entry]


class Inbox:
    """Bounded by bytes. When full, the oldest message that is no event goes, and events last."""

    def __init__(self, largest: int = LARGEST) -> None:
        self._largest = largest
        self._events: deque[_Ticketed] = deque()
        self._others: deque[_Ticketed] = deque()
        self._held = 0
        self._taken = 0
        self._last = 0
        self._written = 0
        self._ended = False
        self._changed = threading.Condition()
        self.dropped: Counter[str] = Counter()
        """Messages given up here, by kind."""

    @property
    def count(self) -> int:
        """Messages that are not yet on disk, those that were taken and are being written among them."""
        with self._changed:
            return self._waiting() + self._taken

    def _waiting(self) -> int:
        return len(self._events) + len(self._others)

    def put(self, entry: Entry) -> int:
        """Add a message and return its ticket; never waits for a disk or a network."""
        size = len(entry.text) + _OVERHEAD
        with self._changed:
            self._last += 1
            (self._events if entry.kind == "event" else self._others).append((self._last, size, entry))
            self._held += size
            while self._held > self._largest and self._waiting() > 1:
                _, gone, dropped = (self._others or self._events).popleft()
                self._held -= gone
                self.dropped[dropped.kind] += 1
            self._changed.notify_all()
            return self._last

    def take(self) -> tuple[int, list[Entry]] | None:
        """Wait for messages; all of them in order, with the last ticket. None after `end`, when there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting() or self._ended)
            if not self._waiting():
                return None
            entries = [entry for _, _, entry in merge(self._events, self._others, key=lambda item: item[0])]
            self._events.clear()
            self._others.clear()
            self._held, self._taken = 0, len(entries)
            return self._last, entries

    def written(self, ticket: int) -> None:
        """All up to `ticket` are on disk."""
        with self._changed:
            self._written, self._taken = ticket, 0
            self._changed.notify_all()

    def wait(self, ticket: int, seconds: float) -> bool:
        """Whether all up to `ticket` came to disk within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._written >= ticket, seconds)

    def end(self) -> None:
        """No more messages will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
