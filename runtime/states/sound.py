"""The sound of the recordings in a few hundred numbers: spectrum, level and how far both move; and what lies beside it.

Spectra are mean powers of the mel bands over 10 s, in dB and without the scale of the amplitude. Compared with the
recordings, a change of gain moves all bands alike (the offset), and what is left is a change of shape (the distance).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array, LogMelStream
from edgeasd.runtime.features.logmel import mel_to_hz as mel_to_hz
from edgeasd.runtime.scoring.threshold import Threshold

Spectrum = npt.NDArray[np.float64]
"""(n_mels,) in dB."""
FLOOR_DB = -140.0
"""Bands of empty sound are this low, so that digital zeros stay finite."""
SPREAD_DB = 1.0
"""Added to the spread of a band: 50 frames do not tell a level better."""
FARTHEST = 10.0
"""In units of the spread: a band counts as no farther away."""
ALLOWED = 1.5
"""A spectrum has the shape of the recordings up to so many times the largest usual distance."""
GAIN_SPAN, GAIN_FEWEST = 30, 25
"""Seconds over which a change of gain is measured, and how many of them there must be."""
GAIN_BACK_DB = 1.0
"""A change of gain is over when it is this far below what names it."""
TILT_DB, TILT_SHARE = 6.0, 0.6
"""A tilt from the lowest to the highest band, and the share of the change of shape that it must explain."""
CUT_DB, CUT_SHARE = 20.0, 0.1
"""So far below the recordings, in so large a share of the bands at the upper end, sound is cut off."""

_Decibels = Annotated[float, Field(ge=-400.0, le=400.0, allow_inf_nan=False)]
_Spread = Annotated[float, Field(ge=0.0, le=400.0, allow_inf_nan=False)]


class SoundProfile(BaseModel):
    """What normal recordings sound like; stored in the manifest as `sound`, and for each mode."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    mean_db: Annotated[tuple[_Decibels, ...], Field(min_length=1, max_length=4096)]
    """Mean spectrum of the clips, (n_mels,)."""
    spread_db: Annotated[tuple[_Spread, ...], Field(min_length=1, max_length=4096)]
    """Standard deviation of the bands from clip to clip once the offset of each clip is taken away."""
    offset_db: tuple[_Decibels, _Decibels]
    """1st and 99th percentile of the offset of a clip."""
    shape_limit: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)]
    """99th percentile of the distance of a clip."""
    level_dbfs: tuple[_Decibels, _Decibels]
    """1st and 99th percentile of the level of 10 s."""
    clips: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _consistent(self) -> SoundProfile:
        if len(self.mean_db) != len(self.spread_db):
            raise ValueError(f"mean_db has {len(self.mean_db)} bands, spread_db {len(self.spread_db)}")
        for name, (low, high) in {"offset_db": self.offset_db, "level_dbfs": self.level_dbfs}.items():
            if low > high:
                raise ValueError(f"{name}: {low} <= {high} does not hold")
        return self

    def compare(self, spectrum: Spectrum) -> tuple[float, float]:
        """Offset in dB and distance of a spectrum (n_mels,)."""
        change = spectrum - np.asarray(self.mean_db)
        spread = np.asarray(self.spread_db) + SPREAD_DB
        # The median of the bands: a fault that fills some of them is no gain.
        offset = float(np.median(change))
        # Bands that are cut off by a codec or a filter must not decide alone what the others are nearest to.
        moved = np.clip((change - offset) / spread, -FARTHEST, FARTHEST)
        return offset, float(np.sqrt(np.mean(np.square(moved))))

    def fits(self, distance: float) -> bool:
        """Whether a spectrum at this distance has the shape of the recordings."""
        return distance <= ALLOWED * self.shape_limit

    def gain_limit(self, gain_db: float) -> float:
        """The change of level beyond which the gain has changed: `gain_db`, or more if the recordings move as far."""
        return max(gain_db, 0.5 * (self.level_dbfs[1] - self.level_dbfs[0]) + 1.0)


