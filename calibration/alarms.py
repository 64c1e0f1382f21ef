"""How often the alarm rule raises, for every threshold at once.

The rule of `edgeasd.runtime.alarm_rule` is active where the last `consecutive` clip scores all lie above
the threshold, so where their minimum does; call that minimum the level. An alarm is raised where the
level rises from u or below to above u. Counting the rises that span u is therefore counting alarms, with
two sorted lists and no loop. A test holds this to the rule itself, score by score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def alarm_levels(scores: Array, consecutive: int) -> Array:
    """Minimum over the last `consecutive` complete clip scores, (n − consecutive + 1,); empty for a shorter row."""
    count = len(scores) - consecutive + 1
    if count <= 0:
        return np.empty(0)
    levels = scores[:count].copy()
    for shift in range(1, consecutive):
        np.minimum(levels, scores[shift : shift + count], out=levels)
    return levels


def rises(levels: Array) -> tuple[Array, Array]:
    """(from, to) of every rise of the level of one recording; the first comes from minus infinity."""
    before = np.concatenate([[-np.inf], levels[:-1]])[: len(levels)]
    up = levels > before
    return before[up], levels[up]


class AlarmCurve:
    """The number of alarms in some recordings as a function of the threshold."""

    def __init__(self, recordings: Iterable[tuple[Array, Array]]) -> None:
        """From (from, to) of the rises of each recording."""
        pairs = list(recordings)
        self._lows = np.sort(np.concatenate([low for low, _ in pairs] or [np.empty(0)]))
        self._highs = np.sort(np.concatenate([high for _, high in pairs] or [np.empty(0)]))

    @classmethod
    def of(cls, recordings: Sequence[Array], consecutive: int) -> AlarmCurve:
        """From the complete clip scores of each recording."""
        return cls(rises(alarm_levels(scores, consecutive)) for scores in recordings)

    def count(self, thresholds: Array | float) -> NDArray[np.int64]:
        """Alarms raised at each threshold, of the shape of `thresholds`."""
        begun = np.searchsorted(self._lows, thresholds, side="right")
        return np.asarray(begun - np.searchsorted(self._highs, thresholds, side="right"))

    def lowest_threshold(self, alarms: float) -> float:
        """The lowest threshold from which on upwards there are never more than `alarms` alarms.

        It is sought among the levels where rises begin and end; at the largest there is no alarm. NaN where
        there are no levels.
        """
        if not len(self._highs):
            return float("nan")
        looked_at = 4 * int(alarms) + 64
        while True:
            # From the top downwards: where alarms are few, the rest need not be sorted together.
            bottom = self._highs[max(0, len(self._highs) - looked_at)] if looked_at < len(self._highs) else -np.inf
            parts = [part[np.searchsorted(part, bottom) :] for part in (self._lows, self._highs)]
            steps = np.unique(np.concatenate(parts))
            steps = steps[np.isfinite(steps)]
            beyond = np.flatnonzero(self.count(steps) > alarms)
            if beyond.size or bottom == -np.inf:
                return float(steps[beyond[-1] + 1] if beyond.size else steps[0])
            looked_at *= 8


class Stretches:
    """Separate stretches above a threshold: moments above it that are nearer than `apart` hops are one stretch.

    Clip scores share sound, so neighbours above a threshold are one event seen many times. Stretches are
    nearly independent of each other, which alarms are not: one stretch may raise several.
    """

    def __init__(self, recordings: Sequence[Array], consecutive: int, apart: int) -> None:
        levels = [alarm_levels(scores, consecutive) for scores in recordings]
        self.apart = apart
        self.levels = np.concatenate([*levels, np.empty(0)])
        self._ordered = np.sort(self.levels)
        # Recordings lie further apart than any stretch can bridge.
        offsets = np.cumsum([0] + [len(one) + apart + 1 for one in levels])
        self._at = np.concatenate([np.arange(len(one)) + o for one, o in zip(levels, offsets, strict=False)] + [[]])
        before = np.concatenate([*(np.concatenate([[-np.inf], one[:-1]]) for one in levels if len(one)), np.empty(0)])
        self._before = before

    def at(self, threshold: float) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
        """(highest level, alarms raised, index of the first moment among all) of every stretch, each (stretches,)."""
        above = np.flatnonzero(self.levels > threshold)
        if not above.size:
            return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
        first = np.flatnonzero(np.concatenate([[True], np.diff(self._at[above]) > self.apart]))
        raised = (self._before[above] <= threshold).astype(np.int64)
        return np.maximum.reduceat(self.levels[above], first), np.add.reduceat(raised, first), above[first]

    def threshold_for(self, wanted: int) -> float:
        """The highest threshold with at least `wanted` stretches, with at most a fifth of all moments above it.

        The one with the most stretches where none has so many: further down there is no tail.
        """
        best, most = float("nan"), -1
        ordered = self._ordered
        # Finer towards the top: the number of stretches grows in proportion to the moments above.
        for beyond in np.unique(np.geomspace(1, max(1, len(ordered) // 5), 160).astype(int)):
            threshold = float(ordered[len(ordered) - 1 - beyond]) if beyond < len(ordered) else float(ordered[0])
            found = len(self.at(threshold)[0])
            if found >= wanted:
                return threshold
            if found > most:
                best, most = threshold, found
        return best
