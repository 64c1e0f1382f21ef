"""A pipe fed like a microphone, and a look at when its reader begins to empty it."""

from __future__ import annotations

import array
import fcntl
import termios
import threading
import time
from typing import IO

import numpy as np

RATE = 16_000
BLOCK = 512


class Feeder(threading.Thread):
    """Writes s16le to a pipe as a microphone would: block k is there when its last sample was heard."""

    def __init__(self, pipe: IO[bytes], samples: np.ndarray, begun: float) -> None:
        super().__init__(daemon=True)
        self._pipe, self._begun = pipe, begun
        self._data = (samples * 32768).astype("<i2")
        self.first_read: float | None = None
        """Seconds from `begun` until the pipe had first been emptied: capture runs."""
        self.latest = 0.0
        """Largest delay of a write in seconds: beyond a block's 32 ms the reader would have lost sound."""

    def run(self) -> None:
        for at in range(0, self._data.size, BLOCK):
            block = self._data[at : at + BLOCK]
            due = self._begun + (at + block.size) / RATE
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, 0.01))
                self._watch(at)
            self._pipe.write(block.tobytes())
            self.latest = max(self.latest, time.monotonic() - due)
        self._pipe.close()

    def _watch(self, written: int) -> None:
        if self.first_read is None and written:
            waiting = array.array("i", [0])
            fcntl.ioctl(self._pipe.fileno(), termios.FIONREAD, waiting)
            if waiting[0] == 0:
                self.first_read = time.monotonic() - self._begun
