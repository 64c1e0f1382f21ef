"""Figures of clip scores: AUC and its interval, partial AUC, ROC curve and its band, pairs in another order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.calibration.drift import ranking
from edgeasd.calibration.drift.ranking import checked_classes
from edgeasd.runtime.errors import InputError

RESAMPLES = 500


@dataclass(frozen=True)
class Interval:
    """A confidence interval of an AUC; `low` and `high` are clipped to [0, 1], `half_width` is not."""

    low: float
    high: float
    half_width: float


@dataclass(frozen=True)
class PairDifference:
    """Pairs of one normal and one anomalous clip, counted over two scorings of the same clips.

    `discordant` pairs are ordered differently by the two (a tie in one only counts as different);
    `explained_by_ties` of them lie within the tolerance of a tie in at least one scoring.
    """

    discordant: int
    explained_by_ties: int
    total: int

    @property
    def unexplained(self) -> int:
        """Discordant pairs that are clear of a tie in both scorings."""
        return self.discordant - self.explained_by_ties


def auc(normal_scores: ArrayLike, anomaly_scores: ArrayLike, *, ties: Literal["half", "zero"] = "half") -> float:
    """Share of (normal, anomalous) pairs in which the anomaly scores higher; equation 6 of the paper.

    Scores are one finite number per clip, shapes (n_normal,) and (n_anomaly,), higher = more anomalous.

    A tied pair counts one half, as in scikit-learn and in the Mann-Whitney statistic, so that a constant
    scorer gets 0.5 and negating all scores gives 1 − AUC. `ties="zero"` is equation 6 as printed, with
    H(0) = 0: there a constant scorer gets 0, and a saturated score (many clips at the same value) is
    punished for its ties rather than for its order. Use it only to compare with figures made that way.

    Raises InputError if a class is empty (the AUC is then undefined) or a score is not finite.
    """
    if ties not in ("half", "zero"):
        raise InputError(f"ties={ties!r} does not count ties; use 'half' or 'zero'")
    normals, anomalies = checked_classes(normal_scores, anomaly_scores)
    normals = np.sort(normals)
    won = int(np.searchsorted(normals, anomalies, side="left").sum())
    won_or_tied = int(np.searchsorted(normals, anomalies, side="right").sum())
    twice = won + won_or_tied if ties == "half" else 2 * won
    return twice / (2 * normals.size * anomalies.size)


def partial_auc(normal_scores: ArrayLike, anomaly_scores: ArrayLike, max_fpr: float = 0.1) -> float:
    """Area under the ROC curve up to a false-positive rate of `max_fpr`, standardised after McClish (1989).

    0.5 is chance and 1 is perfect, whatever `max_fpr`; this is scikit-learn's
    `roc_auc_score(max_fpr=...)`, the pAUC of the DCASE challenges. With fewer than 1 / `max_fpr` normals
    it reads an interpolated piece of one step of the curve.

    Scores as in `auc`. Raises InputError as `auc` does, and for `max_fpr` outside (0, 1].
    """
    if not 0 < max_fpr <= 1:
        raise InputError(f"max_fpr={max_fpr} is not a false-positive rate; give a number above 0, at most 1")
    return ranking.partial_auc(*checked_classes(normal_scores, anomaly_scores), max_fpr)


def hanley_mcneil(auc: float, n_positive: int, n_negative: int, level: float = 0.95) -> Interval:
    """Confidence interval of an AUC from the standard error of Hanley and McNeil (Radiology 143, 1982).

    SE² = [A(1 − A) + (n₊ − 1)(Q₁ − A²) + (n₋ − 1)(Q₂ − A²)] / (n₊ n₋), Q₁ = A / (2 − A),
    Q₂ = 2A² / (1 + A); the half-width is the normal quantile of `level` times SE.

    The formula is not symmetric in the two classes. Table II of the paper follows from it with the
    normal clips as the positive class, over the pooled clips of a machine type. At A = 0 or 1 the
    standard error is zero: that is the formula's limit, not certainty.

    `auc` is in [0, 1], the counts are clips, `level` lies strictly between 0 and 1. Raises InputError
    for anything else.
    """
    if not 0 <= auc <= 1:
        raise InputError(f"an AUC of {auc} has no interval; give a share in [0, 1], not a percentage")
    if n_positive < 1 or n_negative < 1:
        raise InputError(
            f"an AUC over {n_positive} positive and {n_negative} negative clips has no interval; "
            "at least one of each is needed"
        )
    if not 0 < level < 1:
        raise InputError(f"level={level} is not a confidence level; give a number between 0 and 1, like 0.95")
    both_positives = auc / (2 - auc)
    both_negatives = 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (n_positive - 1) * (both_positives - auc**2) + (n_negative - 1) * (both_negatives - auc**2)
    ) / (n_positive * n_negative)
    # Rounding can leave a variance of −1e-17 next to an AUC of 0 or 1.
    half_width = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(max(variance, 0.0))
    return Interval(max(0.0, auc - half_width), min(1.0, auc + half_width), half_width)


def newcombe(auc: float, n_positive: int, n_negative: int, level: float = 0.95) -> Interval:
    """Confidence interval of an AUC that keeps its width at 0 and 1: method 5 of Newcombe (Stat. Med. 25, 2006).

    As Wilson's interval of a share, it holds all A with |AUC − A| <= z SE(A), with the variance of Hanley and McNeil
    made symmetric in the classes: A(1 − A)[1 + (N − 1)((1 − A)/(2 − A) + A/(1 + A))] / (n₊ n₋), N = (n₊ + n₋) / 2.
    20 anomalies and 12 normals in perfect order give 0.87 to 1. Arguments and errors as of `hanley_mcneil`;
    `half_width` is half of the interval.
    """
    hanley_mcneil(auc, n_positive, n_negative, level)  # the same arguments are refused
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    mean_count, pairs = (n_positive + n_negative) / 2, n_positive * n_negative

    def inside(a: float) -> bool:
        spread = 1 + (mean_count - 1) * ((1 - a) / (2 - a) + a / (1 + a))
        return (auc - a) ** 2 <= z2 * a * (1 - a) * spread / pairs

    low, high = _edge(inside, auc, 0.0), _edge(inside, auc, 1.0)
    return Interval(low, high, (high - low) / 2)


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """Where `inside` ends on the way from `start`, which is inside, to `end`."""
    # At 0 and 1 the variance is 0, so only `start` itself may be inside there.
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (middle, end) if inside(middle) else (start, middle)
    return start


def tied_pairs(
    a_normal: ArrayLike, a_anomaly: ArrayLike, b_normal: ArrayLike, b_anomaly: ArrayLike, tolerance: float
) -> PairDifference:
    """Compare how two scorings, `a` and `b`, order every pair of one normal and one anomalous clip.

    Scores as in `auc`, the same clips in the same order in both. The two AUCs differ by at most
    `discordant` / `total`; where `unexplained` is 0, only pairs tied within `tolerance` (in units of
    the score) tell the two apart.

    Raises InputError as `auc` does, for scorings of different length, and for a negative or non-finite
    tolerance.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"tolerance={tolerance} is not a distance between scores; give 0 or more")
    a_normals, a_anomalies = checked_classes(a_normal, a_anomaly)
    b_normals, b_anomalies = checked_classes(b_normal, b_anomaly)
    for kind, a, b in (("normal", a_normals, b_normals), ("anomalous", a_anomalies, b_anomalies)):
        if a.size != b.size:
            raise InputError(
                f"{a.size} and {b.size} {kind} scores cannot be compared pair by pair; score the same clips in both"
            )
    discordant = explained = 0
    # One normal against all anomalies at a time: memory stays that of one column of the pair matrix.
    with np.errstate(over="ignore"):  # a difference too large for float64 still has its sign
        for a_score, b_score in zip(a_normals, b_normals, strict=True):
            a_gap, b_gap = a_anomalies - a_score, b_anomalies - b_score
            differs = np.sign(a_gap) != np.sign(b_gap)
            near_tie = np.minimum(np.abs(a_gap), np.abs(b_gap)) <= tolerance
            discordant += int(np.count_nonzero(differs))
            explained += int(np.count_nonzero(differs & near_tie))
    return PairDifference(discordant, explained, a_normals.size * a_anomalies.size)


