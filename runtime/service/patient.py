"""A source that may not be there yet: a box that starts before its microphone was plugged in must not give up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.sources import Source
from edgeasd.runtime.sources.base import as_ours

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts to open; doubled each time."""


class PatientSource:
    """Opens a source when it is first read; with `retry` again until that works, in the thread that reads.

    Once open it is the source itself: what only some have (`overruns`, `events`, …) is passed through. `state` is
    "opening", "open", "reopening" or "closed"; `reason` says why it is not open.
    """

    def __init__(self, open_source: Callable[[], Source], *, name: str, sample_rate: int, live: bool, retry: bool):
        self._open, self._name, self._retry = open_source, name, retry
        self.sample_rate, self.live = sample_rate, live
        self._inner: Source | None = None
        self._heard = False
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._reason = ""
        self._since = time.monotonic()

    @property
    def _awaited(self) -> bool:
        """Not there; or tried again and not heard yet, for a command is there before the camera that it asks."""
        return self._inner is None or (bool(self._reason) and not self._heard)

    @property
    def name(self) -> str:
        """What is in use; before it is open, what was asked for."""
        return self._name if self._inner is None else self._inner.name

    @property
    def state(self) -> str:
        if self._closed.is_set():
            return "closed"
        if self._awaited:
            return "opening"
        return str(getattr(self._inner, "state", "open"))

    @property
    def reason(self) -> str:
        """Why it is not open; empty where it is, or was closed: what is being closed still has its last loss."""
        if self._awaited and not self._closed.is_set():
            return self._reason
        return str(getattr(self._inner, "reason", "")) if self.state not in ("open", "closed") else ""

    @property
    def since(self) -> float:
        """When `state` became what it is, monotonic seconds."""
        return float(getattr(self._inner, "since", self._since))

    def __getattr__(self, name: str) -> Any:
        # Reached only for what this class has not: the extras of the source itself.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def read(self) -> Samples | None:
        """As of the source. Raises what opening or reading raised where it is not to be tried again."""
        pause = FIRST_PAUSE
        while not self._closed.is_set():
            try:
                if self._inner is None:
                    self._enter(self._open())
                inner = self._inner
                samples = None if inner is None else inner.read()
                self._heard = self._heard or samples is not None
                return samples
            except Exception as error:  # of a library or the system, too: a shortage passes
                if not self._retry or self._heard:
                    raise
                self._reason = str(as_ours(error))
                self._drop()
            self._closed.wait(pause)
            pause = min(2.0 * pause, LONGEST_PAUSE)
        return None

    def _enter(self, inner: Source) -> None:
        with self._lock:
            self._inner, self._since = inner, time.monotonic()
            if self._closed.is_set():
                inner.close()

    def _drop(self) -> None:
        with self._lock:
            inner, self._inner = self._inner, None
        if inner is not None:
            # What is broken may not even close; that must not end the attempts.
            with suppress(Exception):
                inner.close()

    def close(self) -> None:
        """Close for good; ends a `read` that waits in another thread."""
        self._closed.set()
        with self._lock:
            inner = self._inner
        if inner is not None:
            inner.close()
