"""The ROC curve of clip scores, and a band that says how far another set of clips might move it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.calibration.labelled import checked_classes

RESAMPLES = 500


def roc_points(normal_scores: ArrayLike, anomaly_scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False- and true-positive rates, (n + 1,) each, from (0, 0) to (1, 1): one point for each distinct score.

    Scores as in `metrics.auc`, and InputError as there. The area under the straight lines between the points
    is the AUC with ties counted one half.
    """
    normals, anomalies = (np.sort(part) for part in checked_classes(normal_scores, anomaly_scores))
    thresholds = np.unique(np.concatenate([normals, anomalies]))[::-1]
    fpr = 1 - np.searchsorted(normals, thresholds, side="left") / normals.size
    tpr = 1 - np.searchsorted(anomalies, thresholds, side="left") / anomalies.size
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def roc_band(
    normal_scores: ArrayLike, anomaly_scores: ArrayLike, level: float = 0.95, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(false-positive rates, lowest and highest true-positive rate), 101 points each: a pointwise bootstrap band.

    Normal and anomalous clips are drawn anew, each class with replacement, 500 times by `seed`; the band holds the
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
