"""How two scorings order the same clips: rank correlation, AUC and partial AUC with paired intervals (DeLong)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.runtime.errors import InputError

PARTIAL_RATE = 0.1
RESAMPLES = 1000

Array = NDArray[np.float64]


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two scorings (n,), finite, ties sharing their mean rank; in [-1, 1].

    Where a scoring is constant it has no order: 1 where both are, else 0.
    """
    ranks_a, ranks_b = (midranks(np.asarray(one, np.float64)) for one in (a, b))
    centred_a, centred_b = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    size_a, size_b = float(np.sum(centred_a**2)), float(np.sum(centred_b**2))
    if size_a == 0.0 or size_b == 0.0:
        return 1.0 if size_a == size_b else 0.0
    # Sums of squares of half-integers are exact, so equal orders give 1 and not nearly 1.
    return float(np.clip(np.sum(centred_a * centred_b) / math.sqrt(size_a * size_b), -1.0, 1.0))


def partial_auc(normal: Array, anomaly: Array, rate: float = PARTIAL_RATE) -> float:
    """Area under the ROC curve up to the false-positive `rate`, scaled to 0.5 for chance and 1 for perfect.

    Scores (n,) float64 each, higher is more anomalous. McClish's scaling, as scikit-learn's
    roc_auc_score(max_fpr=rate) has it (Medical Decision Making 9, 1989).
    """
    thresholds = np.unique(np.concatenate([normal, anomaly]))[::-1]
    false = np.append(0.0, 1.0 - np.searchsorted(np.sort(normal), thresholds, side="left") / normal.size)
    true = np.append(0.0, 1.0 - np.searchsorted(np.sort(anomaly), thresholds, side="left") / anomaly.size)
    stop = int(np.searchsorted(false, rate, side="right"))
    if stop < len(false):
        at = np.interp(rate, false[stop - 1 : stop + 1], true[stop - 1 : stop + 1])
        false, true = np.append(false[:stop], rate), np.append(true[:stop], at)
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    least = rate**2 / 2
    return 0.5 * (1.0 + (area - least) / (rate - least))


@dataclass(frozen=True)
class PairedChange:
    """A figure of fp32 and of the variant over the same clips, and a 95 % interval of variant minus fp32."""

    reference: float
    variant: float
    low: float
    high: float
    interval_by: str

    @property
    def difference(self) -> float:
        """Variant minus fp32."""
        return self.variant - self.reference

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "difference": self.difference}


def auc_change(reference: tuple[ArrayLike, ArrayLike], variant: tuple[ArrayLike, ArrayLike]) -> PairedChange:
    """Of the AUC; each argument is (normal scores, anomaly scores), the same clips in the same order. By DeLong.

    Raises InputError as `edgeasd.calibration.drift.ranking.delong` does, for fewer than two clips of a class among others.
    """
    found = delong(*variant, *reference)
    return PairedChange(found.auc_b, found.auc_a, *found.interval, interval_by="DeLong")


def partial_auc_change(
    reference: tuple[ArrayLike, ArrayLike], variant: tuple[ArrayLike, ArrayLike], seed: int = 0
) -> PairedChange:
    """Of the partial AUC; arguments as in `auc_change`. By a paired bootstrap.

    Clips of each class are resampled with replacement 1,000 times by `seed`, the same ones for both scorings;
    the interval holds the middle 95 % of the differences. Raises InputError as `checked_classes` does.
    """
    exact, found = checked_classes(*reference), checked_classes(*variant)
    draw = np.random.default_rng(seed)
    differences = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        normals, anomalies = (draw.integers(0, part.size, part.size) for part in exact)
        differences[index] = partial_auc(found[0][normals], found[1][anomalies]) - partial_auc(
            exact[0][normals], exact[1][anomalies]
        )
    low, high = (float(end) for end in np.quantile(differences, [0.025, 0.975]))
    return PairedChange(partial_auc(*exact), partial_auc(*found), low, high, interval_by="paired bootstrap")


