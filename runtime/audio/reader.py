"""Sound files in: one checked, block-wise reader for clips and for recordings of any length."""

from __future__ import annotations

import os
import stat
import struct
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError

Samples = NDArray[np.float32]

MAX_CLIP_SECONDS = 3600.0
DECODE_SAMPLES = 1 << 18  # one decoded block over all channels: 1 MiB of float32, whatever a header claims
RESAMPLED_RATES = range(1000, 1_000_001)
UNKNOWN_FRAMES = 1 << 62  # libsndfile's answer for a FLAC stream without a length is 2**63 - 1
STREAMED = 0xFFFFFFFF  # the data size that a WAV writer leaves when it could not seek back


class SeveralChannels(InputError):
    """A sound of several channels of which none was chosen; `count` says how many there are."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class WrongRate(InputError):
    """A sound at another rate, not to be resampled; `rate` in Hz says which."""

    def __init__(self, message: str, rate: int) -> None:
        super().__init__(message)
        self.rate = rate


def require_channel(label: str, count: int, channel: int | None, mix: bool) -> None:
    """Raise InputError unless `channel` (counted from 0) or `mix` picks one signal out of `count` channels."""
    if channel is not None and mix:
        raise InputError(f"{label}: --channel {channel} and --mix exclude each other; pass one of them")
    if channel is not None and not 0 <= channel < count:
        raise InputError(
            f"{label}: channel {channel} is not there, channels are counted from 0 and it has {count}; "
            f"pass --channel 0{f' to {count - 1}' if count > 1 else ''}"
        )
    if count > 1 and channel is None and not mix:
        raise SeveralChannels(
            f"{label}: {count} channels, one signal is needed; "
            f"pass --channel 0 to {count - 1} (counted from 0) or --mix for their mean",
            count,
        )


def select_channel(frames: Samples, channel: int | None, mix: bool) -> Samples:
    """One signal, shape (n,), float32, of `frames`, shape (n, channels); `mix` takes the mean."""
    if mix:
        return frames.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(frames[:, channel or 0])


def describe_channel(count: int, channel: int | None, mix: bool) -> str:
    """What select_channel takes, for display: "channel 0 of 2" or "mean of 2 channels"."""
    return f"mean of {count} channels" if mix else f"channel {channel or 0} of {count}"


def require_finite(samples: Samples, start: int, sample_rate: int, label: str) -> None:
    """Raise InputError naming the first NaN or infinity of `samples`, shape (n,) or (n, channels).

    `start` is the position of samples[0].
    """
    if not (finite := np.isfinite(samples)).all():
        bad = int(np.argmin(finite))
        first = bad // (samples.size // len(samples))
        raise InputError(
            f"{label}: {samples.flat[bad]} at sample {start + first} ({(start + first) / sample_rate:.3f} s); "
            "every sample must be a finite number: repair or re-record it"
        )


def rate_steps(rate: int, sample_rate: int, recorded_rate: int | None = None) -> tuple[int, ...]:
    """The rates in Hz through which a sound of `rate` is brought to `sample_rate`, its own first.

    Through `recorded_rate`, that of the training recordings, if the sound has a higher one: a model that was trained
    with upsampled recordings must not hear what those could not hold.
    """
    wanted = [sample_rate] if recorded_rate is None or rate <= recorded_rate else [recorded_rate, sample_rate]
    return (rate, *wanted) if wanted != [rate] else (rate,)


def describe_rates(steps: tuple[int, ...]) -> str:
    """`rate_steps` for display, such as "16000 Hz resampled to 32000 Hz, nothing above 8000 Hz"."""
    first, *others = (f"{step} Hz" for step in steps)
    if not others:
        return first
    empty = f", nothing above {min(steps) // 2} Hz" if min(steps) < steps[-1] else ""
    return f"{first} resampled to {' and '.join(others)}{empty}"


class StreamResampler:
    """soxr at quality HQ over a stream, through `rate_steps`; only the filters' memory is kept between calls."""

    def __init__(self, rate_in: int, rate_out: int, channels: int = 1, recorded_rate: int | None = None) -> None:
        self._streams = [
            soxr.ResampleStream(before, after, channels, dtype="float32", quality="HQ")
            for before, after in pairwise(rate_steps(rate_in, rate_out, recorded_rate))
        ]

    def push(self, samples: Samples, *, last: bool = False) -> Samples:
        """The output, float32, m >= 0 frames, that `samples` complete; `last` flushes the filter.

        Both have shape (n,), or (n, channels) where there are several.
        """
        for stream in self._streams:
            samples = stream.resample_chunk(samples, last=last)
        return samples


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular, non-empty file unbuffered, or raise InputError; a FIFO is refused, as it would block."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a directory; name a sound file in it")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is not a regular file; pipe raw PCM with --input - instead")
        if status.st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); record or copy it again")
        return open(path, "rb", buffering=0)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise InputError(f"{str(path)!r}: is not a file name ({error}); check the name") from None


