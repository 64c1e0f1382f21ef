"""The figures of one window of sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.features.logmel import Float32Array


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


class DropoutDetector:
    """Counts runs of exact zeros across windows.

    A run is a hole where it lasts `shortest` to `longest` samples and a sample next to it has at least the
    size `edge`: sound that fades to nothing has small samples there, a lost buffer cuts at any place.
    """

    def __init__(self, shortest: int, longest: int, edge: float) -> None:
        self._shortest, self._longest, self._edge = shortest, longest, edge
        self.reset()

    def reset(self) -> None:
        """Forget a run that has begun; the sound begins anew."""
        self._run = 0
        self._before = 0.0  # size of the sample before the run; the beginning of a sound is no edge
        self._last = 0.0

    def push(self, window: Float32Array, zeros: int) -> int:
        """DropoutDetector that end in this window (n,), of whose samples `zeros` are 0."""
        if not zeros:
            found = self._end_of_run(abs(float(window[0])))
            self._last = abs(float(window[-1]))
            return found
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
        found = self._end_of_run(abs(float(window[first])))
        lengths = np.diff(sounding) - 1
        inside = np.flatnonzero((lengths >= self._shortest) & (lengths <= self._longest))
        if inside.size:
            edges = np.maximum(np.abs(window[sounding[inside]]), np.abs(window[sounding[inside + 1]]))
            found += int(np.count_nonzero(edges >= self._edge))
        self._last = abs(float(window[last]))
        self._run = window.size - 1 - last
        self._before = self._last
        return found

    def _end_of_run(self, after: float) -> int:
        run, self._run = self._run, 0
        return int(self._shortest <= run <= self._longest and max(self._before, after) >= self._edge)


_PATTERN = 48
_TRIED = 8


def repeated_block(sound: Float32Array, longest: int) -> int | None:
    """Samples of the block that `sound` (n,) repeats exactly from beginning to end; None where it repeats none.

    Blocks of 2 to `longest` samples are found, for n > longest + 48; a constant is none. The last samples are
    looked up in what came before, so the cost is a few passes over the array and not one for each length.
    """
    if sound[0] == sound[-1] and np.all(sound == sound[0]):
        return None
    last = sound.size - 1
    first = max(_PATTERN, last - longest)
    ends = np.flatnonzero(sound[first:last] == sound[last]) + first
    for back in range(1, _PATTERN):
        if not ends.size:
            return None
        ends = ends[sound[ends - back] == sound[last - back]]
    for end in ends[::-1][:_TRIED]:
        block = last - int(end)
        if np.array_equal(sound[block:], sound[:-block]):
            return block
    return None
