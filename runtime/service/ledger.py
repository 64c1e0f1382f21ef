"""The event store as the service holds it: whatever becomes of the file, the service goes on and says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage import DamagedStore, EventStore, open_store
from edgeasd.runtime.storage.database import is_unreadable, put_aside, were_put_aside
from edgeasd.runtime.storage.event_store import put_aside_line

_REPLACE_SECONDS = 60.0
"""A disk that damages every file must not be filled with them."""


class Ledger:
    """An event store that is begun anew where its file turns out to be damaged. Used by one thread."""

    def __init__(self, path: Path, log: Callable[[str], None], begun: Callable[[EventStore], Any]) -> None:
        """`log` takes one line for people; `begun` writes to a store that was begun anew what must be in it."""
        self.path, self._log, self._begun = path, log, begun
        self._store: EventStore | None = None
        self._looked_at, self._fresh = float("-inf"), False
        self.trouble: str | None = None
        """What is wrong with the store, until it works again."""
        self.replaced: str | None = None
        """What was put aside in the life of this process."""

    def open(self) -> None:
        """Open the store. Raises InputError where that cannot be."""
        self._store, replaced = open_store(self.path)
        if replaced is not None:
            self._say_replaced(replaced)

    def close(self) -> None:
        """Close it."""
        if self._store is not None:
            self._store.close()

    @property
    def began_anew(self) -> bool:
        """Whether an earlier file was ever put aside here: then numbers were given that the store does not know."""
        return bool(were_put_aside(self.path))

    def read(self, ask: Callable[[EventStore], Any]) -> Any:
        """What `ask` returns. Raises InputError; where the file is damaged it is replaced first, and asked anew."""
        try:
            return ask(self._opened())
        except InputError as error:
            if not self._replace(error):
                raise
            return ask(self._opened())

    def write(self, act: Callable[[EventStore], Any]) -> bool:
        """Whether the store took it. A full disk is trouble and no end: what waits is tried again."""
        try:
            self.read(act)
        except InputError as error:
            self.trouble = str(error)
            return False
        self.trouble = None
        return True

    def _opened(self) -> EventStore:
        if self._store is None:
            before = self.replaced
            self.open()
            self._fresh = self._fresh or self.replaced != before
        assert self._store is not None
        if self._fresh:
            self._begun(self._store)
            self._fresh = False
        return self._store

    def _replace(self, error: InputError) -> bool:
        """Whether the file was put aside: it holds nonsense, or the disk cannot give it back."""
        now = time.monotonic()
        if now - self._looked_at < _REPLACE_SECONDS:
            return False
        broken = isinstance(error, DamagedStore)
        if not broken and "i/o error" not in str(error).lower():
            return False
        self._looked_at = now
        # Before anybody looks at the file: who closes any descriptor of it gives up the locks of all of them, and
        # another process could take the write-ahead log away from under a connection without its lock.
        if self._store is not None:
            self._store.close()
            self._store = None
        if not broken and not is_unreadable(self.path):
            return False
        self._fresh = True
        self._say_replaced(put_aside_line(error, put_aside(self.path)))
        return True

    def _say_replaced(self, line: str) -> None:
        self.replaced = line
        self._log(line)
