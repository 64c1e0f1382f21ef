"""Holes in the sound: short runs of exact zeros that begin or end abruptly."""

from __future__ import annotations

import numpy as np

from edgeasd.runtime.logmel import Float32Array


class Holes:
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
        """Holes that end in this window (n,), of whose samples `zeros` are 0."""
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
