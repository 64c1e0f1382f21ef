"""Sound files in: one checked, block-wise reader for clips and for recordings of any length."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from edgeasd.runtime.audio.container import MendedFile, inspect
from edgeasd.runtime.errors import InputError

Samples = NDArray[np.float32]

MAX_CLIP_SECONDS = 3600.0
DECODE_SAMPLES = 1 << 18  # one decoded block over all channels: 1 MiB of float32, whatever a header claims
RESAMPLED_RATES = range(1000, 1_000_001)
UNKNOWN_FRAMES = 1 << 62  # libsndfile's answer for a FLAC stream without a length is 2**63 - 1
MOST = 16.0
"""The largest sample that is sound: 24 dB over full scale. Beyond it is another scale, coding or byte order."""
CHECKED = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"}
"""libsndfile's names of the containers whose length is checked; it reads more, and would read parts of those."""
_SUFFIX_KINDS = {
    ".wav": {"WAV", "WAVEX", "RF64", "W64"},
    ".flac": {"FLAC"},
    ".aif": {"AIFF"},
    ".aiff": {"AIFF"},
    ".ogg": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3"},
}


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


class OutOfScale(InputError):
    """Samples far beyond full scale; `largest` is the largest size seen so far."""

    def __init__(self, message: str, largest: float) -> None:
        super().__init__(message)
        self.largest = largest


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


def require_usable(samples: Samples, start: int, sample_rate: int, label: str) -> None:
    """Raise InputError naming the first sample of `samples`, (n,) or (n, channels), that cannot be sound.

    That is NaN, infinity, and what lies beyond `MOST`. `start` is the position of samples[0].
    """
    if samples.size == 0 or max(-float(samples.min()), float(samples.max())) <= MOST:
        return
    bad = int(np.argmin(np.abs(samples) <= MOST))
    first, value = start + bad // (samples.size // len(samples)), samples.flat[bad]
    where = f"{label}: {value:g} at sample {first} ({first / sample_rate:.3f} s)"
    if not np.isfinite(value):
        raise InputError(f"{where}; every sample must be a finite number: repair or re-record it")
    largest = float(np.nanmax(np.abs(samples), initial=0.0, where=np.isfinite(samples)))
    if largest <= 1 << 15:
        hint = "these are 16-bit integers as floats: divide them by 32768, as `edgeasd data import` does"
    else:
        hint = "this is another scale, coding or byte order: convert or re-record it"
    raise OutOfScale(f"{where}; full scale is 1 and no sound reaches {MOST:g}: {hint}", largest)


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
        full_scale: float = 1.0,
        recorded_rate: int | None = None,
    ) -> None:
        """Samples are divided by `full_scale`, which is not 1 for floats in the range of integers."""
        self._path = Path(path)
        self._channel, self._mix, self._full_scale = channel, mix, np.float32(full_scale)
        self._position, self._ended = 0, False
        self._handle = _open_regular(self._path)
        try:
            self.container = inspect(self._handle, self._path)
            self._sound = self._open_sound()
            self._check_header(sample_rate, resample, recorded_rate)
        except BaseException:
            self._handle.close()
            raise
        rate, count = self._sound.samplerate, self._sound.channels
        steps = rate_steps(rate, sample_rate, recorded_rate)
        self._resampler = StreamResampler(rate, sample_rate, 1, recorded_rate) if len(steps) > 1 else None
        self.sample_rate, self.channels, self.seconds = rate, count, self._sound.frames / rate
        self.subtype = str(self._sound.subtype)
        """All of the file: Hz, channels, seconds, libsndfile's name of its coding."""
        self.name = (
            f"{self._path}, {self._sound.format} {self._sound.subtype}, {describe_rates(steps)}, "
            f"{describe_channel(count, channel, mix)}"
        )
        self.notes = self._notes()
        """What a user should know of the file, in clauses: a false name, a length that was never written."""
        self.name += "".join(f"; {note}" for note in self.notes)

    def _notes(self) -> tuple[str, ...]:
        expected, kind = _SUFFIX_KINDS.get(self._path.suffix.lower()), self._sound.format
        notes = []
        if expected is not None and kind not in expected:
            notes.append(f"named {self._path.suffix}, is {kind}")
        if self.container.note:
            notes.append(f"{self.container.note} ({self.seconds:.1f} s)")
        return tuple(notes)

    def _open_sound(self) -> soundfile.SoundFile:
        if self.container.problem:
            raise InputError(self.container.problem)
        mended = self.container.mended
        try:
            if mended is not None:
                return soundfile.SoundFile(MendedFile(self._handle, mended))
            return soundfile.SoundFile(self._handle.fileno(), closefd=False)
        except soundfile.SoundFileError as error:
            reason = str(error).split(": ", 1)[-1].rstrip(".")
            raise InputError(f"{self._path}: not a sound file that can be read ({reason}); WAV and FLAC work") from None

    def _check_header(self, sample_rate: int, resample: bool, recorded_rate: int | None) -> None:
        rate, frames = self._sound.samplerate, self._sound.frames
        if self._sound.format not in CHECKED:
            raise InputError(
                f"{self._path}: is a {self._sound.format} file, whose length cannot be checked here; convert it with "
                "`edgeasd data import`, or to WAV"
            )
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
        samples = select_channel(block, self._channel, self._mix) / self._full_scale
        require_usable(samples, self._position, rate, str(self._path))
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
    on_note: Callable[[str], object] | None = None,
) -> Samples:
    """Read a clip of at most an hour as float32 samples, shape (n,), n >= 1, nominally in [-1, 1).

    Channels are counted from 0; `mix` takes their mean. With `resample` another rate is converted
    by soxr (HQ), else it is refused. With `recorded_rate` (`FeatureSettings.recorded_rate`) every rate from that one up
    is converted, by way of it. Integer formats are divided by their full scale, as libsndfile
    does; float files and resampled peaks may lie outside [-1, 1) and are left as they are. `on_note` is called with
    what a user should know of the file: a false name, a length that was never written.

    Raises InputError: missing, empty, cut-off or damaged file, a directory, not audio, no samples,
    wrong rate, several channels without a choice, channel out of range, a sample that is NaN, infinite or beyond
    `MOST`, over an hour. Whatever the file holds is read or refused: see `edgeasd.runtime.audio.container`. An MP3
    file without a table of its length cannot be told from a shorter one.
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
        for note in reader.notes if on_note is not None else ():
            on_note(f"{path}: {note}")  # type: ignore[misc]
        blocks = []
        while (block := reader.read(DECODE_SAMPLES)) is not None:
            blocks.append(block)
    if not blocks:
        raise InputError(f"{path}: too short to be resampled to {sample_rate} Hz; record a longer clip")
    return np.concatenate(blocks)
