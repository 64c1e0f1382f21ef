"""Decisions as the DCASE baselines make them: above a quantile of a gamma distribution over normal scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.runtime.errors import InputError

QUANTILE = 0.9


@dataclass(frozen=True)
class GammaThreshold:
    """`value` is the `quantile` of the gamma distribution of this shape and scale (location 0)."""

    value: float
    shape: float
    scale: float
    quantile: float
    clips: int


def gamma_threshold(normal_scores: ArrayLike, quantile: float = QUANTILE) -> GammaThreshold:
    """Fit a gamma distribution to scores of normal clips by maximum likelihood and take its quantile.

    `normal_scores` (clips,), finite, above 0, at least two different ones. The location is 0: the official
    scripts fit it as a third parameter, which is ill-defined for a few dozen scores. With the location
    fixed the shape k solves ln k − ψ(k) = ln mean − mean ln, by Newton's method from Minka's start.

    Raises InputError for scores that have no such fit and for a quantile outside (0, 1).
    """
    from scipy.special import digamma, gammaincinv, polygamma

    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile} of the normal scores is no threshold; give a number between 0 and 1")
    scores = np.asarray(normal_scores, dtype=np.float64)
    if scores.ndim != 1 or scores.size < 2:
        raise InputError(f"{scores.size} normal clip scores cannot be fitted; hold out 2 or more normal clips")
    bad = np.flatnonzero(~(np.isfinite(scores) & (scores > 0)))
    if bad.size:
        raise InputError(
            f"normal clip score {bad[0]} of {scores.size} is {scores[bad[0]]}; a gamma distribution takes "
            "finite scores above 0, so train longer or hold out other clips"
        )
    spread = float(np.log(scores.mean()) - np.log(scores).mean())
    # Below this the two logarithms agree to rounding and the shape would be noise.
    if spread < 1e-12:
        raise InputError(f"all {scores.size} normal clip scores are {scores[0]:.6g}; check that the clips differ")
    shape = (3 - spread + np.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
    for _ in range(50):
        step = (np.log(shape) - digamma(shape) - spread) / (1 / shape - polygamma(1, shape))
        # Halving keeps the shape positive where a step would overshoot.
        shape, before = max(shape - step, shape / 2), shape
        if abs(shape - before) <= 1e-12 * shape:
            break
    scale = float(scores.mean() / shape)
    return GammaThreshold(float(gammaincinv(shape, quantile) * scale), float(shape), scale, quantile, scores.size)


def decision_figures(decisions: ArrayLike, anomalous: ArrayLike) -> dict[str, float | None]:
    """precision, recall and f1 of decisions (1: anomalous) against labels, (clips,) each.

    None where a figure is 0 / 0: nothing was called anomalous, or nothing was. (The official scripts print 0.)
    """
    called, labels = np.asarray(decisions, bool), np.asarray(anomalous, bool)
    hits = int(np.sum(called & labels))
    precision = hits / int(called.sum()) if called.any() else None
    recall = hits / int(labels.sum()) if labels.any() else None
    both = int(called.sum()) + int(labels.sum())
    return {"precision": precision, "recall": recall, "f1": 2 * hits / both if both else None}
