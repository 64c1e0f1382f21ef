"""Rank correlation and partial AUC against scipy and scikit-learn; the paired interval against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from edgeasd.calibration.drift.ranking import auc_change, partial_auc, partial_auc_change, rank_correlation

NUMBERS = st.lists(st.tuples(st.integers(-4, 4).map(float), st.floats(-1, 1, width=16)), min_size=2, max_size=40)
SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(NUMBERS)
def test_rank_correlation_is_that_of_scipy(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    found = rank_correlation(a, b)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found == pytest.approx(spearmanr(a, b)[0], abs=1e-12)
    assert rank_correlation(a, 3 * a + 1) == 1.0, "exactly"


def test_a_constant_scoring_has_no_order() -> None:
    assert rank_correlation([1, 1], [2, 2]) == 1.0
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0.0


@settings(max_examples=50, deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.1, 0.3, 1.0]))
def test_partial_auc_is_that_of_scikit_learn(normal: list[float], anomaly: list[float], rate: float) -> None:
    labels = np.repeat([0, 1], [len(normal), len(anomaly)])
    # At a rate of 1 there is nothing to scale.
    expected = roc_auc_score(labels, [*normal, *anomaly], max_fpr=rate)
    assert partial_auc(np.array(normal), np.array(anomaly), rate) == pytest.approx(expected, abs=1e-12)


def test_the_paired_interval_is_narrow_for_equal_scorings() -> None:
    rng = np.random.default_rng(0)
    normal, anomaly = rng.normal(0, 1, 200), rng.normal(2, 1, 100)
    near = normal + rng.normal(0, 0.05, 200), anomaly + rng.normal(0, 0.05, 100)
    found = partial_auc_change((normal, anomaly), near)
    assert found == partial_auc_change((normal, anomaly), near)
    assert found.low <= found.difference <= found.high
    assert found.high - found.low < 0.1
    same = partial_auc_change((normal, anomaly), (normal, anomaly))
    assert (same.low, same.difference, same.high) == (0, 0, 0)


def test_the_interval_covers_the_true_difference() -> None:
    """Truth of a variant that adds noise is found from many clips."""
    rng = np.random.default_rng(1)

    def draw(n: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        exact = rng.normal(0, 1, n), rng.normal(1.5, 1, n)
        return exact, (exact[0] + rng.normal(0, 0.7, n), exact[1] + rng.normal(0, 0.7, n))

    exact, noisy = draw(200_000)
    truth = partial_auc(*noisy) - partial_auc(*exact)
    intervals = [partial_auc_change(*draw(100)) for _ in range(12)]
    assert sum(one.low <= truth <= one.high for one in intervals) >= 9


def test_a_lower_auc_is_a_negative_change() -> None:
    exact, worse = ([0.0, 1.0, 2.0], [3.0, 4.0, 5.0]), ([0.0, 1.0, 4.5], [3.0, 4.0, 5.0])
    found = auc_change(exact, worse)
    assert (found.reference, found.variant) == (1.0, pytest.approx(7 / 9))
    assert found.low < found.difference < 0