class ModeProfile(BaseModel):
    """One recorded mode: its sound, and what its scores are judged by; stored in the manifest under `modes`."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    sound: SoundProfile
    threshold: Threshold | None = None
    """None: that of the bundle."""
    d_min: Annotated[float, Field(allow_inf_nan=False)] | None = None
    d_max: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Distances between which d′ lies; None: those of the bundle."""

    @model_validator(mode="after")
    def _consistent(self) -> ModeProfile:
        if (self.d_min is None) != (self.d_max is None):
            raise ValueError("d_min and d_max: one is given without the other")
        if self.d_min is not None and self.d_max is not None and not self.d_min < self.d_max:
            raise ValueError(f"d_min {self.d_min} < d_max {self.d_max} does not hold")
        return self

    @property
    def distances(self) -> tuple[float, float] | None:
        """d_min and d_max, if they are its own."""
        return None if self.d_min is None or self.d_max is None else (self.d_min, self.d_max)

    @model_serializer(mode="wrap")
    def _as_found(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}


def band_powers(frames: Float32Array, settings: FeatureSettings, amplitude: Amplitude) -> Spectrum:
    """Powers (T, n_mels) float64 behind log-mel frames (T, n_mels), without the scale of the amplitude."""
    ten = getattr(settings, "logarithm", "log10") == "log10"
    squared = getattr(settings, "spectrum", "magnitude") == "magnitude"
    scale, offset = float(getattr(settings, "scale", 1.0)), float(getattr(settings, "offset", 0.0))
    logs = np.asarray(frames, np.float64) / scale - offset
    powers = np.power(10.0, (2.0 if squared else 1.0) * logs) if ten else np.exp((2.0 if squared else 1.0) * logs)
    return np.asarray(np.maximum(powers * amplitude.std**2, 10.0 ** (FLOOR_DB / 10.0)))


def spectrum_of(powers: Spectrum) -> Spectrum:
    """Spectrum (n_mels,) in dB of powers (T, n_mels), T >= 1."""
    return np.asarray(10.0 * np.log10(powers.mean(axis=0)))


class SpectrumMeter:
    """The spectrum of the last windows, from one frame of each: a sixth of what log-mel costs."""

    def __init__(self, settings: FeatureSettings, amplitude: Amplitude, windows: int) -> None:
        self._settings, self._amplitude = settings, amplitude
        self._features = LogMelStream(settings, amplitude, block_frames=1)
        self._tail: Float32Array = np.zeros(0, np.float32)
        self._powers: deque[Spectrum] = deque(maxlen=windows)

    def reset(self) -> None:
        """Forget everything."""
        self._tail = np.zeros(0, np.float32)
        self._powers.clear()

    def push(self, window: Float32Array) -> None:
        """Add a window (n,) float32, finite."""
        need = self._settings.n_fft
        self._tail = window[-need:].copy() if window.size >= need else np.append(self._tail, window)[-need:]
        if self._tail.size < need:
            return
        self._features.reset()
        self._powers.append(band_powers(self._features.push(self._tail), self._settings, self._amplitude)[0])

    @property
    def spectrum(self) -> Spectrum | None:
        """(n_mels,) in dB; None until there are enough windows."""
        if len(self._powers) < (self._powers.maxlen or 0):
            return None
        return spectrum_of(np.stack(self._powers))


@dataclass(frozen=True, slots=True)
class Beside:
    """A spectrum beside the recordings that it is nearest to."""

    mode: str | None
    """The nearest of the modes, None if none was recorded."""
    offset_db: float
    distance: float
    fits: bool


def beside(spectrum: Spectrum, sound: SoundProfile | None, modes: Mapping[str, ModeProfile]) -> Beside | None:
    """Compare with the recordings of each mode, or with all of them if there are no modes; None without any."""
    if not modes:
        if sound is None:
            return None
        offset, distance = sound.compare(spectrum)
        return Beside(None, offset, distance, sound.fits(distance))
    found = [(mode.sound.compare(spectrum), name) for name, mode in modes.items()]
    (offset, distance), name = min(found, key=lambda one: one[0][1])
    return Beside(name, offset, distance, modes[name].sound.fits(distance))


