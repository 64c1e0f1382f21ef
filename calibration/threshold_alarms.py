"""A threshold by the number of false alarms a day that is allowed, from live scores of normal recordings.

Alarms are counted as the alarm rule raises them (alarms.py). Where the recordings are long enough to hold
the alarms that are allowed, the count decides. Where they are not, a tail is fitted to the highest levels
(tail.py), and the result says that it is an extrapolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeasd.calibration.alarms import AlarmCurve, Stretches
from edgeasd.calibration.live import LiveNormals
from edgeasd.calibration.special import gamma_quantile, poisson_quantile
from edgeasd.calibration.tail import Tail
from edgeasd.calibration.threshold import CONSECUTIVE, FittedThreshold, Interval, one_line
from edgeasd.runtime.alarm_rule import Promise
from edgeasd.runtime.errors import InputError

STRETCHES_NEEDED = 20
"""Fewer separate high stretches give no tail: its interval would span orders of magnitude."""
STRETCHES_WANTED = 200
_BLOCK_EXPECTS = 5
_WHOLE = 1e-3
"""A rule that needs three scores in a row listens a moment less than the recording lasts: 0.999 alarms are one."""
FEW_ALARMS = 10
FAR = 20.0
"""A rate this many times below what the recordings can show is warned of: normal sound changes meanwhile."""


@dataclass(frozen=True)
class _Evidence:
    """What the recordings say apart from any one threshold."""

    curve: AlarmCurve
    stretches: Stretches
    base: float
    """The level above which stretches make the tail."""
    size_base: float
    """A higher one: how many alarms a stretch raises is taken there, nearer to any threshold."""
    hours: float
    dispersion: float
    """Variance over mean of the number of stretches in equal blocks of time, 1 where chance explains it."""

    def alarms_per_stretch(self, threshold: float) -> tuple[float, float]:
        """Mean alarms of a stretch, and their size-biased mean, which widens intervals of alarm counts."""
        _, raised, _ = self.stretches.at(min(threshold, self.size_base))
        raised = raised[raised > 0]
        return (float(raised.mean()), float((raised**2).sum() / raised.sum())) if raised.size else (1.0, 1.0)


def threshold_by_alarms(
    normals: LiveNormals, per_day: float, *, consecutive: int = CONSECUTIVE, clips: int | None = None
) -> FittedThreshold:
    """The threshold at which normal sound raises at most `per_day` alarms a day in the long run.

    `consecutive` is the alarm rule's; `clips` how many files the recordings come from, if not one each.
    With H hours and μ = per_day · H / 24 alarms allowed in them:

    - μ >= 1: the lowest threshold above which there are never more than ⌊μ⌋ − 1 alarms in the recordings.
      It lies on the level of one more, so ⌊μ⌋ is what is to be expected of as many new hours.
    - μ < 1: extrapolation by the tail, for stretches times the alarms that a stretch raises; never below the
      highest level of the recordings.

    Intervals (95 %) take stretches, not alarms and not scores, as independent, widened by how unevenly they
    are spread over time: of counts by the gamma distribution (exact for a Poisson process), of the tail
    by profile likelihood. `details` has the figures for a report.

    Raises InputError for a rate or a rule that means nothing, and for recordings that are too short.
    """
    if not (per_day > 0 and math.isfinite(per_day)):
        raise InputError(f"{per_day} false alarms a day: not a rate; give a number above 0, such as 1 or 0.14")
    if consecutive < 1:
        raise InputError(f"consecutive={consecutive}: an alarm needs at least one clip score; give 1 or more")
    evidence = _evidence(normals, consecutive)
    allowed = per_day / 24 * evidence.hours
    tail, problem = _tail(evidence, normals)
    extrapolation = allowed < 1 - _WHOLE
    if not extrapolation:
        fitted = _counted(evidence, allowed, tail)
    elif tail is None:
        raise InputError(f"{per_day:g} false alarms a day: {normals.hours:.3g} h of normals can show {problem}")
    else:
        fitted = _extrapolated(evidence, per_day / 24, tail)
    threshold, interval, (low, high), expected, warnings = fitted
    how = (
        f"extrapolation by a generalised Pareto tail from {_hours(normals.hours)}"
        if extrapolation
        else f"alarms counted in {_hours(normals.hours)}"
    )
    return FittedThreshold(
        clip=threshold,
        consecutive=consecutive,
        found_by=f"{per_day:g} false alarms a day: {how}",
        clips=len(normals.recordings) if clips is None else clips,
        warning=one_line([*warnings, *_general_warnings(normals, evidence, allowed)]),
        interval95=interval,
        promise=Promise(
            kind="alarms_per_day",
            target=per_day,
            expected=24 * expected,
            interval95=(24 * low, 24 * high),
            extrapolation=extrapolation,
        ),
        hours=normals.hours,
        sources=normals.sources,
        details=_details(evidence, normals, tail, threshold),
    )


_Fit = tuple[float, Interval, tuple[float, float], float, list[str]]
"""Threshold, its interval, the interval of its alarms an hour, alarms an hour expected, warnings."""


def _evidence(normals: LiveNormals, consecutive: int) -> _Evidence:
    series = [r.scores for r in normals.recordings]
    longest = max(len(one) for one in series)
    if longest < consecutive:
        raise InputError(
            f"the longest normal recording gives {longest} complete live scores and an alarm takes {consecutive} in a "
            f"row; give recordings of {normals.window_seconds + (consecutive - 1) * normals.hop_seconds:.1f} s or "
            "more, much longer where there are any"
        )
    apart = normals.memory_hops()
    stretches = Stretches(series, consecutive, apart)
    windows = normals.hops / apart
    base = stretches.threshold_for(int(np.clip(windows / 20, STRETCHES_NEEDED, STRETCHES_WANTED)))
    size_base = max(base, stretches.threshold_for(STRETCHES_NEEDED))
    hours = len(stretches.levels) * normals.hop_seconds / 3600
    curve = AlarmCurve.of(series, consecutive)
    return _Evidence(curve, stretches, base, size_base, hours, _dispersion(stretches, base))


def _dispersion(stretches: Stretches, base: float) -> float:
    """Variance over mean of stretches per block of time; 1 unless significantly (2.5 %) more than chance."""
    _, _, first = stretches.at(base)
    blocks = len(first) // _BLOCK_EXPECTS
    if blocks < 4:
        return 1.0
    counts = np.bincount(first * blocks // len(stretches.levels), minlength=blocks)
    chi2 = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
    if chi2 <= 2 * gamma_quantile(0.975, (blocks - 1) / 2):
        return 1.0
    return chi2 / (blocks - 1)


def _tail(evidence: _Evidence, normals: LiveNormals) -> tuple[Tail | None, str]:
    """The tail, or why there is none."""
    highest, _, _ = evidence.stretches.at(evidence.base)
    if len(highest) < STRETCHES_NEEDED:
        needed = 10 * STRETCHES_NEEDED * evidence.stretches.apart * normals.hop_seconds / 3600
        return None, (
            f"{24 / evidence.hours:.3g} a day by counting, and their {len(highest)} separate high stretches are too "
            f"few for a tail ({STRETCHES_NEEDED} needed); record about {needed:.2g} h, or allow more alarms"
        )
    return Tail(highest - evidence.base, evidence.hours, evidence.dispersion), ""


def _counted(evidence: _Evidence, allowed: float, tail: Tail | None) -> _Fit:
    alarms = math.floor(allowed + _WHOLE) - 1
    threshold = evidence.curve.lowest_threshold(alarms)
    _, biased = evidence.alarms_per_stretch(threshold)
    # Counts of clumped events vary like `spread` times a Poisson count of mean / spread.
    spread = biased * evidence.dispersion
    low, high = (spread * gamma_quantile(p, max(1.0, (alarms + 1) / spread)) / evidence.hours for p in (0.025, 0.975))
    fewest, most = (spread * poisson_quantile(p, allowed / spread) for p in (0.025, 0.975))
    lower = evidence.curve.lowest_threshold(most)
    upper: float | None = None
    if fewest >= 1:
        upper = evidence.curve.lowest_threshold(fewest - 1)
    elif tail is not None:
        mean, _ = evidence.alarms_per_stretch(threshold)
        upper = max(threshold, evidence.base + tail.excess_interval(allowed / evidence.hours / mean)[1])
    warnings = []
    if alarms + 1 < FEW_ALARMS:
        warnings.append(
            f"the threshold rests on the {alarms + 1} highest alarm{'s' if alarms else ''} of the recordings, so the "
            f"true rate may be anything from {24 * low:.2g} to {24 * high:.2g} a day"
        )
    return threshold, (lower, upper), (low, high), (alarms + 1) / evidence.hours, warnings


def _extrapolated(evidence: _Evidence, per_hour: float, tail: Tail) -> _Fit:
    mean, _ = evidence.alarms_per_stretch(np.inf)
    # Never below the highest level heard: fewer alarms must not be a lower threshold than one in all hours.
    highest = evidence.curve.lowest_threshold(0) - evidence.base
    excess = max(tail.excess_at(per_hour / mean), highest)
    low, high = (mean * rate for rate in tail.rate_interval(excess))
    below, above = tail.excess_interval(per_hour / mean)
    warnings = [
        f"extrapolation: {_hours(evidence.hours)} cannot show fewer than {24 / evidence.hours:.2g} alarms a day; the "
        f"true rate may be anything from {24 * low:.2g} to {24 * high:.2g} a day, if the tail goes on as fitted"
    ]
    if per_hour * evidence.hours * FAR < 1:
        warnings.append(
            f"the rate is {1 / (per_hour * evidence.hours):.0f} times smaller than the recordings can show; record "
            f"{_hours(1 / per_hour / FAR)} or more"
        )
    interval = (evidence.base + below, evidence.base + max(above, excess))
    expected = min(per_hour, mean * tail.rate(excess))
    return evidence.base + excess, interval, (low, high), expected, warnings


def _general_warnings(normals: LiveNormals, evidence: _Evidence, allowed: float) -> list[str]:
    warnings = []
    median = float(np.median([len(r.scores) for r in normals.recordings if len(r.scores)]))
    if median < 10 * evidence.stretches.apart and len(normals.recordings) > 1:
        warnings.append(
            f"half of the recordings have less than {median * normals.hop_seconds + normals.window_seconds:.0f} s, and "
            "the rule starts anew in each, so the rate is overstated; give longer recordings"
        )
    if evidence.dispersion > 1:
        warnings.append(
            f"high scores come in spells ({evidence.dispersion:.1f} times the variance of chance), so the intervals are "
            "wider; record over more days and states of the machine"
        )
    if allowed * 24 < 1 and normals.hours < 24:
        warnings.append("less than a day of normals shows no change of shift, load or weather")
    return warnings


def _details(evidence: _Evidence, normals: LiveNormals, tail: Tail | None, threshold: float) -> dict[str, object]:
    return {
        "hours": normals.hours,
        "recordings": len(normals.recordings),
        "correlation_seconds": evidence.stretches.apart * normals.hop_seconds,
        "independent_windows": normals.hops / evidence.stretches.apart,
        "alarms_at_threshold": int(evidence.curve.count(threshold)),
        "alarms_per_stretch": evidence.alarms_per_stretch(threshold)[0],
        "dispersion": evidence.dispersion,
        "base": evidence.base,
        "stretches": tail.count if tail else None,
        "xi": tail.xi if tail else None,
        "sigma": tail.sigma if tail else None,
    }


def _hours(hours: float) -> str:
    return f"{hours:.3g} h of normals" if hours < 1000 else f"{hours:.0f} h of normals"
