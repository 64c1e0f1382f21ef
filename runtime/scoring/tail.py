"""A threshold above the highest scores of normal sound: an exponential tail over the peaks of equal windows.

The peaks of windows that are as long as a clip score's memory are nearly independent. What the highest of them
exceed a base level by is taken as exponential (peaks over threshold with shape 0; Coles, An Introduction to
Statistical Modeling of Extreme Values, 4). It needs no more than a handful of peaks, and it is above the truth for
scores whose tail ends sooner, as that of a mean of many segments does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FARTHEST = 20.0
"""An extrapolation goes no further than one alarm in this many times the sound that was heard."""
ONE_A_WEEK = 1 / 7
_MOST_EXCESSES, _WANTED_EXCESSES = 200, 10
_DAY = 86_400.0


@dataclass(frozen=True)
class TailThreshold:
    """A threshold and what it rests on; levels in units of the score, rates in alarms a day."""

    clip: float
    per_day: float
    """The rate it was made for."""
    expected: float
    """The rate that the fitted tail gives; less than `per_day` if the highest peak set the threshold."""
    interval95: tuple[float, float]
    """Of `clip`, from the uncertainty of the mean excess."""
    rate_interval95: tuple[float, float]
    """Of `expected`."""
    base: float
    mean_excess: float
    excesses: int
    windows: int
    window_seconds: float

    @property
    def hours(self) -> float:
        """Sound behind it."""
        return self.windows * self.window_seconds / 3600


def window_peaks(levels: ArrayLike, hops: int) -> NDArray[np.float64]:
    """Highest of each `hops` consecutive alarm levels (n,): (ceil(n / hops),); the last window may be shorter."""
    values = np.asarray(levels, dtype=np.float64)
    return np.maximum.reduceat(values, np.arange(0, len(values), max(1, hops))) if len(values) else values


def tail_threshold(peaks: ArrayLike, window_seconds: float, per_day: float | None = None) -> TailThreshold:
    """The threshold that normal sound exceeds `per_day` times a day, from peaks (windows,) of normal sound, finite.

    By default `per_day` is one alarm in FARTHEST times the sound behind the peaks, and at least one a week. The
    excesses of the highest fifth of the peaks (10 at least, but half of them at most) over the next one give the
    tail: with a share p of windows above the base and the mean excess m, level x is exceeded in a share
    p exp(−(x − base) / m) of windows. The threshold lies one mean excess above the highest peak at least. The
    intervals take sums of exponential excesses as gamma (Wilson and Hilferty's approximation). Raises ValueError
    without peaks.
    """
    ordered = np.sort(np.asarray(peaks, dtype=np.float64))[::-1]
    count = len(ordered)
    if not count:
        raise ValueError("no peaks of normal sound")
    used = min(_MOST_EXCESSES, max(math.ceil(count / 5), min(_WANTED_EXCESSES, count // 2)), count - 1)
    base, highest = float(ordered[used]), float(ordered[0])
    mean = float(np.mean(ordered[:used] - base)) if used else 0.0
    if per_day is None:
        per_day = max(ONE_A_WEEK, _DAY / (FARTHEST * count * window_seconds))
    share = max(1, used) / count
    windows_a_day = _DAY / window_seconds
    log_ratio = math.log(max(1.0, share * windows_a_day / per_day))
    clip = max(base + mean * log_ratio, highest + mean)
    low, high = (mean * factor for factor in _mean_factors(used)) if used else (0.0, 0.0)

    def rate(scale: float) -> float:
        return share * windows_a_day * math.exp(-(clip - base) / scale) if scale > 0 else 0.0

    return TailThreshold(
        clip=clip,
        per_day=per_day,
        expected=rate(mean),
        interval95=(max(highest, base + low * log_ratio), max(clip, base + high * log_ratio)),
        rate_interval95=(rate(low), rate(high)),
        base=base,
        mean_excess=mean,
        excesses=used,
        windows=count,
        window_seconds=window_seconds,
    )


def _mean_factors(count: int) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of exponential values, as parts of the mean of `count` of them."""
    z = NormalDist().inv_cdf(0.975)
    ends = [max(1e-3, 1 - 1 / (9 * count) + sign * z / (3 * math.sqrt(count))) ** 3 for sign in (1, -1)]
    return 1 / ends[0], 1 / ends[1]
