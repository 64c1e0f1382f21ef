"""From a source to the scorer: a thread that reads, and a bounded queue that knows what it lost.

The thread starts before the bundle is hashed and loaded, so nothing is missed meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.sources import Source

PACES = ("block", "drop")
_WAKE_SECONDS = 0.5
_JOINED_SAMPLES = 16_000


@dataclass(frozen=True, slots=True)
class Block:
    """Samples (n,) float32, the first of which has index `position` since capture began.

    `after_loss`: the driver lost an unknown number of samples just before them, which no position tells.
    `captured_at`: when the first sample was captured, on the monotonic clock in seconds (see `CaptureClock`).
    """

    position: int
    samples: Float32Array
    after_loss: bool = False
    captured_at: float = 0.0


class SampleQueue:
    """A bounded queue of samples between the capture thread and the scorer.

    When full it either lets the writer wait (`block`: files, tests) or drops the new block and
    counts it (`drop`: a live device that will not wait). Positions go on counting over a loss, so
    the reader sees a gap for what it is.
    """

    def __init__(self, capacity: int, pace: str, on_change: Callable[[], object] = lambda: None) -> None:
        """`on_change` is called from the writer's thread when there is something to take: for who reads several."""
        self._capacity, self._blocking, self._on_change = capacity, pace == "block", on_change
        self._blocks: deque[Block] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._ended = False
        self._abandoned = False
        self._error: BaseException | None = None
        self._position = 0
        self.dropped = 0
        """Samples lost because scoring could not keep up."""

    @property
    def held(self) -> int:
        """Samples that wait."""
        return self._held

    def skip(self, lost: int) -> None:
        """Count `lost` samples that the source knows to be missing; the next block lies behind them."""
        with self._changed:
            self._position += lost

    def put(self, samples: Float32Array, after_loss: bool = False, captured_at: float = 0.0) -> bool:
        """Add samples; False where nobody reads any more and the writer should stop."""
        with self._changed:
            if self._blocking:
                # An empty queue takes a block of any size, or one larger than the capacity would wait for ever.
                self._changed.wait_for(
                    lambda: self._abandoned or not self._held or self._held + samples.size <= self._capacity
                )
            if self._abandoned:
                return False
            if self._held + samples.size <= self._capacity or not self._held:
                self._blocks.append(Block(self._position, samples, after_loss, captured_at))
                self._held += samples.size
                self._changed.notify_all()
            else:
                self.dropped += samples.size
            self._position += samples.size
        self._on_change()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """No more samples will come; `error` is raised to the reader after it has had what waits."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()
        self._on_change()

    def abandon(self) -> None:
        """The reader has gone; a waiting writer returns at once."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def get(
        self,
        idle: Callable[[], None] = lambda: None,
        hold: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Block | None:
        """The next block, joined with the ones that follow it without a gap (about a second at most).

        `idle` is called twice a second while nothing comes. `hold` is entered for half a second at most, and is to
        keep back signals whose handlers raise: an exception in the middle of a lock leaves it taken for ever, or
        fails in giving back what it does not have. None at the end of the source; raises whatever ended the source
        with an error.
        """
        while True:
            with hold():
                if self._wait_for_block():
                    return self._joined()
            idle()

    def _joined(self) -> Block | None:
        with self._changed:
            if not self._blocks:
                if self._error is not None:
                    raise self._error
                return None
            first = self._blocks.popleft()
            parts, end = [first.samples], first.position + first.samples.size
            while self._continues(end) and end - first.position < _JOINED_SAMPLES:
                part = self._blocks.popleft().samples
                parts.append(part)
                end += part.size
            self._held -= end - first.position
            self._changed.notify_all()
        return first if len(parts) == 1 else replace(first, samples=np.concatenate(parts))

    def take(self) -> Block | None:
        """The next block as it came in, without waiting; None where none waits (see `ended`)."""
        with self._changed:
            if not self._blocks:
                return None
            block = self._blocks.popleft()
            self._held -= block.samples.size
            self._changed.notify_all()
        return block

    @property
    def ended(self) -> bool:
        """Whether no more blocks will come, and none waits."""
        return self._ended and not self._blocks

    @property
    def error(self) -> BaseException | None:
        """What ended the source, if not its end."""
        return self._error

    def _wait_for_block(self) -> bool:
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._blocks or self._ended, _WAKE_SECONDS))

    def _continues(self, end: int) -> bool:
        """Whether the next block follows sample `end` without a gap."""
        return bool(self._blocks) and self._blocks[0].position == end and not self._blocks[0].after_loss


