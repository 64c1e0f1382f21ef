"""The special functions that thresholds need, in numpy and the standard library: scipy is not in the core.

Sources: NIST DLMF chapters 5 and 8 (https://dlmf.nist.gov); the tests compare every one with scipy.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

_TINY = 1e-300
_LARGE_SHAPE = 1e5


def digamma(x: float) -> float:
    """ψ(x) for x > 0: recurrence up to 10, then the asymptotic series (DLMF 5.5.2, 5.11.2)."""
    value = 0.0
    while x < 10:
        value -= 1 / x
        x += 1
    t = 1 / (x * x)
    series = t * (1 / 12 - t * (1 / 120 - t * (1 / 252 - t * (1 / 240 - t * (1 / 132 - t * 691 / 32760)))))
    return value + math.log(x) - 0.5 / x - series


def trigamma(x: float) -> float:
    """ψ′(x) for x > 0: recurrence up to 10, then the asymptotic series (DLMF 5.15.5, 5.15.8)."""
    value = 0.0
    while x < 10:
        value += 1 / (x * x)
        x += 1
    t = 1 / (x * x)
    series = t * (1 / 6 - t * (1 / 30 - t * (1 / 42 - t * (1 / 30 - t * (5 / 66 - t * 691 / 2730)))))
    return value + 1 / x + t / 2 + series / x


def gamma_tails(shape: float, x: float) -> tuple[float, float]:
    """(P, Q): probability that a gamma variable of this shape and scale 1 lies below and above x >= 0.

    The smaller of the two is computed and the other is its complement, so a tail keeps its digits
    (DLMF 8.11.4 and 8.9.2).
    """
    if x <= 0:
        return 0.0, 1.0
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        n = shape
        while term > total * 1e-17:
            n += 1
            term *= x / n
            total += term
        below = min(1.0, front * total)
        return below, 1 - below
    above = min(1.0, front * _upper_fraction(shape, x))
    return 1 - above, above


def _upper_fraction(shape: float, x: float) -> float:
    """The continued fraction of the upper tail by Lentz's method."""
    b = x + 1 - shape
    c, d = 1 / _TINY, 1 / b
    value = d
    for i in range(1, 100_000):
        a = -i * (i - shape)
        b += 2
        d, c = 1 / _nonzero(a * d + b), _nonzero(b + a / c)
        value *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def gamma_quantile(probability: float, shape: float) -> float:
    """x below which a gamma variable of this shape > 0 and scale 1 lies with this probability in (0, 1)."""
    z = NormalDist().inv_cdf(probability)
    if shape > _LARGE_SHAPE:
        # Cornish–Fisher: the sums of `gamma_tails` would grow with the root of the shape.
        root = math.sqrt(shape)
        return shape + root * z + (z * z - 1) / 3 + (z**3 - 7 * z) / (36 * root) - _fourth(z) / (810 * shape)
    upper = probability > 0.5

    def excess(log_x: float) -> float:
        below, above = gamma_tails(shape, math.exp(log_x))
        return (1 - probability) - above if upper else below - probability

    low, high = -745.0, math.log(shape + 10 * math.sqrt(shape) + 800)
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return math.exp((low + high) / 2)


def _fourth(z: float) -> float:
    return 3 * z**4 + 7 * z * z - 16


def binomial_below(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial variable, n trials of probability p in (0, 1)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    counts = np.arange(1, k + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - counts + 1) / counts))])
    terms = logs + np.arange(k + 1) * math.log(p) + (n - np.arange(k + 1)) * math.log1p(-p)
    return min(1.0, float(np.exp(terms).sum()))


def binomial_quantile(probability: float, n: int, p: float) -> int:
    """The smallest k with P(X <= k) >= probability."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_below(middle, n, p) >= probability else (middle, high)
    return high


def order_statistic_quantile(probability: float, rank: int, n: int) -> float:
    """The quantile of the rank-th smallest of n uniform numbers: a beta distribution (rank, n − rank + 1)."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        # The rank-th smallest lies below `middle` where at least `rank` numbers do.
        reached = 1 - binomial_below(rank - 1, n, middle) if 0 < middle < 1 else middle
        low, high = (low, middle) if reached >= probability else (middle, high)
    return (low + high) / 2


def poisson_quantile(probability: float, mean: float) -> int:
    """The smallest k with P(X <= k) >= probability of a Poisson variable of this mean > 0."""
    # P(X <= k) is the upper tail of a gamma variable of shape k + 1 (DLMF 8.4.10).
    low, high = -1, max(10, int(mean + 20 * math.sqrt(mean) + 20))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if gamma_tails(middle + 1, mean)[1] >= probability else (middle, high)
    return high
