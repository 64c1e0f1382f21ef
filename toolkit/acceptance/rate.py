"""False alarms of a listening time, what they promise, and the hours that a promise needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeasd.calibration.threshold.special import gamma_quantile, order_statistic_quantile

HOURS_A_MONTH = 730.5
CALL_OUT_SECONDS = 900.0
"""Alarms nearer than this to the one before are one call-out: somebody is on the way already."""
CONFIDENCE = 0.95
FEWEST_CALL_OUTS = 5
"""With fewer nothing can be said of how they cluster."""


@dataclass(frozen=True)
class Span:
    """One recording that was listened to: complete scores for `hours`, with alarms at these seconds from its start."""

    hours: float
    alarms: tuple[float, ...] = ()


@dataclass(frozen=True)
class FalseAlarms:
    """Call-outs of normal sound. Rates are call-outs a month of 730.5 hours."""

    hours: float
    alarms: int
    call_outs: int
    per_month: float
    interval95: tuple[float, float]
    """Two-sided."""
    at_most: float
    """One-sided upper end, 95 %: what can be promised."""
    at_least: float
    """One-sided lower end, 95 %."""
    dispersion: float
    """Variance over mean of call-outs in equal times, 1 where chance explains it; intervals are wider by it."""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def count_false_alarms(spans: Sequence[Span]) -> FalseAlarms:
    """Count call-outs and bound their rate: exact for a Poisson process (Garwood), widened for clustered ones.

    Alarms come in clusters: those within CALL_OUT_SECONDS of the one before are one call-out. If call-outs still
    vary more from day to day than a Poisson process would, the interval is that of a count smaller by that factor.
    """
    hours = sum(span.hours for span in spans)
    at: list[float] = []
    start = 0.0
    for span in spans:
        before = -math.inf
        for second in span.alarms:
            if second - before >= CALL_OUT_SECONDS:
                at.append(start + second / 3600)
            before = second
        start += span.hours
    count, dispersion = len(at), _dispersion(at, hours)

    def upper(probability: float) -> float:
        return dispersion * gamma_quantile(probability, count / dispersion + 1) / hours * HOURS_A_MONTH

    def lower(probability: float) -> float:
        if not count:
            return 0.0
        return dispersion * gamma_quantile(probability, count / dispersion) / hours * HOURS_A_MONTH

    return FalseAlarms(
        hours=hours,
        alarms=sum(len(span.alarms) for span in spans),
        call_outs=count,
        per_month=count / hours * HOURS_A_MONTH,
        interval95=(lower(0.025), upper(0.975)),
        at_most=upper(CONFIDENCE),
        at_least=lower(1 - CONFIDENCE),
        dispersion=dispersion,
    )


def hours_needed(per_month: float, call_outs: int = 0) -> float:
    """Hours with `call_outs` call-outs that carry the promise of at most `per_month`."""
    return gamma_quantile(CONFIDENCE, call_outs + 1) / per_month * HOURS_A_MONTH


def share_interval(found: int, tried: int) -> tuple[float, float]:
    """95 % interval of a share (Clopper and Pearson)."""
    low = order_statistic_quantile(0.025, found, tried) if found else 0.0
    high = order_statistic_quantile(0.975, found + 1, tried) if found < tried else 1.0
    return low, high


def _dispersion(at: Sequence[float], hours: float) -> float:
    """The largest variance over mean of counts in equal blocks of a day, of two and of parts of the hours; at least 1.

    Where chance does not explain it (chi-square, 10 %), the upper quartile of what it may be. Fewer than
    FEWEST_CALL_OUTS tell nothing of it.
    """
    if len(at) < FEWEST_CALL_OUTS:
        return 1.0
    shares, largest = np.asarray(at) / hours, 1.0
    for width in (24.0, 48.0, hours / 12, hours / 6, hours / 4):
        blocks = int(hours // width)
        if blocks < 4:
            continue
        counts = np.bincount(np.minimum((shares * blocks).astype(int), blocks - 1), minlength=blocks)
        chi2, freedom = float(((counts - counts.mean()) ** 2).sum() / counts.mean()), blocks - 1
        found = chi2 / freedom
        if chi2 > 2 * gamma_quantile(0.9, freedom / 2):
            found = chi2 / (2 * gamma_quantile(0.25, freedom / 2))
        largest = max(largest, found)
    return largest
