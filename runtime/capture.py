"""From a source to the scorer: a thread that reads, and a bounded queue that knows what it lost.

The thread starts before the bundle is hashed and loaded, so nothing is missed meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.sources import Source

PACES = ("block", "drop")
_WAKE_SECONDS = 0.5
_JOINED_SAMPLES = 16_000


@dataclass(frozen=True, slots=True)
class Block:
    """Samples (n,) float32, the first of which has index `position` since capture began.

    `after_loss`: the driver lost an unknown number of samples just before them, which no position tells.
    """

    position: int
    samples: Float32Array
    after_loss: bool = False


class SampleQueue:
    """A bounded queue of samples between the capture thread and the scorer.

    When full it either lets the writer wait (`block`: files, tests) or drops the new block and
    counts it (`drop`: a live device that will not wait). Positions go on counting over a loss, so
    the reader sees a gap for what it is.
    """

    def __init__(self, capacity: int, pace: str) -> None:
        self._capacity, self._blocking = capacity, pace == "block"
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

    def put(self, samples: Float32Array, after_loss: bool = False) -> bool:
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
                self._blocks.append(Block(self._position, samples, after_loss))
                self._held += samples.size
                self._changed.notify_all()
            else:
                self.dropped += samples.size
            self._position += samples.size
            return True

    def end(self, error: BaseException | None = None) -> None:
        """No more samples will come; `error` is raised to the reader after it has had what waits."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """The reader has gone; a waiting writer returns at once."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def get(self) -> Block | None:
        """The next block, joined with the ones that follow it without a gap (about a second at most).

        None at the end of the source; raises whatever ended the source with an error.
        """
        with self._changed:
            # Woken now and then, so that a signal is answered while no sound comes.
            while not self._changed.wait_for(lambda: self._blocks or self._ended, _WAKE_SECONDS):
                pass
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
        return first if len(parts) == 1 else Block(first.position, np.concatenate(parts), first.after_loss)

    def _continues(self, end: int) -> bool:
        """Whether the next block follows sample `end` without a gap."""
        return bool(self._blocks) and self._blocks[0].position == end and not self._blocks[0].after_loss


class Capture:
    """Reads a source into a queue in a thread of its own, up to `limit` samples where given."""

    def __init__(self, source: Source, queue: SampleQueue, limit: int | None = None) -> None:
        self._source, self._queue, self._limit = source, queue, limit
        self._thread = threading.Thread(target=self._run, name="edgeasd-capture", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, close the source and wait for the thread."""
        self._queue.abandon()
        self._source.close()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        left, overruns = self._limit, 0
        try:
            while left is None or left > 0:
                samples = self._source.read()
                if samples is None:
                    break
                if left is not None:
                    samples = samples[:left]
                    left -= samples.size
                lost = getattr(self._source, "overruns", 0)
                if not self._queue.put(samples, after_loss=lost != overruns):
                    break
                overruns = lost
            self._queue.end()
        except BaseException as error:  # handed to the reader, which is in the main thread
            self._queue.end(error)
