"""From a source to its reader: a thread that captures, a bounded queue, and a clock that dates the sound.

The thread starts before the bundle is hashed and loaded, so no sound is missed meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgeasd.runtime.sources.base import AudioChunk, Source

PACES = ("block", "drop")
_JOINED_SAMPLES = 16_000


class SampleQueue:
    """A bounded queue of chunks between the capture thread and the reader.

    A full queue makes the writer wait (`block`: files, tests) or drops the new chunk and counts it (`drop`: a live
    device that does not wait). The next chunk after a drop is marked as a discontinuity.
    """

    def __init__(self, capacity: int, pace: str, on_change: Callable[[], object] = lambda: None) -> None:
        """`capacity` is in samples. `on_change` is called in the writer's thread when there is something to take."""
        self._capacity, self._is_blocking, self._on_change = capacity, pace == "block", on_change
        self._chunks: deque[AudioChunk] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._is_finished = False
        self._is_abandoned = False
        self._has_dropped = False
        self._error: BaseException | None = None
        self.dropped = 0
        """Samples lost because the reader was late."""

    @property
    def held(self) -> int:
        """Samples that wait."""
        return self._held

    @property
    def ended(self) -> bool:
        """Whether no more chunks will come, and none waits."""
        return self._is_finished and not self._chunks

    @property
    def error(self) -> BaseException | None:
        """The error that ended the source, if any."""
        return self._error

    def put(self, chunk: AudioChunk) -> bool:
        """Add a chunk. Returns False after `abandon`: the writer should stop."""
        count = len(chunk.samples)
        with self._changed:
            if self._is_blocking:
                # An empty queue takes a chunk of any size, or one larger than the capacity would wait for ever.
                self._changed.wait_for(
                    lambda: self._is_abandoned or not self._held or self._held + count <= self._capacity
                )
            if self._is_abandoned:
                return False
            if self._held + count <= self._capacity or not self._held:
                self._chunks.append(replace(chunk, discontinuity=True) if self._has_dropped else chunk)
                self._held += count
                self._has_dropped = False
                self._changed.notify_all()
            else:
                self.dropped += count
                self._has_dropped = True
        self._on_change()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """No more chunks will come. `error` is raised by `get` after the chunks that wait."""
        with self._changed:
            self._is_finished, self._error = True, error
            self._changed.notify_all()
        self._on_change()

    def abandon(self) -> None:
        """Nothing more will be read; a waiting writer returns at once."""
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> AudioChunk | None:
        """The next chunk, joined with those that follow it without a gap, up to about a second.

        None at the end (see `ended`) and after `timeout` seconds. Raises the error that ended the source.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._is_finished, timeout)
            if not self._chunks:
                if self._error is not None:
                    raise self._error
                return None
            first = self._chunks.popleft()
            parts, end = [first.samples], first.end_sample
            while self._continues(end) and end - first.start_sample < _JOINED_SAMPLES:
                chunk = self._chunks.popleft()
                parts.append(chunk.samples)
                end = chunk.end_sample
            self._held -= end - first.start_sample
            self._changed.notify_all()
        return first if len(parts) == 1 else replace(first, samples=np.concatenate(parts))

    def take(self) -> AudioChunk | None:
        """The next chunk as it came in, without waiting; None if none waits (see `ended`)."""
        with self._changed:
            if not self._chunks:
                return None
            chunk = self._chunks.popleft()
            self._held -= len(chunk.samples)
            self._changed.notify_all()
        return chunk

    def _continues(self, end: int) -> bool:
        """Whether the next chunk follows sample `end` without a gap."""
        return bool(self._chunks) and self._chunks[0].start_sample == end and not self._chunks[0].discontinuity


class CaptureClock:
    """Dates live sound by the most punctual chunks; monotonic seconds.

    A chunk arrives when its last sample has been captured, or later if its reader was late or the driver delivers
    several periods at once. So the earliest arrival is right and later ones are not: a sample's time comes from the
    earliest arrival so far, moved by at most `DRIFT` so that it follows a device whose clock is slow.
    A discontinuity starts afresh. Sound that is not live keeps the time at which it was read.
    """

    DRIFT = 5e-4
    """Seconds a second. Sound cards are off by some 50 ppm; this leaves room."""
    WINDOW_SECONDS, LATE_SECONDS = 60.0, 0.5
    """If the most punctual chunk of so much sound is later than that, uncounted sound was lost."""

    def __init__(self, sample_rate: int, live: bool) -> None:
        self._rate, self._live = sample_rate, live
        self._begin(0)

    def _begin(self, position: int) -> None:
        self._position = position
        self._start: float | None = None
        """When sample 0 was captured."""
        self._window, self._least_late = 0.0, math.inf
        """Seconds of sound since the last check for uncounted losses, and how late its most punctual chunk was."""

    def date(self, chunk: AudioChunk) -> AudioChunk:
        """The chunk with a corrected `captured_at`."""
        if not self._live:
            return chunk
        if chunk.discontinuity or chunk.start_sample != self._position:
            self._begin(chunk.start_sample)
        self._position = chunk.end_sample
        seconds = len(chunk.samples) / self._rate
        start = chunk.captured_at - chunk.start_sample / self._rate
        if self._start is not None:
            self._check_lateness(start - self._start, seconds)
            start = min(start, self._start + self.DRIFT * seconds)
        self._start = start
        at = start + chunk.start_sample / self._rate
        return AudioChunk(chunk.samples, chunk.start_sample, at, chunk.discontinuity)

    def _check_lateness(self, late: float, seconds: float) -> None:
        """A camera that drops packets silently would date all that follows further and further back."""
        assert self._start is not None
        self._window, self._least_late = self._window + seconds, min(self._least_late, late)
        if self._window >= self.WINDOW_SECONDS:
            self._start += self._least_late if self._least_late > self.LATE_SECONDS else 0.0
            self._window, self._least_late = 0.0, math.inf


class CaptureThread:
    """Reads a source into a queue in a thread of its own, up to `limit` samples if given."""

    def __init__(self, source: Source, queue: SampleQueue, limit: int | None = None) -> None:
        self._source, self._queue, self._limit = source, queue, limit
        self._clock = CaptureClock(source.sample_rate, source.live)
        self._thread = threading.Thread(target=self._run, name="edgeasd-capture", daemon=True)

    def start(self) -> None:
        """Begin to read, unless that has begun. Raises RuntimeError if the system has no thread."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop reading, close the source and wait for the thread."""
        self._queue.abandon()
        self._source.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        remaining = self._limit
        try:
            while remaining is None or remaining > 0:
                chunk = self._source.read()
                if chunk is None:
                    break
                if remaining is not None:
                    chunk = replace(chunk, samples=chunk.samples[:remaining])
                    remaining -= len(chunk.samples)
                if not self._queue.put(self._clock.date(chunk)):
                    break
            self._queue.end()
        except BaseException as error:  # raised again in the reader
            self._queue.end(error)
