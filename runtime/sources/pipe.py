"""Raw PCM from a pipe, such as standard input."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.audio.container import sniff
from edgeasd.runtime.audio.reader import (
    Samples,
    StreamResampler,
    describe_channel,
    describe_rates,
    rate_steps,
    require_channel,
    require_usable,
    select_channel,
)
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.base import MAX_CHANNELS, TICK_SECONDS, AudioChunk, BaseSource

READ_BYTES = 1 << 16
PCM_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "s24in32le": 4}
_HEAD_BYTES = 4096
"""The beginning of a stream that is looked at for a container or another coding."""


def _decode_s16le(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)


def _decode_s24le(data: bytes) -> Samples:
    wide: NDArray[np.uint8] = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)


def _decode_s24in32le(data: bytes) -> Samples:
    # The shift drops the fourth byte; some drivers leave garbage in it.
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
    """Decodes raw interleaved PCM to float32 frames. A frame split over two calls is completed by the second.

    `format` is s16le, s24le (packed, 3 bytes), s24in32le (the lower 3 of 4 bytes), s32le or f32le. Integers are
    divided by full scale. Raises InputError for another format or an impossible number of channels.
    """

    def __init__(self, format: str, channels: int) -> None:
        if format not in PCM_BYTES:
            raise InputError(f"{format}: not a PCM format known here; use one of {', '.join(PCM_BYTES)}")
        if not 1 <= channels <= MAX_CHANNELS:
            raise InputError(f"{channels} PCM channels: give a number from 1 to {MAX_CHANNELS}")
        self._decode = _DECODERS[format]
        self.channels = channels
        self._partial = b""
        self.frame_bytes = PCM_BYTES[format] * channels

    @property
    def partial_bytes(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._partial)

    def push(self, data: bytes) -> Samples:
        """Frames completed by `data`, shape (n, channels), n >= 0, float32."""
        data = self._partial + data
        whole = len(data) - len(data) % self.frame_bytes
        self._partial = data[whole:]
        return self._decode(data[:whole]).reshape(-1, self.channels)


def other_coding(data: bytes, format: str) -> str:
    """Why `data`, whole frames from a stream declared as `format`, is of another coding; "" if nothing says so.

    Only what no sound can be is named. Quiet data says nothing.
    """
    if len(data) < _HEAD_BYTES or np.count_nonzero(np.frombuffer(data, np.uint8)) < len(data) // 4:
        return ""
    words = np.frombuffer(data[: len(data) // 4 * 4], "<i2").astype(np.float64)
    even, odd = words[0::2], words[1::2]
    if format != "f32le":
        with np.errstate(all="ignore"):
            floats = np.abs(np.frombuffer(data[: len(data) // 4 * 4], "<f4"))
        sounding = floats[floats > 0]
        if sounding.size >= floats.size // 2 and np.all((sounding > 1e-9) & (sounding <= 4.0)):
            return "its bytes are floating-point samples: f32le"
    if format == "s16le":
        swapped = np.frombuffer(data[: len(data) // 2 * 2], ">i2").astype(np.float64)
        if np.abs(np.diff(words)).mean() > 8.0 * np.abs(np.diff(swapped)).mean():
            return "its bytes are big-endian samples, which are not read here: have them written little-endian"
        if np.all(even % 256 == 0) and np.count_nonzero(odd % 256) > odd.size // 2:
            return "its bytes are samples of 32 bits: s32le"
    if format == "s32le" and even.std() > 0 and odd.std() > 0 and np.corrcoef(even, odd)[0, 1] > 0.5:
        return "its bytes are samples of 16 bits: s16le"
    return ""


class DescriptorReader:
    """Blocking reads from a file descriptor that `close` in another thread can end.

    The caller owns the descriptor. It is not read any more once `close` has returned.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def read(self, size: int, timeout: float | None = None) -> bytes:
        """1 to `size` bytes as soon as there are any; b"" at the end of the stream or after `close`.

        Raises TimeoutError after `timeout` seconds without a byte, and OSError as os.read does.
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
        """End a blocked `read` and wait until it has left the descriptor."""
        self._closed.set()
        with self._lock:
            pass


class PcmSource(BaseSource):
    """Interleaved raw PCM from a binary stream with a file descriptor. The stream is not closed.

    Bytes are read from the descriptor itself, so nothing may have been read from `stream` before. `sample_rate`
    in Hz is what the caller says; with `recorded_rate` the stream has that rate and is resampled. `live` is as
    of `Source`: a full pipe makes its writer wait, a camera does not.
    `label` names the stream in messages. With `every_channel`, chunks have shape (n, channels).
    Raises InputError for a stream without a descriptor, a wrong format or channel, a container,
    NaN or infinity, no samples at all, and bytes left over at the end; TimeoutError after `timeout` seconds
    without a byte.
    """

    def __init__(
        self,
        stream: IO[bytes],
        sample_rate: int = 16000,
        format: str = "s16le",
        channels: int = 1,
        channel: int | None = None,
        mix: bool = False,
        *,
        live: bool = False,
        label: str | None = None,
        timeout: float | None = None,
        every_channel: bool = False,
        recorded_rate: int | None = None,
    ) -> None:
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):
            raise InputError("this stream has no file descriptor; pipe raw PCM into it") from None
        self.label, self.timeout = label or ("standard input" if descriptor == 0 else f"stream {descriptor}"), timeout
        self._decoder = PcmDecoder(format, channels)
        self._rate, columns = recorded_rate or sample_rate, channels if every_channel else 1
        steps = rate_steps(self._rate, sample_rate, recorded_rate)
        name = f"{self.label}, raw {format}, {describe_rates(steps)}"
        if not every_channel:
            require_channel(self.label, channels, channel, mix)
            name += f", {describe_channel(channels, channel, mix)}"
        self._resampler = StreamResampler(self._rate, sample_rate, columns) if len(steps) > 1 else None
        bits = 16 if format == "s16le" and not mix and self._resampler is None else 24
        super().__init__(name, sample_rate, live=live, bits=bits, channels=columns)
        self._received = 0
        self._reader = DescriptorReader(descriptor)
        self._stream = stream  # a collected stream would close its descriptor
        self._channel, self._mix, self._every = channel, mix, every_channel
        self._layout = f"{format}, {channels} channel{'s' if channels > 1 else ''}"
        self._format = format
        self._head: bytes | None = b""
        """Bytes that are looked at; None when the coding is settled."""
        self._is_beginning = True
        self._ended = False

    def read(self) -> AudioChunk | None:
        """The next samples; None at the end and after `close`."""
        self._enter_read()
        while not self._ended:
            try:
                data = self._reader.read(READ_BYTES, self.timeout)
            except TimeoutError:
                raise  # also an OSError, but not of the stream
            except OSError as error:
                raise InputError(f"{self.label}: cannot be read ({error.strerror}); pipe into it") from None
            if not data:
                self._ended = True
                if not self._reader.closed:
                    self._check_end()
                    return self._rest()
                return None
            self._check_head(data)
            frames = self._decoder.push(data)
            samples = frames if self._every else select_channel(frames, self._channel, self._mix)
            require_usable(samples, self._received, self._rate, self.label)
            self._received += len(samples)
            if len(samples) and self._resampler is not None:
                samples = self._resampler.push(samples)
            if len(samples):
                return self._make_chunk(samples)
        return None

    def _rest(self) -> AudioChunk | None:
        """What the filter of the resampler still holds at the end of the stream."""
        if self._resampler is None:
            return None
        shape = (0, self._decoder.channels) if self._every else (0,)
        samples = self._resampler.push(np.empty(shape, np.float32), last=True)
        return self._make_chunk(samples) if len(samples) else None

    def _check_head(self, data: bytes) -> None:
        """Refuse a container, and samples of another coding; decided by the first bytes that are not quiet."""
        if self._head is None:
            return
        self._head += data
        if self._is_beginning and len(self._head) >= 12 and (found := sniff(self._head)):
            raise InputError(
                f"{self.label}: starts like {found}, raw PCM is expected; "
                "give the file with --input FILE, or have a command such as ffmpeg decode it"
            )
        if len(self._head) < 2 * _HEAD_BYTES:
            return
        frames = len(self._head) // self._decoder.frame_bytes * self._decoder.frame_bytes
        if found := other_coding(self._head[:frames], self._format):
            raise InputError(f"{self.label}: is declared {self._format}, but {found}; correct --format or the writer")
        is_quiet, self._is_beginning = self._head.count(0) > len(self._head) // 2, False
        self._head = self._head[frames:] if is_quiet else None

    def _check_end(self) -> None:
        if partial := self._decoder.partial_bytes:
            raise InputError(
                f"{self.label}: ends with {partial} stray byte{'s' if partial > 1 else ''} of a "
                f"{self._decoder.frame_bytes}-byte frame ({self._layout}); check the PCM format and channels"
            )
        if self._received == 0:
            raise InputError(f"{self.label}: ended without a single sample; check the command that feeds it")

    def close(self) -> None:
        """End a blocked `read`. The stream itself stays open."""
        self._mark_closed()
        self._reader.close()