@dataclass(frozen=True)
class PairedComparison:
    """AUC of scoring a minus that of b over the same clips, with its confidence interval and two-sided p."""

    auc_a: float
    auc_b: float
    difference: float
    interval: tuple[float, float]
    """Of `difference`, clipped to [-1, 1]."""
    level: float
    standard_error: float
    z: float | None
    """None if the standard error is 0."""
    p: float | None
    """None if the standard error is 0 and the AUCs differ: the clips are too few or too easy to tell."""
    normals: int
    anomalies: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {**asdict(self), "interval": list(self.interval), "test": "DeLong"}


def delong(
    a_normal: ArrayLike, a_anomaly: ArrayLike, b_normal: ArrayLike, b_anomaly: ArrayLike, level: float = 0.95
) -> PairedComparison:
    """Compare scorings `a` and `b`: finite scores (n_normal,) and (n_anomaly,), the same clips in the same order.

    Ties count one half. Raises InputError for fewer than two clips of a class (no variance), for scorings of
    different length, for scores that are not finite and for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level={level} is not a confidence level; give a number between 0 and 1, like 0.95")
    a, b = checked_classes(a_normal, a_anomaly), checked_classes(b_normal, b_anomaly)
    sizes = [(part_a.size, part_b.size) for part_a, part_b in zip(a, b, strict=True)]
    for kind, (size_a, size_b) in zip(("normal", "anomalous"), sizes, strict=True):
        if size_a != size_b:
            raise InputError(f"{size_a} and {size_b} {kind} scores cannot be paired; score the same clips in both")
        if size_a < 2:
            raise InputError(f"{size_a} {kind} clip has no variance; DeLong's test needs 2 or more of each kind")
    of_a, of_b = _placements(*a), _placements(*b)
    auc_a, auc_b = float(of_a[1].mean()), float(of_b[1].mean())
    # The variance of a difference is that of the differences, without the cancellation of s_a² + s_b² − 2 s_ab.
    variance = sum(
        float(np.var(part_a - part_b, ddof=1)) / part_a.size for part_a, part_b in zip(of_a, of_b, strict=True)
    )
    difference, error = auc_a - auc_b, math.sqrt(variance)
    # Equal placements leave the rounding of their means behind.
    if error <= 1e-12:
        error = 0.0
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    z = difference / error if error else None
    p = 2 * NormalDist().cdf(-abs(z)) if z is not None else (1.0 if abs(difference) <= 1e-12 else None)
    return PairedComparison(
        auc_a=auc_a,
        auc_b=auc_b,
        difference=difference,
        interval=(max(-1.0, difference - half), min(1.0, difference + half)),
        level=level,
        standard_error=error,
        z=z,
        p=p,
        normals=a[0].size,
        anomalies=a[1].size,
    )


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, tied values sharing their mean rank; (n,) in and out, float64."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered, side="left")
    behind = np.searchsorted(ordered, ordered, side="right")
    ranks = np.empty(len(values))
    ranks[order] = (first + behind + 1) / 2
    return ranks


def _placements(
    normals: NDArray[np.float64], anomalies: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each normal the share of anomalies above it, of each anomaly the share of normals below it."""
    together = midranks(np.concatenate([normals, anomalies]))
    above = 1 - (together[: normals.size] - midranks(normals)) / anomalies.size
    below = (together[normals.size :] - midranks(anomalies)) / normals.size
    return above, below


def checked_classes(normal: ArrayLike, anomaly: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both kinds of score as float64, (n_normal,) and (n_anomaly,).

    Raises InputError for another shape, for a class without clips, and for a score that is NaN or infinite, by
    position.
    """
    normals, anomalies = _scores(normal, "normal"), _scores(anomaly, "anomalous")
    if normals.size == 0 or anomalies.size == 0:
        missing = " and ".join(
            kind for kind, scores in (("normal", normals), ("anomalous", anomalies)) if scores.size == 0
        )
        raise InputError(
            f"the AUC is undefined with {normals.size} normal and {anomalies.size} anomalous clips; "
            f"add {missing} clips to the test set"
        )
    return normals, anomalies


def _scores(values: ArrayLike, kind: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(f"{kind} scores have shape {scores.shape}; give one score per clip")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(
            f"{kind} score {bad[0]} of {scores.size} is {scores[bad[0]]} "
            f"({bad.size} such in all); remove the clip or repair the model that scored it"
        )
    return scores
