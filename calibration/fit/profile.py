"""What the normal recordings of a machine sound like: spectrum, level, and how far both move. For gain, off and modes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array
from edgeasd.runtime.health.monitor import SPAN_WINDOWS, WINDOW_SECONDS
from edgeasd.runtime.states.sound import SoundProfile, band_powers, spectrum_of

LOWER, UPPER = 1.0, 99.0
"""Percentiles of levels, offsets and distances: one clip of a knock among a hundred must not widen what is normal."""
FEWEST_SECONDS = 59.0
"""With less sound there is no profile: a minute, less what the frames of each clip leave out at its end."""
LEAST_LIMIT = 1.0
"""Of the distance: a few clips that are alike say little about the next one."""
SPAN_SECONDS = SPAN_WINDOWS * WINDOW_SECONDS
MODE_FILE = re.compile(r"clip_([a-z][a-z0-9-]{0,31})_\d{6,9}\.(?:flac|wav)")
"""Names of clips of a mode, as `record --mode` writes them: clip_fast_000001.flac."""
MODE_FOLDER = re.compile(r"mode_([a-z][a-z0-9-]{0,31})")
"""A folder of clips of a mode, for recordings of other names."""


@dataclass(frozen=True)
class ClipSound:
    """The sound of one clip in spans of 10 s."""

    spectra: NDArray[np.float64]
    """(spans, n_mels) in dB."""
    levels: NDArray[np.float64]
    """(n,) in dBFS."""
    seconds: float


def clip_sound(
    frames: Float32Array, levels: NDArray[np.float64], settings: FeatureSettings, amplitude: Amplitude
) -> ClipSound:
    """From the log-mel frames (T, n_mels) of a clip, T >= 1, and its levels in dBFS (n,).

    Of the frames only as many are taken as a device takes: one for each 0.2 s.
    """
    step = max(1, round(WINDOW_SECONDS * settings.sample_rate / settings.hop_length))
    taken = np.asarray(frames[::step])
    spans = max(1, len(taken) // SPAN_WINDOWS)
    powers = band_powers(taken, settings, amplitude)
    spectra = np.stack([spectrum_of(part) for part in np.array_split(powers, spans)])
    return ClipSound(spectra, levels, settings.sample_count(len(frames)) / settings.sample_rate)


def sound_profile(clips: Sequence[ClipSound]) -> SoundProfile | None:
    """The profile of normal clips; None for less than a minute of sound."""
    seconds = sum(clip.seconds for clip in clips)
    levels = np.concatenate([np.empty(0), *(clip.levels for clip in clips)])
    if seconds < FEWEST_SECONDS or not levels.size:
        return None
    spectra = np.concatenate([clip.spectra for clip in clips])
    mean = spectra.mean(axis=0)
    change = spectra - mean
    shapes = change - np.median(change, axis=1, keepdims=True)
    spread = shapes.std(axis=0)
    draft = SoundProfile(
        mean_db=tuple(np.round(mean, 2).tolist()),
        spread_db=tuple(np.round(spread, 2).tolist()),
        offset_db=(0.0, 0.0),
        shape_limit=LEAST_LIMIT,
        level_dbfs=_range(levels),
        clips=len(clips),
        seconds=round(seconds, 1),
    )
    compared = np.array([draft.compare(one) for one in spectra])
    limit = max(LEAST_LIMIT, float(np.percentile(compared[:, 1], UPPER)))
    return draft.model_copy(update={"offset_db": _range(compared[:, 0]), "shape_limit": round(limit, 3)})


def mode_of(path: Path) -> str | None:
    """The mode that the name of a clip, or of its folder, says; None for a clip of no mode."""
    match = MODE_FILE.fullmatch(path.name) or MODE_FOLDER.fullmatch(path.parent.name)
    return None if match is None else match[1]


def mode_profiles(clips: Mapping[str | None, Sequence[ClipSound]]) -> dict[str, SoundProfile]:
    """The profile of each mode, by name; clips of no mode and modes of less than a minute have none."""
    found = {name: sound_profile(of_mode) for name, of_mode in clips.items() if name is not None}
    return {name: profile for name, profile in sorted(found.items()) if profile is not None}


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [LOWER, UPPER])
    return round(float(low), 1), round(float(high), 1)
