"""Scores of labelled clips, normal and anomalous, checked once for everything that compares the two."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.runtime.errors import InputError


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
