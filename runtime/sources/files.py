"""A sound file as a source: as fast as it is read, or paced as if it were heard now."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from edgeasd.runtime.audio.reader import AudioReader, Samples

FAST_BLOCK = 16384
REALTIME_BLOCK = 512  # 32 ms at 16 kHz, the delivery of a capture device with our period


class Pacer:
    """Hands sound out when its last sample would have been heard.

    Times count from the beginning on the monotonic clock, so pacing does not drift and a late reader catches up.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._sent = sample_rate, 0
        self._start: float | None = None

    def begin(self) -> None:
        """Sample 0 is heard now, at the first call."""
        if self._start is None:
            self._start = time.monotonic()

    def wait(self, count: int, closed: threading.Event) -> bool:
        """Wait until `count` more samples would have been heard; False where `closed` came first."""
        assert self._start is not None, "begin comes first"
        self._sent += count
        due = self._start + self._sent / self._rate
        return not closed.wait(max(0.0, due - time.monotonic()))


class FileSource:
    """A file of any length, read block by block in constant memory.

    With `realtime` it is paced from the first read on; see `Pacer`.
    `block` is in frames of the file. Raises InputError as `edgeasd.runtime.audio.reader.read_audio` does
    (without its limit of an hour): for a FLAC file that is cut off, only when the cut is reached.
    """

    live = False

    def __init__(
        self,
        path: str | Path,
        sample_rate: int = 16000,
        channel: int | None = None,
        mix: bool = False,
        resample: bool = False,
        realtime: bool = False,
        block: int | None = None,
    ) -> None:
        self.sample_rate = sample_rate
        self._reader = AudioReader(path, sample_rate=sample_rate, channel=channel, mix=mix, resample=resample)
        self.name = self._reader.name + (", in real time" if realtime else "")
        self._block = block or (REALTIME_BLOCK if realtime else FAST_BLOCK)
        self._pacer = Pacer(sample_rate) if realtime else None
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def read(self) -> Samples | None:
        """The next samples, shape (n,), n >= 1, float32; None at the end of the file or after `close`."""
        if self._pacer is not None:
            self._pacer.begin()
        with self._lock:
            samples = None if self._closed.is_set() else self._reader.read(self._block)
        if samples is None or (self._pacer is not None and not self._pacer.wait(len(samples), self._closed)):
            return None
        return samples

    def close(self) -> None:
        """Close the file; a `read` that waits for its time in another thread returns None."""
        self._closed.set()
        with self._lock:
            self._reader.close()
