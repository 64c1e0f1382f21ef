"""Special functions in numpy: the same as scipy's over the range that thresholds use."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.calibration.threshold.special import (
    binomial_below,
    binomial_quantile,
    digamma,
    gamma_quantile,
    gamma_tails,
    order_statistic_quantile,
    poisson_quantile,
    trigamma,
)

special = pytest.importorskip("scipy.special")
stats = pytest.importorskip("scipy.stats")

EXPONENTS = st.floats(-2.0, 8.0)
PROBABILITIES = st.floats(1e-4, 1 - 1e-4)


@given(EXPONENTS)
def test_digamma_and_trigamma(exponent: float) -> None:
    x = 10**exponent
    assert digamma(x) == pytest.approx(float(special.digamma(x)), rel=1e-12, abs=1e-13)
    assert trigamma(x) == pytest.approx(float(special.polygamma(1, x)), rel=1e-12)


@given(st.floats(-2.0, 4.0), st.floats(0.0, 4.0))
def test_both_tails_of_the_gamma_distribution_keep_their_digits(exponent: float, factor: float) -> None:
    shape = 10**exponent
    below, above = gamma_tails(shape, shape * factor)
    assert below == pytest.approx(float(special.gammainc(shape, shape * factor)), rel=1e-10, abs=1e-15)
    assert above == pytest.approx(float(special.gammaincc(shape, shape * factor)), rel=1e-10, abs=1e-15)


@given(PROBABILITIES, st.floats(-1.0, 9.0))
def test_quantiles_of_the_gamma_distribution(probability: float, exponent: float) -> None:
    shape = 10**exponent
    expected = float(special.gammaincinv(shape, probability))
    assert gamma_quantile(probability, shape) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 400), PROBABILITIES, PROBABILITIES, st.data())
def test_binomial_sums_quantiles_and_order_statistics(
    n: int, p: float, probability: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(-1, n))
    assert binomial_below(k, n, p) == pytest.approx(float(stats.binom.cdf(k, n, p)), abs=1e-10)
    found = binomial_quantile(probability, n, p)
    # A quantile jumps where the sum meets the probability; there the two may round to either side.
    assert stats.binom.cdf(found, n, p) >= probability - 1e-10
    assert stats.binom.cdf(found - 1, n, p) < probability + 1e-10
    rank = data.draw(st.integers(1, n))
    expected = float(stats.beta.ppf(probability, rank, n - rank + 1))
    assert order_statistic_quantile(probability, rank, n) == pytest.approx(expected, abs=1e-8)


@given(PROBABILITIES, st.floats(-3.0, 4.0))
def test_quantiles_of_the_poisson_distribution(probability: float, exponent: float) -> None:
    found = poisson_quantile(probability, 10**exponent)
    assert stats.poisson.cdf(found, 10**exponent) >= probability - 1e-10
    assert stats.poisson.cdf(found - 1, 10**exponent) < probability + 1e-10


def test_the_edges() -> None:
    assert gamma_tails(3.0, 0.0) == (0.0, 1.0)
    assert (binomial_below(-1, 5, 0.5), binomial_below(5, 5, 0.5)) == (0.0, 1.0)
    assert math.isclose(gamma_quantile(0.5, 1.0), math.log(2), rel_tol=1e-12)
