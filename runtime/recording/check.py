"""Whether a clip is worth keeping: dead, quiet, overdriven or offset microphones are told by plain figures.

Thresholds and names are those of `edgeasd.runtime.health`. Its monitor judges windows of a running sound and
waits before it says anything; here a clip is judged as a whole, so that each clip has its verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.audio import Samples
from edgeasd.runtime.health import HealthSettings
from edgeasd.runtime.health.settings import FLOOR_DBFS

SETTINGS = HealthSettings()


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """Figures of a stretch of sound; levels in dBFS, at least -120."""

    samples: int
    level_dbfs: float
    """RMS without the offset."""
    peak_dbfs: float
    offset_dbfs: float
    clipped: int
    """Samples at full scale or beyond."""
    zeros: int

    @property
    def complaints(self) -> tuple[str, ...]:
        """Health states of this stretch: digital_silence, silence, clipping, dc_offset; none as a rule."""
        found = []
        if self.zeros == self.samples:
            found.append("digital_silence")
        elif self.level_dbfs < SETTINGS.silence.on_dbfs:
            found.append("silence")
        if self.clipped >= SETTINGS.clipping.on_share * self.samples:
            found.append("clipping")
        if self.offset_dbfs >= SETTINGS.dc_offset.on_dbfs:
            found.append("dc_offset")
        return tuple(found)


def measure(samples: Samples) -> ClipFigures:
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


def _dbfs(value: float) -> float:
    return 20.0 * math.log10(value) if value > 1e-6 else FLOOR_DBFS
