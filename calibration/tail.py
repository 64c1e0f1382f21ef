"""The tail beyond what was recorded: a generalised Pareto distribution over the highest levels of stretches.

Peaks over threshold: stretches above a base level come as a Poisson process, and how far their highest
level lies above the base follows P(Y > y) = (1 + ξ y / σ)^(−1/ξ). Rate and tail are fitted together by
maximum likelihood; intervals are by profile likelihood, since those of a tail are lopsided. Source:
S. Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, sections 2.6.6, 4.3 and 7.3.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError

Array = NDArray[np.float64]

XI_LIMIT = 0.5
"""ξ is sought in [−0.5, 0.5]: below, the likelihood is irregular; above, the tail would have no variance."""
_HALF_CHI2_95 = 1.920729410347062
"""Half the 95 % quantile of χ² with one degree of freedom: how far the log-likelihood may fall."""


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
        likelihood is worth that much less. Raises InputError where the excesses are all 0.
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
