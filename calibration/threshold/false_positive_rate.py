"""A threshold for single clips by the share of normal clips that may lie above it: order statistics, no model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.calibration.threshold.special import binomial_quantile, order_statistic_quantile
from edgeasd.calibration.threshold.threshold import (
    CONSECUTIVE,
    FittedThreshold,
    Interval,
    finite_clip_scores,
    one_line,
)
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Promise, ThresholdSource

FEW_ABOVE = 10
"""With fewer normal clips beyond the threshold its rate is known to a factor of about two only."""


def threshold_by_rate(
    clip_scores: ArrayLike,
    rate: float,
    *,
    hours: float | None = None,
    sources: Sequence[ThresholdSource] = (),
    consecutive: int = CONSECUTIVE,
) -> FittedThreshold:
    """The clip score that a share `rate` of normal clips exceeds.

    `clip_scores` is (clips,), finite, of independent normal clips the model was not trained on; `hours`
    and `sources` describe them for the record. With n clips the threshold is the r-th smallest score,
    r = ⌈(1 − rate)(n + 1)⌉: the next clip lies above it with probability (n + 1 − r) / (n + 1) ≤ rate,
    whatever the distribution. The interval of that rate is a beta distribution's, and that of the threshold
    lies between two order statistics (both exact for continuous scores; Conover, Practical Nonparametric
    Statistics, 3.2). Where the upper rank is beyond the largest score, the interval has no upper end.

    Raises InputError for a rate outside (0, 1), for scores that are none or not finite, and for fewer clips
    than the rate needs: 1/rate − 1. The largest scores give no information on rarer ones.
    """
    if not 0 < rate < 1:
        raise InputError(f"false-positive rate {rate}: no share of clips; give a number between 0 and 1")
    scores = np.sort(finite_clip_scores(clip_scores, "normal"))
    n = int(scores.size)
    # The tolerance undoes the rounding of 1 − rate, which would cost a rank.
    rank = math.ceil((1 - rate) * (n + 1) - 1e-9)
    if rank > n:
        needed = math.ceil(1 / rate - 1 - 1e-9)
        raise InputError(
            f"false-positive rate {rate:g}: {n} normal clips support none below {1 / (n + 1):.3g}; "
            f"give {needed} clips or more, or allow a higher rate"
        )
    expected = (n + 1 - rank) / (n + 1)
    low, high = (1 - order_statistic_quantile(p, rank, n) for p in (0.975, 0.025))
    above = n - rank
    warnings = []
    if above < FEW_ABOVE:
        warnings.append(
            f"{above} of {n} normal clips lie above the threshold, so its rate may be anything from {low:.2g} to "
            f"{high:.2g}; give {math.ceil(FEW_ABOVE / rate)} clips or more"
        )
    return FittedThreshold(
        clip=float(scores[rank - 1]),
        consecutive=consecutive,
        found_by=f"false-positive rate {rate:g} of single normal clips (score {rank} of {n} in order)",
        clips=n,
        warning=one_line(warnings),
        interval95=_interval(scores, 1 - rate),
        promise=Promise(kind="false_positive_rate", target=rate, expected=expected, interval95=(low, high)),
        hours=hours,
        sources=tuple(sources),
        details={"rank": rank, "above": above},
    )


def _interval(ordered: np.ndarray, share: float) -> Interval:
    """Order statistics around the quantile: the count of scores below it is binomial."""
    n = len(ordered)
    lower = binomial_quantile(0.025, n, share)
    upper = binomial_quantile(0.975, n, share) + 1
    return (
        float(ordered[lower - 1]) if lower >= 1 else None,
        float(ordered[upper - 1]) if upper <= n else None,
    )