def roc_points(normal_scores: ArrayLike, anomaly_scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False- and true-positive rates, (n + 1,) each, from (0, 0) to (1, 1): one point for each distinct score.

    Scores as in `metrics.auc`, and InputError as there. The area under the straight lines between the points
    is the AUC with ties counted one half.
    """
    from sklearn.metrics import roc_curve

    normals, anomalies = checked_classes(normal_scores, anomaly_scores)
    labels = np.repeat([0, 1], [normals.size, anomalies.size])
    fpr, tpr, _ = roc_curve(labels, np.concatenate([normals, anomalies]), drop_intermediate=False)
    return fpr, tpr


def roc_band(
    normal_scores: ArrayLike, anomaly_scores: ArrayLike, level: float = 0.95, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(false-positive rates, lowest and highest true-positive rate), 101 points each: a pointwise bootstrap band.

    Normal and anomalous clips are resampled, each class with replacement, 500 times by `seed`; the band holds the
    middle `level` of the curves at each false-positive rate. It is narrow, not certain, where the classes
    separate completely. Raises InputError as `roc_points` does.
    """
    normals, anomalies = checked_classes(normal_scores, anomaly_scores)
    draw = np.random.default_rng(seed)
    grid = np.linspace(0, 1, 101)
    curves = np.empty((RESAMPLES, grid.size))
    for curve in curves:
        fpr, tpr = roc_points(draw.choice(normals, normals.size), draw.choice(anomalies, anomalies.size))
        # Of an upright stretch the upper end counts: at that false-positive rate it can be reached.
        last = np.append(np.flatnonzero(np.diff(fpr) > 0), fpr.size - 1)
        curve[:] = np.interp(grid, fpr[last], tpr[last])
    low, high = np.quantile(curves, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return grid, low, high