def _data_bytes(handle: BinaryIO) -> tuple[int, int] | None:
    """Bytes of sound that a WAV, RF64 or AIFF header claims and the bytes that are there.

    None for other formats, for a header without a data chunk and for a length left open by a
    streaming writer. libsndfile reads such a file to its end without a word when it is short.
    """
    head = handle.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        order, wanted = "<4sI", b"data"
    elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        order, wanted = ">4sI", b"SSND"
    else:
        return None
    size, position, long_size = os.fstat(handle.fileno()).st_size, 12, None
    for _ in range(1000):  # a bound on hostile chains of empty chunks
        handle.seek(position)
        if len(chunk := handle.read(8)) < 8:
            return None
        name, length = struct.unpack(order, chunk)
        if name == b"ds64" and len(sizes := handle.read(16)) == 16:
            long_size = struct.unpack("<8xQ", sizes)[0]
        if name == wanted:
            if length == STREAMED and long_size is None:
                return None
            claimed = long_size if length == STREAMED and long_size is not None else length
            return claimed, max(0, size - position - 8)
        position += 8 + length + length % 2
    return None


class AudioReader:
    """A sound file, decoded block by block to one float32 signal; memory does not grow with its length.

    Raises InputError, in one line that names `path`, for everything listed at `read_audio`: at
    construction where the header tells, else at the block in which it is found.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: int,
        channel: int | None,
        mix: bool,
        resample: bool,
        recorded_rate: int | None = None,
    ) -> None:
        self._path = Path(path)
        self._channel, self._mix = channel, mix
        self._position, self._ended = 0, False
        self._handle = _open_regular(self._path)
        try:
            self._sound = self._open_sound()
            self._check_header(sample_rate, resample, recorded_rate)
        except BaseException:
            self._handle.close()
            raise
        rate, count = self._sound.samplerate, self._sound.channels
        steps = rate_steps(rate, sample_rate, recorded_rate)
        self._resampler = StreamResampler(rate, sample_rate, 1, recorded_rate) if len(steps) > 1 else None
        self.seconds = self._sound.frames / rate
        self.name = (
            f"{self._path}, {self._sound.format} {self._sound.subtype}, {describe_rates(steps)}, "
            f"{describe_channel(count, channel, mix)}"
        )

    def _open_sound(self) -> soundfile.SoundFile:
        if (sizes := _data_bytes(self._handle)) is not None and sizes[1] < sizes[0]:
            raise InputError(
                f"{self._path}: cut off, its header claims {sizes[0]} bytes of sound and {sizes[1]} "
                "are there; copy or record it again"
            )
        self._handle.seek(0)
        try:
            return soundfile.SoundFile(self._handle.fileno(), closefd=False)
        except soundfile.SoundFileError as error:
            reason = str(error).split(": ", 1)[-1].rstrip(".")
            raise InputError(f"{self._path}: not a sound file that can be read ({reason}); WAV and FLAC work") from None

    def _check_header(self, sample_rate: int, resample: bool, recorded_rate: int | None) -> None:
        rate, frames = self._sound.samplerate, self._sound.frames
        if frames == 0:
            raise InputError(f"{self._path}: holds no samples; record it again")
        if frames >= UNKNOWN_FRAMES:
            raise InputError(f"{self._path}: its header states no length; convert it to WAV")
        # A bundle that was trained with resampled recordings resamples all that hold as much as those did.
        is_expected = rate == sample_rate if recorded_rate is None else rate >= recorded_rate
        if not is_expected and not resample:
            expected = recorded_rate or sample_rate
            raise WrongRate(
                f"{self._path}: {rate} Hz, the bundle expects {expected} Hz; resample it or pass --resample", rate
            )
        if rate != sample_rate and rate not in RESAMPLED_RATES:
            raise InputError(f"{self._path}: {rate} Hz is not a plausible sample rate; check its header")
        require_channel(str(self._path), self._sound.channels, self._channel, self._mix)

    def read(self, frames: int) -> Samples | None:
        """The next samples, shape (m,), m >= 1, of at most `frames` frames of the file; None at the end."""
        while not self._ended:
            samples = self._decode(frames)
            self._ended = len(samples) == 0
            if self._resampler:
                samples = self._resampler.push(samples, last=self._ended)
            if len(samples):
                return samples
        return None

    def _decode(self, frames: int) -> Samples:
        frames = max(1, min(frames, DECODE_SAMPLES // self._sound.channels))
        claimed, rate = self._sound.frames, self._sound.samplerate
        try:
            block = self._sound.read(frames, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise InputError(
                f"{self._path}: cut off or damaged after sample {self._position} of {claimed} "
                f"({self._position / rate:.3f} s: {str(error).rstrip('.')}); copy or record it again"
            ) from None
        if len(block) == 0 and self._position < claimed:
            raise InputError(
                f"{self._path}: cut off, its header claims {claimed} samples and {self._position} "
                "are there; copy or record it again"
            )
        samples = select_channel(block, self._channel, self._mix)
        require_finite(samples, self._position, rate, str(self._path))
        self._position += len(block)
        return samples

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._ended = True
        self._sound.close()
        self._handle.close()


def read_audio(
    path: str | Path,
    *,
    sample_rate: int = 16000,
    channel: int | None = None,
    mix: bool = False,
    resample: bool = False,
    recorded_rate: int | None = None,
) -> Samples:
    """Read a clip of at most an hour as float32 samples, shape (n,), n >= 1, nominally in [-1, 1).

    Channels are counted from 0; `mix` takes their mean. With `resample` another rate is converted
    by soxr (HQ), else it is refused. With `recorded_rate` (`FeatureSettings.recorded_rate`) every rate from that one up
    is converted, by way of it. Integer formats are divided by their full scale, as libsndfile
    does; float files and resampled peaks may lie outside [-1, 1) and are left as they are.

    Raises InputError: missing, empty, cut-off or damaged file, a directory, not audio, no samples,
    wrong rate, several channels without a choice, channel out of range, NaN or infinity, over an hour.
    A cut-off Ogg or MP3 file states no length of its own and cannot be told from a shorter one.
    """
    opened = AudioReader(
        path, sample_rate=sample_rate, channel=channel, mix=mix, resample=resample, recorded_rate=recorded_rate
    )
    with closing(opened) as reader:
        if reader.seconds > MAX_CLIP_SECONDS:
            raise InputError(
                f"{path}: {reader.seconds:.0f} s, a clip has at most {MAX_CLIP_SECONDS:.0f} s; "
                f"use `edgeasd run --input {path}` for long recordings"
            )
        blocks = []
        while (block := reader.read(DECODE_SAMPLES)) is not None:
            blocks.append(block)
    if not blocks:
        raise InputError(f"{path}: too short to be resampled to {sample_rate} Hz; record a longer clip")
    return np.concatenate(blocks)
