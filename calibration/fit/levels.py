"""The expected level range of a machine, from its normal clips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.health.detectors import WindowMeter
from edgeasd.runtime.health.monitor import SPAN_WINDOWS, WINDOW_SECONDS
from edgeasd.runtime.health.settings import FLOOR_DBFS, LevelRange

ON_SITE_DB, TRAINING_DB = 10.0, 20.0
"""Margin beyond the percentiles: for clips of the microphone that will listen, and for those of a data set."""
LOWER, UPPER = 1.0, 99.0
"""Percentiles of the levels: one clip of a switched-off machine among a hundred must not widen the range."""
FEWEST_SECONDS = 60.0
"""With less sound there is no range."""

Levels = npt.NDArray[np.float64]


def clip_levels(sound: Float32Array, sample_rate: int) -> Levels:
    """Levels in dBFS, (n,) float64, of every 10 s of `sound` (samples,), a window of 0.2 s apart.

    They are those that `HealthMonitor` compares; a shorter clip has one, over all its whole windows, and one
    shorter than a window none.
    """
    size = round(WINDOW_SECONDS * sample_rate)
    meter = WindowMeter(size, 1.0)
    powers = np.array([meter.measure(sound[at : at + size]).power for at in range(0, len(sound) - size + 1, size)])
    span = min(SPAN_WINDOWS, len(powers))
    if not span:
        return np.empty(0)
    means = np.convolve(powers, np.full(span, 1.0 / span), "valid")
    return np.maximum(FLOOR_DBFS, 10.0 * np.log10(np.maximum(means, 1e-30)))


def expected_levels(clips: Sequence[Levels], seconds: float, margin_db: float) -> LevelRange | None:
    """From the 1st percentile of all levels less `margin_db` to the 99th and as much more; None for too little sound.

    `clips` has the levels of each clip, `seconds` says how long all are together.
    """
    levels = np.concatenate([*clips, np.empty(0)])
    if seconds < FEWEST_SECONDS or not len(levels):
        return None
    low, high = (float(value) for value in np.percentile(levels, [LOWER, UPPER]))
    top = min(0.0, high + margin_db)
    found_by = f"{LOWER:g}st to {UPPER:g}th percentile of the levels of {len(clips)} clips"
    return LevelRange(
        # To a tenth of a dB, outwards.
        low_dbfs=max(FLOOR_DBFS, math.floor(10.0 * min(low - margin_db, top - margin_db)) / 10.0),
        high_dbfs=min(0.0, math.ceil(10.0 * top) / 10.0),
        measured_low_dbfs=round(low, 1),
        measured_high_dbfs=round(high, 1),
        found_by=f"{found_by} ({low:.1f} to {high:.1f} dBFS) ± {margin_db:g} dB",
    )


def outside(levels: Levels, expected: LevelRange) -> bool:
    """Whether a clip with these levels lies outside the range somewhere."""
    return bool(len(levels) and (levels.min() < expected.low_dbfs or levels.max() > expected.high_dbfs))
