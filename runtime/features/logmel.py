"""Log-mel features: settings, mel filter bank, and the same arithmetic for streams and whole recordings.

`LogMelStream` takes samples in chunks of any length and returns the frames they complete; `logmel` takes a recording.
Frame t is computed from the samples [t hop, t hop + n_fft):

    x ← (x − mean) / std, x[i] ← x[i] − preemphasis · x[i−1], window, FFT, |·| or |·|², mel bands, floor, logarithm,
    (logarithm + offset) · scale

Filter banks, by `mel_scale`: "slaney" is linear below 1 kHz and logarithmic above (M. Slaney, Auditory Toolbox, 1998),
as `librosa.filters.mel(htk=False)`; "htk" is 2595 log10(1 + f/700), as librosa with htk=True; "kaldi" has the same scale
as 1127 ln(1 + f/700), with triangles that are straight in mel and not in Hz.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeasd.runtime.errors import InputError

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


MelScale = Literal["slaney", "htk", "kaldi"]
MelNorm = Literal["slaney", "none"]


def hz_to_mel(hz: npt.ArrayLike, scale: MelScale = "slaney") -> npt.NDArray[np.float64]:
    """Frequencies in Hz to mels, any shape, float64."""
    hz = np.asarray(hz, dtype=np.float64)
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    if scale == "kaldi":
        return np.asarray(1127.0 * np.log1p(hz / 700.0))
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ_PER_MEL, above)


def mel_to_hz(mel: npt.ArrayLike, scale: MelScale = "slaney") -> npt.NDArray[np.float64]:
    """Mels to frequencies in Hz, any shape, float64."""
    mel = np.asarray(mel, dtype=np.float64)
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    if scale == "kaldi":
        return np.asarray(700.0 * np.expm1(mel / 1127.0))
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, above)


def mel_filter_bank(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min: float,
    f_max: float,
    scale: MelScale = "slaney",
    norm: MelNorm = "slaney",
) -> npt.NDArray[np.float32]:
    """Weights (n_mels, 1 + n_fft // 2), float32, from FFT magnitude or power to mel bands.

    `f_min` and `f_max` are the outer edges of the first and last triangle in Hz. Triangles are straight in Hz, with the
    scale "kaldi" in mel. Their peak is 1; with the norm "slaney" their area is 1, in Hz.
    """
    bins = np.linspace(0.0, sample_rate / 2.0, 1 + n_fft // 2)
    lowest, highest = hz_to_mel([f_min, f_max], scale)
    mels = np.linspace(lowest, highest, n_mels + 2)
    hz = mel_to_hz(mels, scale)
    edges, points = (mels, hz_to_mel(bins, scale)) if scale == "kaldi" else (hz, bins)
    widths = np.diff(edges)
    rising = (points - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - points) / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    if norm == "none":
        return triangles
    # float32 before the norm, as in librosa: the two then agree to the last bits
    return (triangles * (2.0 / (hz[2:] - hz[:-2]))[:, None]).astype(np.float32)


Float32Array = npt.NDArray[np.float32]

_LARGEST_SAMPLE = float(np.sqrt(np.finfo(np.float32).max))
"""The energy of a larger sample overflows float32."""

_BLOCK_FRAMES = 32
"""Frames per pass: large enough for BLAS, small enough that the work stays in the L2 cache."""


class FeatureSettings(BaseModel):
    """How samples become log-mel frames; stored in the manifest."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    sample_rate: Annotated[int, Field(ge=4_000, le=192_000)] = 16_000
    n_fft: Annotated[int, Field(ge=64, le=16_384)] = 1024
    hop_length: Annotated[int, Field(ge=16, le=16_384)] = 512
    n_mels: Annotated[int, Field(ge=8, le=512)] = 128
    f_min: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 50.0
    f_max: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 8000.0
    log_floor: Annotated[float, Field(ge=1e-30, le=1.0)] = 1e-10
    window: Literal["hann_periodic", "hann_symmetric"] = "hann_periodic"
    spectrum: Literal["magnitude", "power"] = "magnitude"
    mel_scale: MelScale = "slaney"
    mel_norm: MelNorm = "slaney"
    logarithm: Literal["log10", "ln"] = "log10"
    centred: Annotated[bool, Field(strict=True)] = False
    window_length: Annotated[int, Field(ge=16, le=16_384)] | None = None
    """Samples of the window, in the middle of a frame of n_fft samples and zeros around it; None is n_fft."""
    preemphasis: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    floor_rule: Literal["clamp", "add"] = "clamp"
    """Before the logarithm: max(mel, log_floor), or mel + log_floor."""
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    """Added to the logarithm."""
    scale: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0
    """Multiplies the logarithm and its offset."""
    recorded_rate: Annotated[int, Field(ge=1_000, le=192_000)] | None = None
    """Rate of the training recordings in Hz if it is below `sample_rate`; None otherwise. All sound passes through this
    rate before it is brought to `sample_rate`, so that the model never hears what its training sound could not hold."""

    @model_serializer(mode="wrap")
    def _as_found(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the later fields at their defaults: an older manifest is written back, and named, as it was."""
        return {
            name: value
            for name, value in dump(self).items()
            if name not in _LATER_DEFAULTS or value != _LATER_DEFAULTS[name]
        }

    @model_validator(mode="after")
    def _consistent(self) -> FeatureSettings:
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(f"f_min {self.f_min} < f_max {self.f_max} <= {self.sample_rate / 2} does not hold")
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length {self.hop_length} is larger than n_fft {self.n_fft}")
        if self.window_length is not None and not self.hop_length <= self.window_length <= self.n_fft:
            raise ValueError(
                f"hop_length {self.hop_length} <= window_length {self.window_length} <= n_fft {self.n_fft} does not hold"
            )
        if self.recorded_rate is not None and self.recorded_rate >= self.sample_rate:
            raise ValueError(f"recorded_rate {self.recorded_rate} < sample_rate {self.sample_rate} does not hold")
        if self.centred:
            raise ValueError("centred frames need samples from the future; only centred=false is defined")
        return self

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any setting, for naming cached features."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def input_rate(self) -> int:
        """Lowest rate of a sound that holds all the model was trained to hear, in Hz."""
        return self.recorded_rate or self.sample_rate

    @property
    def decade(self) -> float:
        """How much log-mel rises, above the floor, when the sound is ten times as large: 1 with the defaults."""
        per_log10 = math.log(10.0) if self.logarithm == "ln" else 1.0
        return (2.0 if self.spectrum == "power" else 1.0) * per_log10 * self.scale

    @property
    def lowest(self) -> float:
        """Log-mel of digital silence."""
        logarithm = math.log if self.logarithm == "ln" else math.log10
        return (logarithm(self.log_floor) + self.offset) * self.scale

    @property
    def has_later_fields(self) -> bool:
        """Whether a program older than those fields would compute something else."""
        return any(getattr(self, name) != default for name, default in _LATER_DEFAULTS.items())

    def frame_count(self, samples: int) -> int:
        """Frames T = 1 + (n - n_fft) // hop_length in `samples` samples; 0 below one window."""
        return 0 if samples < self.n_fft else 1 + (samples - self.n_fft) // self.hop_length

    def sample_count(self, frames: int) -> int:
        """Fewest samples that give `frames` frames."""
        return 0 if frames <= 0 else self.n_fft + (frames - 1) * self.hop_length


_LATER_DEFAULTS = {
    name: FeatureSettings.model_fields[name].default
    for name in ("window_length", "preemphasis", "floor_rule", "offset", "scale", "recorded_rate")
}
"""Fields that older programs do not know."""


def window_of(settings: FeatureSettings) -> npt.NDArray[np.float64]:
    """The window (n_fft,) float64: Hann of `window_length` samples, zeros around it as in torch.stft.

    Its first value is 0 for all settings.
    """
    length = settings.window_length or settings.n_fft
    period = length if settings.window == "hann_periodic" else length - 1
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / period)
    before = (settings.n_fft - length) // 2
    return np.pad(hann, (before, settings.n_fft - length - before))


class Amplitude(BaseModel):
    """x <- (x - mean) / std: two scalars per machine type over its training normals."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    mean: Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)] = 0.0
    std: Annotated[float, Field(allow_inf_nan=False, gt=1e-12, le=1e6)] = 1.0


def check_samples(samples: npt.NDArray[np.generic], position: int = 0, sample_rate: int = 16_000) -> Float32Array:
    """Check samples (n,) float32, finite. Raises InputError with the position of the first bad sample.

    `position` is the index of samples[0] since the start of the stream.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1:
        kind = f"{samples.dtype} {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
        remedy = "convert with np.float32"
        if isinstance(samples, np.ndarray) and samples.dtype.kind in "iu":
            full = 1 << (8 * samples.dtype.itemsize - 1)
            remedy = f"divide by {full} and convert with np.float32, so that they lie in [-1, 1)"
        raise InputError(f"samples: {kind}, expected a float32 array of shape (n,); {remedy}")
    # One dot product sees NaN, infinities and overflow; the slow search runs only then.
    with np.errstate(over="ignore", invalid="ignore"):
        energy = float(np.dot(samples, samples))
    if not math.isfinite(energy):
        bad = np.flatnonzero(~(np.abs(samples) <= _LARGEST_SAMPLE))
        if bad.size:
            at = position + int(bad[0])
            raise InputError(
                f"sample {at} ({at / sample_rate:.3f} s): {samples[bad[0]]}, expected a finite number "
                "in [-1, 1); repair the recording or the driver that delivers it"
            )
    return cast(Float32Array, samples)


class _FrameKernel:
    """Samples in a float64 buffer -> log-mel frames, with every intermediate array allocated once."""

    def __init__(self, settings: FeatureSettings, amplitude: Amplitude, block: int) -> None:
        n_fft, hop, bins = settings.n_fft, settings.hop_length, 1 + settings.n_fft // 2
        self.block = block
        self.samples = np.zeros(n_fft + (block - 1) * hop, dtype=np.float64)
        # (x - mean) / std, with the division folded into the window
        self._window = window_of(settings) / amplitude.std
        self._preemphasis = settings.preemphasis
        self._is_power = settings.spectrum == "power"
        # Power of the largest samples overflows float32, its logarithm does not: the last steps are in float64 then.
        number = np.float64 if self._is_power else np.float32
        self._floor, self._offset, self._scale = number(settings.log_floor), settings.offset, settings.scale
        self._apply_floor = np.add if settings.floor_rule == "add" else np.maximum
        self._logarithm = np.log if settings.logarithm == "ln" else np.log10
        framed = np.lib.stride_tricks.sliding_window_view(self.samples, n_fft)[::hop]
        windowed = np.empty((block, n_fft), dtype=np.float64)
        spectrum = np.empty((block, bins), dtype=np.complex128)
        magnitude32 = np.empty((block, bins), dtype=np.float32)
        magnitude = np.empty((block, bins), dtype=np.float64)
        mel = np.empty((block, settings.n_mels), dtype=np.float64)
        bank = mel_filter_bank(
            settings.sample_rate,
            n_fft,
            settings.n_mels,
            settings.f_min,
            settings.f_max,
            settings.mel_scale,
            settings.mel_norm,
        )
        bands = _banded(bank.astype(np.float64))
        # Slices for every frame count, made once: at 6 frames a call, slicing takes a tenth of the time.
        self._views = [
            (
                framed[:n],
                windowed[:n],
                spectrum[:n],
                magnitude32[:n],
                magnitude[:n],
                [(magnitude[:n, lo:hi], part, mel[:n, first:last]) for first, last, lo, hi, part in bands],
                mel[:n],
            )
            for n in range(block + 1)
        ]

    def frames(self, n: int, out: Float32Array) -> None:
        """Write log-mel frames 0..n-1 of the buffer into out (n, n_mels)."""
        framed, windowed, spectrum, magnitude32, magnitude, bands, mel = self._views[n]
        if self._preemphasis:
            # Within the frame, as Kaldi: the window is 0 at its first sample, so none before the frame is needed.
            np.multiply(framed[:, :-1], -self._preemphasis, out=windowed[:, 1:])
            windowed[:, 0] = 0.0
            windowed += framed
            windowed *= self._window
        else:
            np.multiply(framed, self._window, out=windowed)
        np.fft.rfft(windowed, out=spectrum)
        if self._is_power:
            np.square(spectrum.real, out=magnitude)
            magnitude += np.square(spectrum.imag, out=windowed[:, : magnitude.shape[1]])
        else:
            np.abs(spectrum, out=magnitude32, casting="same_kind")
            np.copyto(magnitude, magnitude32)
        for part, weights, target in bands:
            np.matmul(part, weights, out=target)
        if self._is_power:
            self._take_logarithm(mel)
            np.copyto(out, mel, casting="same_kind")
        else:
            np.copyto(out, mel, casting="same_kind")
            self._take_logarithm(out)

    def _take_logarithm(self, mel: npt.NDArray[Any]) -> None:
        """Mel bands to (log + offset) · scale, in place and in their own precision."""
        self._apply_floor(mel, self._floor, out=mel)
        self._logarithm(mel, out=mel)
        if self._offset:
            mel += self._offset
        if self._scale != 1.0:
            mel *= self._scale


def _banded(
    weights: npt.NDArray[np.float64],
) -> list[tuple[int, int, int, int, npt.NDArray[np.float64]]]:
    """Cut the filter bank into three dense pieces, each with only the bins it uses.

    The bank is 99 % zeros; three pieces (half, quarter, quarter) take a third of the multiplications. Returns (first band, last band, first bin,
    last bin, weights (bins, bands) float64).
    """
    n_mels = weights.shape[0]
    pieces = []
    for first, last in ((0, n_mels // 2), (n_mels // 2, 3 * n_mels // 4), (3 * n_mels // 4, n_mels)):
        used = np.flatnonzero(weights[first:last].any(axis=0))
        lo, hi = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 1)
        pieces.append((first, last, lo, hi, np.ascontiguousarray(weights[first:last, lo:hi].T)))
    return pieces


class LogMelStream:
    """Takes samples in chunks of any length and returns log-mel frames as soon as they are complete.

    Memory is fixed. The same samples give the same frames however they are cut
    (tests/runtime/features/test_logmel.py).
    """

    def __init__(
        self,
        settings: FeatureSettings | None = None,
        amplitude: Amplitude | None = None,
        block_frames: int = _BLOCK_FRAMES,
    ) -> None:
        self.settings = settings or FeatureSettings()
        self.amplitude = amplitude or Amplitude()
        self._kernel = _FrameKernel(self.settings, self.amplitude, block_frames)
        # Plain attributes: at six frames a call, looking them up on the pydantic model costs time.
        self._n_fft, self._hop, self._n_mels = (
            self.settings.n_fft,
            self.settings.hop_length,
            self.settings.n_mels,
        )
        # A float64 scalar: with a Python float numpy would subtract in float32, and its rounding noise would fill
        # the bands that a tone or band-limited sound leaves empty (up to 4 in log10).
        self._mean = np.float64(self.amplitude.mean)
        self._filled = 0
        self.samples_seen = 0
        """Samples accepted since the last reset."""
        self.frames_made = 0
        """Frames returned since the last reset; the next frame has this index."""

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0 of frame 0."""
        self._filled = 0
        self.samples_seen = 0
        self.frames_made = 0

    def push(self, samples: Float32Array) -> Float32Array:
        """Accept samples (n,) float32 and return the frames they complete, (k, n_mels) float32, k >= 0.

        Raises InputError, and changes nothing, for another dtype or shape and for NaN or infinities.
        """
        return self.push_checked(check_samples(samples, self.samples_seen, self.settings.sample_rate))

    def push_checked(self, samples: Float32Array) -> Float32Array:
        """`push` without its check, for samples that `check_samples` has passed."""
        ready = (self._filled + samples.size - self._n_fft) // self._hop + 1
        out = np.empty((max(0, ready), self._n_mels), dtype=np.float32)
        self._run(samples, out)
        return out

    def _run(self, samples: Float32Array, out: Float32Array) -> None:
        kernel, n_fft, hop = self._kernel, self._n_fft, self._hop
        buffer, made, offset = kernel.samples, 0, 0
        while offset < samples.size:
            taken = min(buffer.size - self._filled, samples.size - offset)
            end = self._filled + taken
            np.subtract(samples[offset : offset + taken], self._mean, out=buffer[self._filled : end])
            offset += taken
            self._filled = end
            if end >= n_fft:
                n = 1 + (end - n_fft) // hop
                kernel.frames(n, out[made : made + n])
                made += n
                keep = end - n * hop
                buffer[:keep] = buffer[n * hop : end]
                self._filled = keep
        self.samples_seen += samples.size
        self.frames_made += made


def logmel(
    samples: Float32Array,
    settings: FeatureSettings | None = None,
    amplitude: Amplitude | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float32Array:
    """Log-mel frames (T, n_mels) float32 of a whole recording, samples (n,) float32.

    T = settings.frame_count(n), 0 for fewer samples than one window. Raises InputError for another
    dtype or shape and for NaN or infinities. `progress` is called with samples done, about each minute.
    """
    stream = LogMelStream(settings, amplitude)
    if progress is None:
        return stream.push(samples)
    step = 60 * stream.settings.sample_rate
    parts = []
    for start in range(0, samples.size, step):
        parts.append(stream.push(samples[start : start + step]))
        progress(stream.samples_seen)
    return np.concatenate(parts) if parts else stream.push(samples)
