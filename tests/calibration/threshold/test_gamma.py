"""The threshold of DCASE decision files: a gamma fit without scipy, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.threshold.gamma import gamma_threshold
from edgeasd.runtime.errors import InputError

stats = pytest.importorskip("scipy.stats")


@given(st.integers(0, 10_000), st.floats(0.3, 50.0), st.floats(1e-4, 1e3))
@settings(max_examples=40, deadline=None)
def test_the_gamma_fit_is_scipys_with_the_location_fixed(seed: int, shape: float, scale: float) -> None:
    scores = np.random.default_rng(seed).gamma(shape, scale, 50)
    if scores.min() <= 0:
        return
    found = gamma_threshold(scores)
    k, _, theta = stats.gamma.fit(scores, floc=0)
    assert found.shape == pytest.approx(k, rel=1e-6)
    assert found.value == pytest.approx(stats.gamma.ppf(0.9, k, scale=theta), rel=1e-6)
    assert (found.quantile, found.clips) == (0.9, 50)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5], "1 normal clip scores"),
        ([0.5, 0.0, 0.2], "score 1 of 3 is 0.0"),
        ([0.5, 0.2, float("inf")], "score 2 of 3 is inf"),
        ([0.25] * 4, "all 4 normal clip scores are 0.25"),
    ],
)
def test_scores_without_a_fit_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gamma_threshold(scores)


@pytest.mark.parametrize(("shape", "clips"), [(2.0, 30), (60.0, 100)])
def test_the_interval_covers_the_true_quantile(shape: float, clips: int) -> None:
    truth = stats.gamma.ppf(0.9, shape, scale=0.01)
    rng = np.random.default_rng(2)
    intervals = [gamma_threshold(rng.gamma(shape, 0.01, clips)).interval95 for _ in range(300)]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.985


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.5, float("nan")])
def test_a_quantile_that_is_none_is_refused(quantile: float) -> None:
    with pytest.raises(InputError, match="quantile="):
        gamma_threshold([0.1, 0.2], quantile)


def test_similar_scores_have_a_narrow_interval() -> None:
    scores = 0.5 + 1e-5 * np.random.default_rng(0).standard_normal(100)
    found = gamma_threshold(scores)
    low, high = found.interval95
    assert 0.5 < low < found.value < high < 0.50003
