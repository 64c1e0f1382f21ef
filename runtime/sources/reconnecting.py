"""A source that is opened again when it stops, with pauses that grow, and measures what was lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from edgeasd.runtime.errors import to_user_error
from edgeasd.runtime.sources.base import (
    AudioChunk,
    Source,
    SourceEvent,
    SourceEventKind,
    SourceState,
    SourceStatus,
    take_all,
)
from edgeasd.runtime.system.clocks import Backoff

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds between two attempts to open; doubled each time, shortened by up to half at random."""
HEALTHY_SECONDS = 10.0
"""After sound for so long the next pause is the first one again."""


class ReconnectingSource:
    """Opens a source, and opens it again whenever it stops.

    With `wait_for_first_open` the first `read` opens it; otherwise the constructor does. Without `retry`, every
    error of the source is raised and its end is the end. With `retry`, an error or an end after the first sound
    makes `read` open it again until it delivers or is closed; an error before the first sound is raised, unless
    `wait_for_first_open` says to try on. The state is "opening" until the first samples arrive: a command may
    start before its camera answers.

    The loss between the last sample before and the first one after is measured by the monotonic clock and counted
    in `start_sample`. `restart`, `close`, `status` and `take_events` are for any thread.
    """

    def __init__(
        self,
        open: Callable[[], Source],
        *,
        name: str,
        sample_rate: int,
        live: bool,
        wait_for_first_open: bool = False,
        retry: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        """`name` is shown until the source is open. `wait` pauses for seconds and returns True once closed."""
        self._open, self._name, self._retry = open, name, retry
        self.sample_rate, self.live = sample_rate, live
        self._waits_for_first_open = wait_for_first_open
        self._clock = clock
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._backoff = backoff or Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._was_opened = not wait_for_first_open
        self._lock = threading.Lock()
        self._inner: Source | None = None
        self._events: deque[SourceEvent] = deque(maxlen=1000)
        self._status = SourceStatus(SourceState.OPENING, since=clock(), channels=0)
        """Of all sources so far, without the one that is open."""
        self._joined = (self._status, self._status, self._status)
        """That, the status of the open source, and both together: made anew only if one of them has changed."""
        self._restart_reason = ""
        self._restarts = 0
        """A restart in the middle of an opening makes its result outdated."""
        self._position, self._offset = 0, 0
        self._last_sound_at = self._healthy_since = 0.0
        self._has_sound = self._is_delivering = False
        """Since the beginning, and since the last opening."""
        if not wait_for_first_open:
            self._inner = open()

    @property
    def name(self) -> str:
        """What is in use; before the first opening, what was asked for."""
        inner = self._inner
        if inner is not None:
            self._name = inner.name
        return self._name

    @property
    def status(self) -> SourceStatus:
        """State of the open source, with the losses since the beginning."""
        with self._lock:
            inner, status = self._inner, self._status
            if inner is None:
                return status
            own = inner.status
            if self._joined[0] is not status or self._joined[1] is not own:
                joined = replace(
                    status,
                    overruns=status.overruns + own.overruns,
                    bits=own.bits,
                    channels=own.channels,
                    rate_fault=own.rate_fault,
                    is_rate_doubtful=own.is_rate_doubtful,
                )
                self._joined = status, own, joined
            return self._joined[2]

    def take_events(self) -> list[SourceEvent]:
        """The events since the last call, oldest first."""
        with self._lock:
            inner = [] if self._inner is None else self._inner.take_events()
        return take_all(self._events) + inner

    def read(self) -> AudioChunk | None:
        """The next samples; None at the end and after `close`."""
        while not self._closed.is_set():
            inner = self._inner or self._open_again()
            if inner is None:
                break
            try:
                chunk = inner.read()
                reason = self._restart_reason or f"{inner.name}: ended"
            except Exception as error:
                if not self._may_retry:
                    raise
                chunk, reason = None, str(to_user_error(error))
            if chunk is not None:
                return self._renumber(chunk)
            if self._closed.is_set() or not self._retry:
                break
            self._lose(reason)
        return None

    @property
    def _may_retry(self) -> bool:
        return self._retry and (self._has_sound or self._waits_for_first_open)

    def _open_again(self) -> Source | None:
        """Open until it works; None once closed."""
        while not self._closed.is_set():
            if self._was_opened and self._wait(self._backoff.failed()):
                break
            self._was_opened = True
            restarts = self._restarts
            try:
                inner = self._open()
            except Exception as error:
                if not self._may_retry:
                    raise
                self._set_status(reason=str(to_user_error(error)))
                continue
            with self._lock:
                self._inner = inner
                is_outdated = restarts != self._restarts
            if not self._closed.is_set() and not is_outdated:
                return inner
            self._drop_inner()
        return None

    def _renumber(self, chunk: AudioChunk) -> AudioChunk:
        """Place a chunk of the open source among those of the sources before it."""
        now, length = self._clock(), len(chunk.samples) / self.sample_rate
        discontinuity = chunk.discontinuity
        if not self._is_delivering:
            discontinuity |= self._has_sound
            self._begin(chunk, now, length)
        elif now - self._healthy_since >= HEALTHY_SECONDS:
            self._backoff.succeeded()
        self._last_sound_at = now
        start = chunk.start_sample + self._offset
        if start != self._position and self._has_sound:
            self._set_status(lost_samples=self._status.lost_samples + start - self._position)
        self._has_sound = True
        self._position = start + len(chunk.samples)
        return AudioChunk(chunk.samples, start, chunk.captured_at, discontinuity)

    def _begin(self, chunk: AudioChunk, now: float, length: float) -> None:
        """The first sound since the source was opened."""
        lost_seconds, reconnects = 0.0, self._status.reconnects
        if self._has_sound:
            lost_seconds = max(0.0, now - length - self._last_sound_at)
            self._events.append(SourceEvent(SourceEventKind.REOPENED, self.name, lost_seconds, at=now))
            reconnects += 1
        self._offset = self._position + round(lost_seconds * self.sample_rate) - chunk.start_sample
        self._healthy_since, self._is_delivering = now, True
        self._set_status(state=SourceState.OPEN, reason="", since=now, reconnects=reconnects)

    def _lose(self, reason: str) -> None:
        self._restart_reason = ""
        if self._is_delivering:
            self._is_delivering = False
            now = self._clock()
            self._set_status(state=SourceState.REOPENING, reason=reason, since=now)
            self._events.append(SourceEvent(SourceEventKind.LOST, reason, at=now))
        else:
            self._set_status(reason=reason)
        # Last: a source that hangs in a driver may hang in close() too, and its loss must be known by then.
        self._drop_inner()

    def _set_status(self, **changes: object) -> None:
        with self._lock:
            if self._status.state is not SourceState.CLOSED:
                self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def _drop_inner(self) -> None:
        """Close the source that is open. A broken one may fail to close; that must not end the attempts."""
        with self._lock:
            inner, self._inner = self._inner, None
            if inner is not None:
                own = inner.status
                self._name = inner.name
                self._status = replace(
                    self._status,
                    overruns=self._status.overruns + own.overruns,
                    bits=own.bits,
                    channels=own.channels,
                )
                self._events.extend(inner.take_events())
        if inner is not None:
            with suppress(Exception):
                inner.close()

    def restart(self, reason: str) -> None:
        """Open it afresh, as if it had stopped for `reason`. For another thread than the one that reads."""
        with self._lock:
            inner, self._restart_reason = self._inner, reason if self._inner is not None else ""
            self._restarts += 1
        if inner is not None:
            inner.close()

    def close(self) -> None:
        """Close for good, and end a `read` that blocks or waits in another thread."""
        self._closed.set()
        self._set_status(state=SourceState.CLOSED, reason="", since=self._clock())
        inner = self._inner
        if inner is not None:
            inner.close()
