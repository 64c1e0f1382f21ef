"""What every sound input offers, and the parts that raw PCM inputs share."""

from __future__ import annotations

import os
import select
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.audio.reader import Samples
from edgeasd.runtime.errors import DeviceError, EdgeasdError, InputError

TICK_SECONDS = 0.1  # how long a blocked read() may take to notice close()
MAX_CHANNELS = 1024
PCM_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "s24in32le": 4}


def as_ours(error: Exception) -> EdgeasdError:
    """An error as one line for a user; one of a library or of the system as a DeviceError that names its type."""
    if isinstance(error, EdgeasdError):
        return error
    return DeviceError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """Something that happened to a source and that its listener should say.

    `state` is "lost" (it stopped, and is tried again), "reopened", "playing" (another file begins) or
    "skipped" (a file that cannot be used).
    """

    state: str
    detail: str
    lost_seconds: float = 0.0
    at_sample: int | None = None
    """Where in the sound, for files."""
    at: float = field(default_factory=time.monotonic)
    """When, on the monotonic clock."""


class Source(Protocol):
    """One mono stream of sound.

    `name` says what is in use, for display and status messages. `sample_rate` is that of the
    samples `read` yields, in Hz. `live` is true where sound that is not read in time is lost.

    What only some sources have, and whoever wants it asks for with getattr: `overruns` (times at which
    the driver lost an unknown amount), `lost_samples` (samples known to be lost so far, at `sample_rate`),
    `bits` (bits of a sample as captured), `events` (a deque of SourceEvent, taken from the left) and
    `state` ("open", "reopening" or "closed") with `since` on the monotonic clock.
    """

    @property
    def name(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def live(self) -> bool: ...

    def read(self) -> Samples | None:
        """Block for the next samples, shape (n,), n >= 1, float32; None at the end or after `close`.

        Raises InputError for bad input and DeviceError for a device that stopped.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice and from another thread: a blocked `read` ends soon."""
        ...


class MultiSource(Protocol):
    """As `Source`, with all `channels` of one device: `read` yields shape (n, channels)."""

    @property
    def name(self) -> str: ...

    @property
    def sample_rate(self) -> int: ...

    @property
    def live(self) -> bool: ...

    @property
    def channels(self) -> int: ...

    def read(self) -> Samples | None:
        """Block for the next frames, shape (n, channels), n >= 1, float32; None at the end or after `close`."""
        ...

    def close(self) -> None:
        """As of `Source`."""
        ...


def _decode_s16le(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)


def _decode_s24le(data: bytes) -> Samples:
    wide: NDArray[np.uint8] = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)


def _decode_s24in32le(data: bytes) -> Samples:
    # The shift drops the fourth byte, in which some drivers leave anything.
    return (np.frombuffer(data, "<i4") << 8).astype(np.float32) / np.float32(1 << 31)


def _decode_s32le(data: bytes) -> Samples:
    return np.frombuffer(data, "<i4").astype(np.float32) / np.float32(1 << 31)


def _decode_f32le(data: bytes) -> Samples:
    return np.frombuffer(data, "<f4").astype(np.float32)


_DECODERS = {
    "s16le": _decode_s16le,
    "s24le": _decode_s24le,
    "s24in32le": _decode_s24in32le,
    "s32le": _decode_s32le,
    "f32le": _decode_f32le,
}


class PcmDecoder:
    """Raw interleaved PCM to float32 frames; a frame split over two calls is kept until it is whole.

    `format` is s16le, s24le (packed, 3 bytes), s24in32le (the lower 3 of 4 bytes), s32le or f32le; integers
    are divided by full scale.
    Raises InputError for another format or an impossible number of channels.
    """

    def __init__(self, format: str, channels: int) -> None:
        if format not in PCM_BYTES:
            raise InputError(f"{format}: not a PCM format known here; use one of {', '.join(PCM_BYTES)}")
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"{channels} PCM channels: give a number from 1 to {MAX_CHANNELS}")
        self._decode = _DECODERS[format]
        self._channels = channels
        self._kept = b""
        self.frame_bytes = PCM_BYTES[format] * channels

    @property
    def stray_bytes(self) -> int:
        """Bytes of a frame that has begun and is not whole yet."""
        return len(self._kept)

    def push(self, data: bytes) -> Samples:
        """Frames completed by `data`, shape (n, channels), n >= 0, float32."""
        data = self._kept + data
        whole = len(data) - len(data) % self.frame_bytes
        self._kept = data[whole:]
        return self._decode(data[:whole]).reshape(-1, self._channels)


class DescriptorReader:
    """Blocking reads from a pipe or file descriptor that `close` from another thread can end.

    The descriptor stays the caller's; once `close` has returned, nobody reads it any more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """1 to `size` bytes as soon as there are any; b"" at the end of the stream or after `close`.

        Raises TimeoutError after `timeout` seconds without a byte, OSError as os.read does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self._closed.is_set():
                    return b""
                if self._poll.poll(int(1000 * TICK_SECONDS)):
                    return os.read(self._descriptor, size)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError

    def close(self) -> None:
        """End a blocked `read` and wait until it has let go of the descriptor."""
        self._closed.set()
        with self._lock:
            pass
