"""Raw PCM from a pipe, standard input above all."""

from __future__ import annotations

from typing import IO

from edgeasd.runtime.audio.reader import (
    Samples,
    describe_channel,
    require_channel,
    require_finite,
    select_channel,
)
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.sources.base import DescriptorReader, PcmDecoder

READ_BYTES = 1 << 16
_CONTAINERS = {"WAV": (b"RIFF", b"WAVE"), "FLAC": (b"fLaC", b""), "Ogg": (b"OggS", b"")}


class PcmSource:
    """Interleaved raw PCM from a binary stream with a file descriptor; the stream is not closed.

    Bytes are read from the descriptor itself, so nothing may have been read from `stream` before.
    The rate of raw PCM is what the caller says: `sample_rate` in Hz. Not live: a full pipe makes its
    writer wait. Raises InputError for a stream without a descriptor, a wrong format or channel, a
    WAV, FLAC or Ogg header, NaN or infinity, no samples at all, and bytes left over at the end;
    TimeoutError after `timeout` seconds without a byte. `label` names the stream in messages. With `every_channel`
    it is a `MultiSource`, and nothing is chosen.
    """

    live = False

    def __init__(
        self,
        stream: IO[bytes],
        sample_rate: int = 16000,
        format: str = "s16le",
        channels: int = 1,
        channel: int | None = None,
        mix: bool = False,
        *,
        label: str | None = None,
        timeout: float | None = None,
        every_channel: bool = False,
    ) -> None:
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError):
            raise InputError("this stream has no file descriptor; pipe raw PCM into it") from None
        piped = "standard input" if descriptor == 0 else f"stream {getattr(stream, 'name', descriptor)}"
        self._label, self.timeout = label or piped, timeout
        self._decoder = PcmDecoder(format, channels)
        if not every_channel:
            require_channel(self._label, channels, channel, mix)
        self._reader = DescriptorReader(descriptor)
        self._stream = stream  # kept alive: a collected stream would close its descriptor
        self._channel, self._mix, self._every, self.channels = channel, mix, every_channel, channels
        self._layout = f"{format}, {channels} channel{'s' if channels > 1 else ''}"
        self._head = b""
        self._position = 0
        self._ended = False
        self.sample_rate = sample_rate
        self.name = f"{self._label}, raw {format}, {sample_rate} Hz"
        if not every_channel:
            self.name += f", {describe_channel(channels, channel, mix)}"

    def read(self) -> Samples | None:
        """The next samples, shape (n,) or (n, channels), n >= 1, float32; None at the end or after `close`."""
        while not self._ended:
            try:
                data = self._reader.read(READ_BYTES, self.timeout)
            except TimeoutError:
                raise  # an OSError too, but not of the stream
            except OSError as error:
                raise InputError(f"{self._label}: cannot be read ({error.strerror}); pipe into it") from None
            if not data:
                self._ended = True
                if not self._reader.closed:
                    self._check_end()
                return None
            self._check_head(data)
            frames = self._decoder.push(data)
            samples = frames if self._every else select_channel(frames, self._channel, self._mix)
            require_finite(samples, self._position, self.sample_rate, self._label)
            self._position += len(samples)
            if len(samples):
                return samples
        return None

    def _check_head(self, data: bytes) -> None:
        if len(self._head) == 12:
            return
        self._head = (self._head + data)[:12]
        for kind, (start, form) in _CONTAINERS.items():
            if self._head.startswith(start) and self._head[8:].startswith(form) and len(self._head) == 12:
                raise InputError(
                    f"{self._label}: starts like a {kind} file, raw PCM is expected; "
                    "give the file with --input FILE or strip its header first"
                )

    def _check_end(self) -> None:
        if stray := self._decoder.stray_bytes:
            raise InputError(
                f"{self._label}: ends with {stray} stray byte{'s' if stray > 1 else ''} of a "
                f"{self._decoder.frame_bytes}-byte frame ({self._layout}); check the PCM format and channels"
            )
        if self._position == 0:
            raise InputError(f"{self._label}: ended without a single sample; check the command that feeds it")

    def close(self) -> None:
        """End a blocked `read`; the stream itself stays open."""
        self._reader.close()
