"""DeLong's test against its definition written out, against resampling, and where it has nothing to say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.drift.ranking import delong, midranks
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.metrics import auc

pytestmark = pytest.mark.core

PAIRS = st.lists(st.tuples(st.integers(-3, 3).map(float), st.integers(-3, 3).map(float)), min_size=2, max_size=20)


def wins(normal: np.ndarray, anomaly: np.ndarray) -> np.ndarray:
    """1, ½ or 0 for every (normal, anomaly) pair."""
    return (anomaly[None, :] > normal[:, None]) + 0.5 * (anomaly[None, :] == normal[:, None])


def naive(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """(difference, variance) from the full pair matrices and the covariance matrices of the paper."""
    psi = [wins(*a), wins(*b)]
    s10 = np.cov([one.mean(axis=0) for one in psi])
    s01 = np.cov([one.mean(axis=1) for one in psi])
    covariance = s10 / psi[0].shape[1] + s01 / psi[0].shape[0]
    contrast = np.array([1.0, -1.0])
    return float(psi[0].mean() - psi[1].mean()), float(contrast @ covariance @ contrast)


@given(PAIRS, PAIRS)
@settings(max_examples=50, deadline=None)
def test_it_is_the_definition_over_all_pairs(
    normals: list[tuple[float, float]], anomalies: list[tuple[float, float]]
) -> None:
    n, a = np.array(normals), np.array(anomalies)
    found = delong(n[:, 0], a[:, 0], n[:, 1], a[:, 1])
    difference, variance = naive((n[:, 0], a[:, 0]), (n[:, 1], a[:, 1]))
    assert found.difference == pytest.approx(difference, abs=1e-12)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)
    assert found.auc_a == pytest.approx(auc(n[:, 0], a[:, 0]), abs=1e-12)
    assert found.interval[0] <= found.difference <= found.interval[1]
    json.dumps(found.to_json(), allow_nan=False)


def test_the_standard_error_is_that_of_a_bootstrap_over_clips() -> None:
    rng = np.random.default_rng(0)
    # Two correlated scorings, as two models over one set of clips are.
    shared_n, shared_a = rng.normal(0, 1, 150), rng.normal(1, 1, 120)
    n = np.stack([shared_n + rng.normal(0, 0.7, 150) for _ in range(2)], axis=1)
    a = np.stack([shared_a + rng.normal(shift, 0.7, 120) for shift in (0.3, 0.0)], axis=1)
    found = delong(n[:, 0], a[:, 0], n[:, 1], a[:, 1])
    drawn = []
    for _ in range(1500):
        i, j = rng.integers(0, 150, 150), rng.integers(0, 120, 120)
        drawn.append(auc(n[i, 0], a[j, 0]) - auc(n[i, 1], a[j, 1]))
    assert found.standard_error == pytest.approx(np.std(drawn), rel=0.1)
    assert found.interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.01)


def test_the_p_value_is_uniform_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(1)
    below = sum(
        float(delong(rng.normal(size=40), rng.normal(1, 1, 40), rng.normal(size=40), rng.normal(1, 1, 40)).p or 0) < 0.2
        for _ in range(400)
    )
    assert 0.14 < below / 400 < 0.27


def test_identical_scorings_do_not_differ() -> None:
    n, a, m, b = [0.1, 0.4, 0.2], [0.3, 0.9], [0.2, 0.1, 0.9], [0.15, 0.4]
    same = delong(n, a, n, a)
    assert (same.difference, same.standard_error, same.z, same.p) == (0.0, 0.0, None, 1.0)
    one, two = delong(n, a, m, b), delong(m, b, n, a)
    assert one.difference == -two.difference
    assert one.p == pytest.approx(two.p)


def test_a_difference_without_variance_has_no_p_value() -> None:
    found = delong([0, 1], [2, 3], [2, 3], [0, 1])
    assert (found.difference, found.standard_error, found.p) == (1.0, 0.0, None)


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30))
def test_midranks_share_the_mean_rank_of_ties(values: list[float]) -> None:
    array = np.array(values)
    expected = [(array < v).sum() + ((array == v).sum() + 1) / 2 for v in array]
    np.testing.assert_allclose(midranks(array), expected)


def test_a_hundred_thousand_clips_take_no_square_of_memory() -> None:
    rng = np.random.default_rng(2)
    n, a = rng.normal(size=(2, 100_000)), rng.normal(1, 1, size=(2, 100_000))
    assert delong(n[0], a[0], n[1], a[1]).standard_error < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0], [1.0], [1.0, 2.0]), "1 normal clip has no variance"),
        (([1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]), "2 and 3 normal scores cannot be paired"),
        (([1.0, 2.0], [1.0, float("nan")], [1.0, 2.0], [1.0, 2.0]), "anomalous score 1 of 2 is nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: tuple[list[float], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        delong(*arguments)
    with pytest.raises(InputError, match="level=95"):
        delong([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], level=95)
