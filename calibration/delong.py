"""Two scorings of the same clips compared: DeLong's test for the difference of two correlated AUCs.

E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, Biometrics 44 (1988); with midranks in O(n log n) as in
X. Sun and W. Xu, IEEE Signal Processing Letters 21 (2014). Two overlapping intervals say nothing about
whether two methods differ on the same clips, because a hard clip is hard for both; this does.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.calibration.labelled import checked_classes
from edgeasd.runtime.errors import InputError


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
    """None where the standard error is 0."""
    p: float | None
    """None where the standard error is 0 and the AUCs differ: the clips are too few or too easy to say."""
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
