"""A threshold by false alarms a day, from live clip scores of normal recordings.

The alarm rule is active while the last `consecutive` clip scores all lie above the threshold, so while their
minimum, the level, does. An alarm is raised when the level rises from u or below to above u. So the rises that
span u are the alarms at u: two sorted lists count them for every threshold at once. Rates lower than the
recordings can show are extrapolated by a generalised Pareto tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeasd.calibration.threshold.live import LiveNormals
from edgeasd.calibration.threshold.special import gamma_quantile, poisson_quantile
from edgeasd.calibration.threshold.threshold import CONSECUTIVE, FittedThreshold, Interval, one_line
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Promise

Array = NDArray[np.float64]
XI_LIMIT = 0.5
"""ξ is sought in [−0.5, 0.5]: below, the likelihood is irregular; above, the tail would have no variance."""
_HALF_CHI2_95 = 1.920729410347062
"""Half the 95 % quantile of χ² with one degree of freedom: how far the log-likelihood may fall."""
STRETCHES_NEEDED = 20
"""Fewer separate high stretches give no tail: its interval would span orders of magnitude."""
STRETCHES_WANTED = 200
_BLOCK_EXPECTS = 5
_WHOLE = 1e-3
"""A rule that needs three scores in a row listens a moment less than the recording lasts: 0.999 alarms are one."""
FEW_ALARMS = 10
FAR = 20.0
"""A rate this many times below what the recordings can show is warned of: normal sound changes meanwhile."""
_Fit = tuple[float, Interval, tuple[float, float], float, list[str]]
"""Threshold, its interval, the interval of its alarms an hour, alarms an hour expected, warnings."""


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


def log_survival(y: Array | float, xi: Array | float, sigma: Array | float) -> Array:
    """ln P(Y > y) of the generalised Pareto distribution, −inf beyond its end; broadcasts."""
    xi = np.where(np.abs(xi) < 1e-9, 1e-9, xi)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.maximum(xi * (np.asarray(y) / sigma), -1.0)
        return np.asarray(-np.log1p(inside) / xi)


class Tail:
    """A fitted tail: stretches an hour above any level from the base on."""

    def __init__(self, excesses: Array, hours: float, dispersion: float = 1.0) -> None:
        """Fit to `excesses` (stretches,) >= 0 over the base, collected in `hours`.

        `dispersion` >= 1 is how much more the counts of stretches vary than a Poisson process's; the
        likelihood is worth that much less. Raises InputError if the excesses are all 0.
        """
        self.hours, self.count, self.dispersion = hours, len(excesses), dispersion
        mean = float(excesses.mean()) if len(excesses) else 0.0
        if not mean > 0:
            raise InputError("the highest live scores of the normals are all equal: no tail can be fitted; check them")
        self._grid(excesses, np.linspace(-XI_LIMIT, XI_LIMIT, 101), np.geomspace(0.4, 2.5, 121) * mean)
        best = int(np.argmax(self._loglik))
        self.xi, self.sigma = float(self._xi[best]), float(self._sigma[best])

    def _grid(self, excesses: Array, xis: Array, sigmas: Array) -> None:
        # Where ξ < 0 the scale that fits is larger by about 1 − ξ; the same grid serves all once scaled.
        xi, scale = (a.ravel() for a in np.meshgrid(xis, sigmas, indexing="ij"))
        sigma = scale * (1 - xi)
        loglik = np.empty(len(xi))
        for start in range(0, len(xi), 1024):
            part = slice(start, start + 1024)
            logs = log_survival(excesses[None], xi[part, None], sigma[part, None])
            # The density is S^(1 + ξ) / σ.
            with np.errstate(invalid="ignore"):
                loglik[part] = ((1 + xi[part, None]) * logs).sum(axis=1) - len(excesses) * np.log(sigma[part])
        loglik = np.where(np.isfinite(loglik), loglik, -np.inf)
        # No rate can make up for more than what an interval may lose: the rest never decides one.
        near = loglik >= loglik.max() - 1.01 * _HALF_CHI2_95 * self.dispersion
        self._xi, self._sigma, self._loglik = xi[near], sigma[near], loglik[near]

    def rate(self, excess: float) -> float:
        """Stretches an hour that rise more than `excess` above the base."""
        return self.count / self.hours * float(np.exp(log_survival(excess, self.xi, self.sigma)))

    def excess_at(self, rate: float) -> float:
        """How far above the base the level lies that `rate` stretches an hour exceed; at least 0."""
        ratio = max(1.0, self.count / self.hours / rate)
        xi = self.xi if abs(self.xi) > 1e-9 else 1e-9
        return self.sigma / xi * float(np.expm1(xi * np.log(ratio)))

    def _profile(self, excess: float, rate: float) -> float:
        """Log-likelihood profiled over the tail, given the rate above `excess`, less its maximum."""
        logs = log_survival(excess, self._xi, self._sigma)
        n = self.count
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            # A tail that ends below `excess` cannot have a rate above 0 there: its likelihood is minus infinity.
            log_mean = np.log(rate * self.hours) - logs if rate > 0 else np.where(np.isinf(logs), np.log(n), np.inf)
            value = self._loglik + n * log_mean - np.exp(log_mean)
        value = np.where(np.isfinite(value), value, -np.inf)
        return float(value.max() - (self._loglik.max() + n * np.log(n) - n)) / self.dispersion

    def rate_interval(self, excess: float) -> tuple[float, float]:
        """95 % interval of `rate(excess)`; the lower end is 0 where the tail may end below."""

        def kept(rate: float) -> bool:
            return self._profile(excess, rate) >= -_HALF_CHI2_95

        fitted = self.rate(excess)
        low = 0.0 if kept(0.0) else _edge(kept, fitted, 0.5)
        # From above, since a fitted rate of 0 is no place to start from.
        high = 4 * self.count / self.hours
        while not kept(high) and high > 1e-12 * self.count / self.hours:
            high /= 1.5
        return low, _edge(kept, high, 1.5)

    def excess_interval(self, rate: float) -> tuple[float, float]:
        """95 % interval of `excess_at(rate)`."""
        middle = max(self.excess_at(rate), 1e-9 * self.sigma)

        def kept(excess: float) -> bool:
            return self._profile(excess, rate) >= -_HALF_CHI2_95

        return _edge(kept, middle, 0.5), _edge(kept, middle, 2.0)


def _edge(kept: Callable[[float], bool], inside: float, factor: float) -> float:
    """Where `kept` ends going from `inside` by powers of `factor`, by bisection on the log scale."""
    outside = inside * factor
    for _ in range(60):
        if not kept(outside):
            break
        inside, outside = outside, outside * factor
    for _ in range(50):
        middle = float(np.sqrt(inside * outside))
        inside, outside = (middle, outside) if kept(middle) else (inside, middle)
    return inside


@dataclass(frozen=True)
class _Evidence:
    """What is known of the recordings without a threshold."""

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


def _evidence(normals: LiveNormals, consecutive: int) -> _Evidence:
    series = [r.scores for r in normals.recordings]
    longest = max(len(one) for one in series)
    if longest < consecutive:
        raise InputError(
            f"the longest normal recording gives {longest} complete live scores and an alarm takes {consecutive} in a "
            f"row; give recordings of {normals.window_seconds + (consecutive - 1) * normals.hop_seconds:.1f} s or "
            "more, much longer if there are any"
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
    # Never below the highest level measured: fewer alarms must not mean a lower threshold than one in all hours.
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
            "the rule starts again in each, so the rate is overstated; give longer recordings"
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
