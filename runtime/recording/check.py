"""Whether a clip is worth keeping: dead, quiet, overdriven or offset microphones are told by plain figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.audio import Samples

FULL_SCALE = 0.9999
CLIPPED_SHARE = 1e-3
SILENT_DBFS = -80.0
OFFSET_DBFS = -26.0
FLOOR_DBFS = -120.0


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """Figures of a stretch of sound; levels in dBFS, at least -120."""

    samples: int
    level_dbfs: float
    """RMS without the offset."""
    peak_dbfs: float
    offset_dbfs: float
    clipped: int
    """Samples at full scale (0.9999) or beyond."""
    zeros: int

    @property
    def complaints(self) -> tuple[str, ...]:
        """What is wrong: "digital silence", "silence", "clipping", "offset"; nothing as a rule.

        Digital silence is exact zeros throughout; silence a level below -80 dBFS; clipping more than one
        sample in a thousand at full scale; offset a mean beyond -26 dBFS.
        """
        found = []
        if self.zeros == self.samples:
            found.append("digital silence")
        elif self.level_dbfs < SILENT_DBFS:
            found.append("silence")
        if self.clipped > CLIPPED_SHARE * self.samples:
            found.append("clipping")
        if self.offset_dbfs > OFFSET_DBFS:
            found.append("offset")
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
        clipped=int(np.count_nonzero(peaks >= FULL_SCALE)),
        zeros=int(samples.size - np.count_nonzero(samples)),
    )


def _dbfs(value: float) -> float:
    return 20.0 * math.log10(value) if value > 1e-6 else FLOOR_DBFS
