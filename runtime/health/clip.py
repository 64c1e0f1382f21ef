"""What a usable clip is: one rule for all that reads whole recordings.

The reader refuses what cannot be sound: NaN, infinity, samples far beyond full scale. What is left is judged here
by the health states of a running input, with their thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.health.monitor import MAX_RATE, MIN_RATE, WINDOW_SECONDS, HealthMonitor
from edgeasd.runtime.health.settings import FLOOR_DBFS, HealthSettings

SETTINGS = HealthSettings()
UNUSABLE = ("digital_silence", "silence", "stuck")
"""States of a clip that holds no sound of a machine, or only in a part. A clip with another state is doubtful."""
_QUIET_SHARE = 0.8
"""A clip is silent if so much of it is: a microphone that died, and not the pauses of a valve."""
_REASONS = {
    "digital_silence": "exact zeros for a second or more: a dead or muted input",
    "silence": "silence, below -80 dBFS: an input with nothing attached",
    "stuck": "the same block again and again: a driver that repeats its buffer",
    "clipping": "clipped: the gain is too high",
    "dc_offset": "an offset: broken coupling",
    "dropouts": "holes: a cable or a driver that loses sound",
}


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """Levels of some sound in dBFS, at least -120, and counts of samples."""

    samples: int
    level_dbfs: float
    """RMS without the DC offset."""
    peak_dbfs: float
    offset_dbfs: float
    clipped: int
    """Samples at full scale or beyond."""
    zeros: int

    @property
    def complaints(self) -> tuple[str, ...]:
        """Health states of this sound: digital_silence, silence, clipping, dc_offset."""
        states = []
        if self.zeros == self.samples:
            states.append("digital_silence")
        elif self.level_dbfs < SETTINGS.silence.on_dbfs:
            states.append("silence")
        if self.clipped >= SETTINGS.clipping.on_share * self.samples:
            states.append("clipping")
        if self.offset_dbfs >= SETTINGS.dc_offset.on_dbfs:
            states.append("dc_offset")
        return tuple(states)


def measure(samples: Float32Array) -> ClipFigures:
    """Figures of samples (n,) float32, n >= 1."""
    wide = samples.astype(np.float64)
    mean = float(wide.mean())
    peaks = np.abs(samples)
    return ClipFigures(
        samples=samples.size,
        level_dbfs=_dbfs(math.sqrt(float(np.mean(np.square(wide - mean))))),
        peak_dbfs=_dbfs(float(peaks.max())),
        offset_dbfs=_dbfs(abs(mean)),
        clipped=int(np.count_nonzero(peaks >= SETTINGS.clipping.full_scale)),
        zeros=int(samples.size - np.count_nonzero(samples)),
    )


def clip_states(samples: Float32Array, sample_rate: int) -> tuple[str, ...]:
    """Health states of a whole clip (n,) float32 at `sample_rate` Hz, n >= 1: of all of it, or of a part.

    Raises InputError for NaN and infinities.
    """
    states = dict.fromkeys(measure(samples).complaints)
    if MIN_RATE <= sample_rate <= MAX_RATE:
        monitor = HealthMonitor(SETTINGS, sample_rate)
        states |= dict.fromkeys(change.state for change in monitor.push(samples) if change.active)
    if _quiet_share(samples, sample_rate) >= _QUIET_SHARE and "digital_silence" not in states:
        states["silence"] = None
    return tuple(states)


def _quiet_share(samples: Float32Array, sample_rate: int) -> float:
    """Share of the windows that are below the level of silence."""
    size = max(1, round(WINDOW_SECONDS * sample_rate))
    windows = samples[: samples.size // size * size].reshape(-1, size)
    if not len(windows):
        return 0.0
    return float(np.mean(windows.std(axis=1, dtype=np.float64) < 10.0 ** (SETTINGS.silence.on_dbfs / 20.0)))


def is_usable(states: tuple[str, ...]) -> bool:
    """Whether a clip with these states may be learned from; those with doubtful ones may."""
    return not any(state in UNUSABLE for state in states)


def describe_states(states: tuple[str, ...]) -> str:
    """The states of a clip, with the likely cause of each."""
    return "; ".join(f"{state} ({_REASONS.get(state, 'see the page on health')})" for state in states)


def _dbfs(value: float) -> float:
    return 20.0 * math.log10(value) if value > 1e-6 else FLOOR_DBFS
