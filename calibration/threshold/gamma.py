"""The threshold of DCASE decision files: a quantile of a gamma distribution over normal clip scores.

For those files only: at the customary 0.9 one normal clip in ten lies above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.calibration.threshold.special import digamma, gamma_quantile, trigamma
from edgeasd.runtime.errors import InputError

QUANTILE = 0.9
_Z = 1.959963984540054
"""97.5 % of a normal distribution lie below."""


@dataclass(frozen=True)
class GammaThreshold:
    """`value` is the `quantile` of the gamma distribution of this shape and scale (location 0)."""

    value: float
    shape: float
    scale: float
    quantile: float
    clips: int
    interval95: tuple[float, float]
    """Of `value`, by the curvature of the likelihood on the log scale; it trusts that the scores are gamma."""


def gamma_threshold(normal_scores: ArrayLike, quantile: float = QUANTILE) -> GammaThreshold:
    """Fit a gamma distribution to scores of normal clips by maximum likelihood and take its quantile.

    `normal_scores` (clips,), finite, above 0, at least two different ones. The location is 0: the official
    scripts fit it as a third parameter, which is ill-defined for a few dozen scores. With the location
    fixed the shape k solves ln k − ψ(k) = ln mean − mean ln, by Newton's method from Minka's start.

    Raises InputError for scores that have no such fit and for a quantile outside (0, 1).
    """
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
    shape = _shape(spread)
    scale = float(scores.mean() / shape)
    value = gamma_quantile(quantile, shape) * scale
    factor = math.exp(_Z * _log_error(shape, quantile, scores.size))
    return GammaThreshold(value, shape, scale, quantile, scores.size, (value / factor, value * factor))


def _shape(spread: float) -> float:
    shape = (3 - spread + math.sqrt((spread - 3) ** 2 + 24 * spread)) / (12 * spread)
    for _ in range(50):
        step = (math.log(shape) - digamma(shape) - spread) / (1 / shape - trigamma(shape))
        # Halving keeps the shape positive where a step would overshoot.
        shape, before = max(shape - step, shape / 2), shape
        if abs(shape - before) <= 1e-12 * shape:
            break
    return shape


def _log_error(shape: float, quantile: float, clips: int) -> float:
    """Standard error of the log quantile: Fisher information of shape and log mean, which are independent.

    With mean μ and shape k as parameters the information of one score is diagonal: k for ln μ and
    ψ′(k) − 1/k for k. The quantile is μ · g(k) / k with g the quantile at scale 1.
    """

    def log_relative(k: float) -> float:
        return math.log(gamma_quantile(quantile, k) / k)

    step = 1e-4 * shape
    slope = (log_relative(shape + step) - log_relative(shape - step)) / (2 * step)
    # The two terms of the information agree to rounding for a large shape; the series has their difference.
    information = trigamma(shape) - 1 / shape if shape < 1e3 else (0.5 + 1 / (6 * shape)) / shape**2
    return math.sqrt((1 / shape + slope**2 / information) / clips)
