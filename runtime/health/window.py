"""The figures of one window of sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.logmel import Float32Array


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """What one window (n,) of samples amounts to."""

    mean: float
    power: float
    """Mean square about the mean."""
    clipped: int
    """Samples at full scale or beyond."""
    zeros: int
    constant: bool
    """All samples are the same."""


class WindowMeter:
    """Computes `WindowFigures`; holds scratch memory only.

    A window is copied to the same place first: sums then never depend on where the caller's array began.
    """

    def __init__(self, size: int, full_scale: float) -> None:
        self._wide: npt.NDArray[np.float64] = np.empty(size)
        self._full_scale = full_scale

    def measure(self, window: Float32Array) -> WindowFigures:
        """Figures of a window (size,) float32, finite."""
        wide = self._wide
        wide[:] = window
        lowest, highest = float(window.min()), float(window.max())
        if lowest == highest:
            clipped = window.size if abs(lowest) >= self._full_scale else 0
            zeros = window.size if lowest == 0.0 else 0
            return WindowFigures(lowest, 0.0, clipped, zeros, True)
        mean = float(np.add.reduce(wide)) / window.size
        # Subtracted before squaring: a large offset would leave nothing but rounding of a quiet sound.
        wide -= mean
        power = float(np.dot(wide, wide)) / window.size
        clipped = 0
        if max(-lowest, highest) >= self._full_scale:
            clipped = int(np.count_nonzero(np.abs(window) >= self._full_scale))
        return WindowFigures(mean, power, clipped, window.size - int(np.count_nonzero(window)), False)
