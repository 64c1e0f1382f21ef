"""Simulated normal live scores with a given autocorrelation: years of scores to try a threshold on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.calibration.threshold.alarms_per_day import AlarmCurve, alarm_levels, rises
from edgeasd.runtime.errors import InputError

Array = NDArray[np.float64]
Marginal = Callable[[Array], Array]

CHUNK = 1 << 20
"""Scores made at once, less the lags (56 hours at 0.192 s); each chunk is a recording of its own."""


def simulated_scores(
    autocorrelation: ArrayLike, count: int, rng: np.random.Generator, marginal: Marginal = np.asarray
) -> Iterator[Array]:
    """`count` scores in chunks of about 2^20 (56 h): stationary, of this autocorrelation, each chunk independent.

    `autocorrelation` is (lags + 1,) from lag 0 on, 1 at 0, and 0 beyond its end; parts of its spectrum
    below 0 (it need not be exactly positive definite) are cut off. The process is Gaussian with mean 0
    and variance 1; `marginal`, a growing function, gives scores another distribution and leaves the
    order of all alarms as it was. Raises InputError for more lags than half a chunk.
    """
    lags = np.asarray(autocorrelation, dtype=np.float64)
    if lags.ndim != 1 or not 1 <= len(lags) <= CHUNK // 2:
        raise InputError(f"autocorrelation of shape {lags.shape}: give 1 to {CHUNK // 2} lags")
    left = count
    while left > 0:
        # The circle of the transform is longer than what is used of it by the correlation, so its ends do not meet.
        size = min(CHUNK - len(lags), left)
        circle = 1 << (size + len(lags) - 1).bit_length()
        row = np.zeros(circle)
        row[: len(lags)] = lags
        row[circle - len(lags) + 1 :] += lags[:0:-1]
        power = np.maximum(np.fft.rfft(row).real, 0.0)
        noise = np.fft.rfft(rng.standard_normal(circle))
        yield marginal(np.fft.irfft(noise * np.sqrt(power), circle)[:size])
        left -= size


def simulated_alarms(
    autocorrelation: ArrayLike, count: int, rng: np.random.Generator, consecutive: int, keep_above: float
) -> AlarmCurve:
    """Alarms of `count` simulated Gaussian scores at any threshold from `keep_above` standard deviations on.

    Memory is bounded by the rises that reach above `keep_above`; a year of scores is 164 million.
    """

    def kept() -> Iterator[tuple[Array, Array]]:
        for scores in simulated_scores(autocorrelation, count, rng):
            low, high = rises(alarm_levels(scores, consecutive))
            above = high > keep_above
            yield low[above], high[above]

    return AlarmCurve(kept())
