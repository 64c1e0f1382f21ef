"""A source that comes back: what stopped is opened again, with pauses that grow, and the loss is measured."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.errors import EdgeasdError
from edgeasd.runtime.sources.base import SourceEvent, as_ours

if TYPE_CHECKING:
    from edgeasd.runtime.sources.base import MultiSource, Source

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 10.0
"""Seconds: the first pause, and the one at which doubling ends. Each is shortened by up to half at random."""
HEALTHY_SECONDS = 10.0
"""Sound for so long makes the next pause a first one again."""


class Reopening:
    """Keeps a `Source` or `MultiSource` open: where it fails, `open_source` is called until it delivers again.

    The first opening is the caller's business: what cannot be opened at the start, or fails before its first
    sound, raises at once, so that a wrong name is not tried for ever. From then on `read` raises nothing (where
    it is not live: nothing but what is no EdgeasdError) and returns None only after `close`, or at the end of an inner source that is not `endless`.

    `lost_samples` counts what is missing between the last sample before and the first one after, by the
    monotonic clock; `reopened` how often that happened. `state` is "open", "reopening" or "closed", `since`
    when it became so (monotonic seconds), `reason` why it was left last; `events` says both to listeners.
    All may be read from another thread.
    """

    def __init__(
        self,
        open_source: Callable[[], Source | MultiSource],
        *,
        endless: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`endless` takes the end of an inner source for a failure. `wait` pauses for seconds, True once closed."""
        self._open, self._endless, self._clock, self._jitter = open_source, endless, clock, jitter
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait
        self._lock = threading.Lock()
        self._inner: Source | MultiSource | None = open_source()
        self.name, self.sample_rate, self.live = self._inner.name, self._inner.sample_rate, self._inner.live
        self.channels = int(getattr(self._inner, "channels", 1))
        self.bits = int(getattr(self._inner, "bits", 16))
        self.converted = bool(getattr(self._inner, "converted", False))
        self.events: deque[SourceEvent] = deque(maxlen=1000)
        self.lost_samples, self.reopened = 0, 0
        self.state, self.since, self.reason = "open", clock(), ""
        self._restart_reason = ""
        self._restarts = 0
        """One in the middle of an opening makes what comes of that outdated."""
        self._overruns_before = 0
        self._heard_until: float | None = None
        self._healthy_from = 0.0
        self._pause = FIRST_PAUSE

    @property
    def overruns(self) -> int:
        """Overruns of all inner sources so far."""
        return self._overruns_before + int(getattr(self._inner, "overruns", 0))

    def read(self) -> Samples | None:
        """The next samples of the inner source, shape (n,) or (n, channels), float32; None at the end."""
        while not self._closed.is_set():
            if self._inner is None and not self._reopen():
                break
            samples, reason = self._try_read()
            if samples is not None:
                self._note_sound(len(samples))
                return samples
            if reason is None:
                return None
            self._lose(reason)
        return None

    def _try_read(self) -> tuple[Samples | None, str | None]:
        """Samples, or why there are none; neither at an end that is one."""
        assert self._inner is not None
        try:
            samples = self._inner.read()
        except Exception as error:
            if self._heard_until is None or not self._goes_on(error):
                raise
            return None, str(as_ours(error))
        if samples is not None:
            return samples, None
        if self._closed.is_set() or not self._endless:
            return None, None
        reason, self._restart_reason = self._restart_reason, ""
        return None, reason or f"{self.name}: ended"

    def _note_sound(self, count: int) -> None:
        now = self._clock()
        if self.state == "reopening":
            before = now if self._heard_until is None else self._heard_until
            lost = max(0.0, now - count / self.sample_rate - before)
            self.lost_samples += round(lost * self.sample_rate)
            self.reopened += 1
            self._healthy_from = now
            self._enter("open", self.reason)
            self.events.append(SourceEvent("reopened", self.name, lost, at=now))
        elif now - self._healthy_from >= HEALTHY_SECONDS:
            self._pause = FIRST_PAUSE
        self._heard_until = now

    def _goes_on(self, error: Exception) -> bool:
        """Whether it is tried again. A shortage of processes or files passes, and a library has errors of its own."""
        return self.live or isinstance(error, EdgeasdError)

    def _lose(self, reason: str) -> None:
        overruns, inner = self.overruns, self._take_inner()
        self._overruns_before = overruns
        if self.state == "open":
            self._enter("reopening", reason)
            self.events.append(SourceEvent("lost", reason, at=self.since))
        # Last: what hangs in a driver may hang in closing too, and is to be known as lost by then.
        _close_broken(inner)

    def _reopen(self) -> bool:
        """Wait and open until it works; False once closed."""
        while not self._wait(self._pause * (1.0 - 0.5 * self._jitter())) and not self._closed.is_set():
            self._pause = min(2.0 * self._pause, LONGEST_PAUSE)
            restarts = self._restarts
            try:
                inner = self._open()
            except Exception as error:
                if not self._goes_on(error):
                    raise
                self.reason = str(as_ours(error))
                continue
            with self._lock:
                self._inner, self.name = inner, inner.name
                self.channels = int(getattr(inner, "channels", 1))
                outdated = restarts != self._restarts
            if self._closed.is_set() or outdated:
                self._drop_inner()
                continue
            return True
        return False

    def restart(self, reason: str) -> None:
        """Have it opened afresh, as if it had stopped for `reason`; for another thread than the one that reads."""
        with self._lock:
            inner, self._restart_reason = self._inner, reason if self._inner is not None else ""
            self._restarts += 1
        if inner is not None:
            inner.close()

    def _enter(self, state: str, reason: str) -> None:
        self.state, self.since, self.reason = state, self._clock(), reason

    def _take_inner(self) -> Source | MultiSource | None:
        with self._lock:
            inner, self._inner = self._inner, None
        return inner

    def _drop_inner(self) -> None:
        _close_broken(self._take_inner())

    def close(self) -> None:
        """Close for good; idempotent, and ends a `read` that blocks or waits in another thread."""
        self._closed.set()
        with self._lock:
            inner = self._inner
        if inner is not None:
            inner.close()
        if self.state != "closed":
            self._enter("closed", "")


def _close_broken(inner: Source | MultiSource | None) -> None:
    """What is broken may not even close; that must not end the attempts."""
    if inner is not None:
        with suppress(Exception):
            inner.close()
