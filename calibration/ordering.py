"""How two scorings of the same clips order them: rank correlation, partial AUC and its paired interval."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.calibration.delong import delong, midranks
from edgeasd.calibration.labelled import checked_classes

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

    Raises InputError as `edgeasd.calibration.delong.delong` does, for fewer than two clips of a class among others.
    """
    found = delong(*variant, *reference)
    return PairedChange(found.auc_b, found.auc_a, *found.interval, interval_by="DeLong")


def partial_auc_change(
    reference: tuple[ArrayLike, ArrayLike], variant: tuple[ArrayLike, ArrayLike], seed: int = 0
) -> PairedChange:
    """Of the partial AUC; arguments as in `auc_change`. By a paired bootstrap.

    Clips of each class are drawn anew with replacement 1,000 times by `seed`, the same ones for both scorings;
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