class CaptureClock:
    """When a sample was captured, from when blocks arrived; monotonic seconds.

    A block arrives when its last sample has been captured, or later where its reader was late or the driver
    hands out several periods at once. So the earliest arrival tells the truth, and the later ones do not: a
    sample's time is taken from the earliest so far, moved by no more than `DRIFT` so that it follows a device
    whose clock is slow. A source that is not live has no such times; there the arrival itself is taken.
    """

    DRIFT = 5e-4
    """Seconds a second. Sound cards are off by some 50 ppm; this leaves room."""
    WINDOW_SECONDS, LATE_SECONDS = 60.0, 0.5
    """Where the most punctual block of so much sound is later than that, sound was lost that nobody has counted."""

    def __init__(self, sample_rate: int, live: bool) -> None:
        self._rate, self._live = sample_rate, live
        self.begin()

    def begin(self) -> None:
        """Sound was lost: what was known of the times is worth nothing any more."""
        self._position = 0
        self._start: float | None = None
        """When sample 0 was captured."""
        self._window, self._least = 0.0, math.inf
        """Seconds of sound since the last look for such losses, and how late the most punctual block in them was."""

    def arrived(self, count: int, now: float) -> float:
        """The time of the first of `count` samples that arrived at `now`."""
        if not self._live:
            return now
        first, self._position = self._position, self._position + count
        start = now - self._position / self._rate
        if self._start is not None:
            self._see(start - self._start, count / self._rate)
            start = min(start, self._start + self.DRIFT * count / self._rate)
        self._start = start
        return start + first / self._rate

    def _see(self, late: float, seconds: float) -> None:
        """A camera that drops packets, or a program that says nothing of its overruns, would date all that follows
        further and further back."""
        assert self._start is not None
        self._window, self._least = self._window + seconds, min(self._least, late)
        if self._window >= self.WINDOW_SECONDS:
            self._start += self._least if self._least > self.LATE_SECONDS else 0.0
            self._window, self._least = 0.0, math.inf


class Capture:
    """Reads a source into a queue in a thread of its own, up to `limit` samples where given."""

    def __init__(
        self,
        source: Source,
        queue: SampleQueue,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._queue, self._limit, self._clock = source, queue, limit, clock
        self._times = CaptureClock(source.sample_rate, source.live)
        self._overruns, self._lost, self._reopened = 0, 0, 0
        self._thread = threading.Thread(target=self._run, name="edgeasd-capture", daemon=True)

    def start(self) -> None:
        """Begin to read, where that has not begun."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Stop reading, close the source and wait for the thread."""
        self._queue.abandon()
        self._source.close()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        left = self._limit
        try:
            while left is None or left > 0:
                samples = self._source.read()
                if samples is None:
                    break
                if left is not None:
                    samples = samples[:left]
                    left -= samples.size
                if not self._pass_on(samples, self._clock()):
                    break
            self._queue.end()
        except BaseException as error:  # handed to the reader, which is in the main thread
            self._queue.end(error)

    def _pass_on(self, samples: Float32Array, now: float) -> bool:
        overruns, lost = getattr(self._source, "overruns", 0), getattr(self._source, "lost_samples", 0)
        reopened, missing = getattr(self._source, "reopened", 0), lost - self._lost
        # A source that came back with no time lost (a pipe in a burst) still does not go on where it stopped.
        after_loss = overruns != self._overruns or (reopened != self._reopened and not missing)
        self._overruns, self._lost, self._reopened = overruns, lost, reopened
        if missing:
            self._queue.skip(missing)
        if after_loss or missing:
            self._times.begin()
        return self._queue.put(samples, after_loss, self._times.arrived(samples.size, now))