class GainWatch:
    """Names a level that has moved while the spectrum kept its shape; and a shape that moved as a microphone's does."""

    def __init__(self, gain_db: float, bands_hz: Sequence[float]) -> None:
        """`bands_hz` are the centres of the bands, (n_mels,)."""
        self._gain_db, self._bands_hz = gain_db, list(bands_hz)
        self._seen: deque[tuple[float, bool, Spectrum]] = deque(maxlen=GAIN_SPAN)
        self.offset_db: float | None = None
        """Median offset over the span; None until there is one."""
        self.gain_db: float | None = None
        """The change of gain that is named; None if there is none."""
        self.text: str | None = None
        """One line for people; None if nothing has moved."""

    def reset(self) -> None:
        """Begin anew, as after a start or a change of mode: what is named stays until it is measured again."""
        self._seen.clear()

    def add(self, spectrum: Spectrum, level_dbfs: float, sound: SoundProfile) -> None:
        """Add the spectrum and level, each of 10 s, of a machine that runs, with the recordings they are compared with."""
        _, distance = sound.compare(spectrum)
        # The level is steadier than the median of the bands, where those wander by themselves.
        offset = level_dbfs - 0.5 * (sound.level_dbfs[0] + sound.level_dbfs[1])
        self._seen.append((offset, sound.fits(distance), spectrum - np.asarray(sound.mean_db)))
        if len(self._seen) < GAIN_FEWEST:
            return
        offset = self.offset_db = float(np.median([one[0] for one in self._seen]))
        limit = sound.gain_limit(self._gain_db) - (GAIN_BACK_DB if self.gain_db is not None else 0.0)
        keeps_shape = 2 * sum(one[1] for one in self._seen) > len(self._seen)
        if not keeps_shape:
            self.gain_db, self.text = None, self._moved(sound)
        elif abs(offset) > limit:
            # Another text for every tenth of a dB would be a message for each.
            if self.gain_db is None or abs(offset - self.gain_db) > GAIN_BACK_DB:
                self.gain_db = offset
            self.text = gain_text(self.gain_db)
        else:
            self.gain_db = self.text = None

    def _moved(self, sound: SoundProfile) -> str | None:
        """A change of shape that a microphone or its chain explains, in words."""
        change = np.mean([one[2] for one in self._seen], axis=0)
        bands = len(change)
        place = np.linspace(-0.5, 0.5, bands)
        top = max(1, round(CUT_SHARE * bands))
        spread = np.asarray(sound.spread_db) + SPREAD_DB
        centre = float(np.median(change))
        low = np.flatnonzero(change - centre >= -CUT_DB)
        first_cut = int(low[-1]) + 1 if low.size else bands
        if bands - first_cut >= top:
            kept = change[:first_cut] - np.median(change[:first_cut])
            if math.sqrt(float(np.mean(np.square(kept / spread[:first_cut])))) <= ALLOWED * sound.shape_limit:
                hz = self._bands_hz[first_cut]
                return f"nothing above {hz / 1000:.1f} kHz, unlike the recordings: another sample rate or codec?"
        slope, middle = np.polyfit(place, change, 1)
        left = change - (slope * place + middle)
        total = float(np.var(change))
        if abs(slope) < TILT_DB or total <= 0 or 1.0 - float(np.var(left)) / total < TILT_SHARE:
            return None
        weaker = "weaker" if slope < 0 else "stronger"
        return (
            f"high bands {abs(slope):.0f} dB {weaker} beside the low ones than in the recordings: was the microphone "
            "moved or covered?"
        )


def gain_text(gain_db: float) -> str:
    """A change of gain in one line for people."""
    if gain_db > 0:
        return f"{gain_db:.0f} dB louder than the recordings: gain, distance or a second machine?"
    return f"{-gain_db:.0f} dB quieter than the recordings: gain, distance or load?"


def band_centres(settings: FeatureSettings) -> list[float]:
    """Centres of the mel bands in Hz, (n_mels,)."""
    from edgeasd.runtime.features.logmel import hz_to_mel

    lowest, highest = hz_to_mel([settings.f_min, settings.f_max])
    return [float(hz) for hz in mel_to_hz(np.linspace(lowest, highest, settings.n_mels + 2))[1:-1]]
