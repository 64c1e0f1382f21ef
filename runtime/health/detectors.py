"""What is measured in the sound: figures of a window, dropouts, and blocks that repeat.

`monitor.py` decides with them when a health state begins and ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.features.logmel import Float32Array


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """Figures of one window of samples."""

    mean: float
    power: float
    """Mean square about the mean."""
    clipped: int
    """Samples at full scale or beyond."""
    zeros: int
    constant: bool
    """All samples are the same."""


class WindowMeter:
    """Computes `WindowFigures`. Holds scratch memory only.

    A window is copied there first, so that sums do not depend on the alignment of the caller's array.
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
        # Subtracted before squaring: with a large offset, a quiet sound would drown in rounding.
        wide -= mean
        power = float(np.dot(wide, wide)) / window.size
        clipped = 0
        if max(-lowest, highest) >= self._full_scale:
            clipped = int(np.count_nonzero(np.abs(window) >= self._full_scale))
        return WindowFigures(mean, power, clipped, window.size - int(np.count_nonzero(window)), False)


class DropoutDetector:
    """Counts dropouts: runs of exact zeros, also across windows.

    A run counts if it lasts `shortest` to `longest` samples and a sample next to it is at least `edge` large: sound
    that fades out has small samples there, a lost buffer cuts anywhere.
    """

    def __init__(self, shortest: int, longest: int, edge: float) -> None:
        self._shortest, self._longest, self._edge = shortest, longest, edge
        self.reset()

    def reset(self) -> None:
        """Forget a run that has begun."""
        self._run = 0
        self._before = 0.0
        """Size of the sample before the run; the beginning of a sound is no edge."""
        self._last = 0.0

    def push(self, window: Float32Array, zeros: int) -> int:
        """Dropouts that end in this window (n,), of whose samples `zeros` are 0."""
        if not zeros:
            count = self._end_run(abs(float(window[0])))
            self._last = abs(float(window[-1]))
            return count
        if zeros == window.size:
            if not self._run:
                self._before = self._last
            self._run += zeros
            return 0
        return self._mixed(window)

    def _mixed(self, window: Float32Array) -> int:
        sounding = np.flatnonzero(window)
        first, last = int(sounding[0]), int(sounding[-1])
        if first:
            if not self._run:
                self._before = self._last
            self._run += first
        count = self._end_run(abs(float(window[first])))
        lengths = np.diff(sounding) - 1
        inside = np.flatnonzero((lengths >= self._shortest) & (lengths <= self._longest))
        if inside.size:
            edges = np.maximum(np.abs(window[sounding[inside]]), np.abs(window[sounding[inside + 1]]))
            count += int(np.count_nonzero(edges >= self._edge))
        self._last = abs(float(window[last]))
        self._run = window.size - 1 - last
        self._before = self._last
        return count

    def _end_run(self, after: float) -> int:
        run, self._run = self._run, 0
        return int(self._shortest <= run <= self._longest and max(self._before, after) >= self._edge)


class StuckDetector:
    """Finds sound that repeats one block exactly, in stretches of `size` samples."""

    PATTERN = 48
    """Samples at the end that are looked up in what came before."""
    CANDIDATES = 8

    def __init__(self, size: int) -> None:
        self._size = size
        self.block: int | None = None
        """Samples of the block that the last stretch repeats from beginning to end; None if it repeats none."""

    def reset(self) -> None:
        """Forget the block."""
        self.block = None

    def push(self, stretch: Float32Array) -> None:
        """Search a stretch (size,) for blocks of 2 to size // 2 samples. A constant counts as none.

        The last samples are looked up in what came before: a few passes over the stretch, not one for each length.
        """
        self.block = self._search(stretch, self._size // 2)

    def _search(self, stretch: Float32Array, longest: int) -> int | None:
        if stretch[0] == stretch[-1] and np.all(stretch == stretch[0]):
            return None
        last = stretch.size - 1
        first = max(self.PATTERN, last - longest)
        ends = np.flatnonzero(stretch[first:last] == stretch[last]) + first
        for back in range(1, self.PATTERN):
            if not ends.size:
                return None
            ends = ends[stretch[ends - back] == stretch[last - back]]
        for end in ends[::-1][: self.CANDIDATES]:
            block = last - int(end)
            if np.array_equal(stretch[block:], stretch[:-block]):
                return block
        return None
