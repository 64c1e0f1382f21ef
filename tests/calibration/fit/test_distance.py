"""d_min, d_max and α: which clips they come from, and when they are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeasd.calibration.fit.distance import DistanceRange, choose_alpha, fit_distance_range, paper_range
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.evaluation.metrics import auc

pytestmark = pytest.mark.core

SEGMENT = st.floats(0, 1e4, width=32)
SEGMENTS = st.lists(SEGMENT, min_size=1, max_size=60).map(lambda d: np.array(d, np.float32))
CLIPS = st.lists(st.lists(SEGMENT, min_size=1, max_size=10).map(np.array), min_size=8, max_size=12)


def quantile_by_hand(values: NDArray[Any], share: float) -> float:
    ordered = sorted(values.tolist())
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def standardise(d: float, fitted: DistanceRange) -> float:
    return (d - fitted.d_min) / (fitted.d_max - fitted.d_min)


# --- deploy mode ---


@given(SEGMENTS, SEGMENTS)
def test_d_max_without_anomalies_is_the_outliers_5th_percentile(
    normals: NDArray[np.float32], outliers: NDArray[np.float32]
) -> None:
    expected = quantile_by_hand(outliers, 0.05)
    assume(expected > normals.min() * (1 + 1e-6) + 1e-6)
    fitted = fit_distance_range(normals, outliers)
    assert fitted.d_min == normals.min()
    assert fitted.d_max == pytest.approx(expected, rel=1e-9)
    assert (fitted.n_normal, fitted.n_outlier, fitted.n_anomaly) == (normals.size, outliers.size, 0)
    assert f"5th percentile over {outliers.size} held-out outlier segments" in fitted.d_max_source
    assert f"minimum over {normals.size} held-out normal segments" in fitted.d_min_source
    assert fitted.mode == "deploy"
    assert min(standardise(float(d), fitted) for d in normals) == 0.0


@given(SEGMENTS, SEGMENTS, CLIPS)
def test_eight_anomaly_clips_set_d_max(
    normals: NDArray[np.float32], outliers: NDArray[np.float32], anomalies: list[NDArray[Any]]
) -> None:
    largest = max(float(clip.max()) for clip in anomalies)
    assume(largest > normals.min())
    fitted = fit_distance_range(normals, outliers, anomalies)
    assert (fitted.d_min, fitted.d_max) == (normals.min(), largest)
    assert fitted.n_anomaly == sum(clip.size for clip in anomalies)
    assert f"{fitted.n_anomaly} segments of {len(anomalies)} known anomaly clips" in fitted.d_max_source


def test_seven_anomaly_clips_do_not_set_d_max() -> None:
    outliers = np.arange(100.0, 201.0)
    anomalies = [np.full(50, 900.0)] * 7
    fitted = fit_distance_range(np.array([1.0, 2.0]), outliers, anomalies)
    assert fitted.d_max == pytest.approx(105.0)
    assert "7 known anomaly clips, 8 needed" in fitted.d_max_source
    assert fit_distance_range(np.array([1.0]), outliers, [*anomalies, np.array([3.0])]).d_max == 900.0


def test_a_clip_without_segments_does_not_count_as_an_anomaly() -> None:
    anomalies = [np.full(5, 900.0)] * 7 + [np.empty(0)]
    fitted = fit_distance_range(np.array([1.0]), np.full(10, 50.0), anomalies)
    assert fitted.d_max == 50.0


def test_distances_may_come_by_clip_or_as_one_array() -> None:
    clips = [np.array([3.0, 1.0]), np.array([2.0])]
    outliers = [np.array([10.0]), np.array([20.0, 30.0])]
    assert fit_distance_range(clips, outliers) == fit_distance_range(np.concatenate(clips), np.concatenate(outliers))


def test_outliers_are_not_needed_where_the_anomalies_suffice() -> None:
    fitted = fit_distance_range(np.array([1.0]), [], [np.array([5.0])] * 8)
    assert (fitted.d_max, fitted.n_outlier) == (5.0, 0)


@given(SEGMENTS, SEGMENTS)
def test_a_range_is_either_wide_enough_for_the_head_or_refused(
    normals: NDArray[np.float32], outliers: NDArray[np.float32]
) -> None:
    try:
        fitted = fit_distance_range(normals, outliers)
    except CheckFailed:
        assert np.float32(quantile_by_hand(outliers, 0.05)) <= normals.min() * np.float32(1 + 1e-6)
    else:
        assert np.float32(fitted.d_max) - np.float32(fitted.d_min) > 0


def test_a_model_that_does_not_separate_is_refused() -> None:
    with pytest.raises(CheckFailed, match=r"outliers.* d_max 2 \(.*3 held-out outlier.* d_min 5 \(") as caught:
        fit_distance_range(np.array([5.0, 9.0]), np.array([2.0, 2.0, 2.0]))
    assert "train longer" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckFailed, match="does not separate the known anomalies"):
        fit_distance_range(np.array([5.0]), np.array([50.0]), [np.array([5.0])] * 8)


def test_values_that_only_float64_tells_apart_are_refused() -> None:
    with pytest.raises(CheckFailed, match="is not above"):
        fit_distance_range(np.array([1000.0]), np.array([1000.0 + 1e-9]))


@pytest.mark.parametrize(
    ("normals", "outliers", "anomalies", "message"),
    [
        ([], [9.0], None, "0 held-out normal segments give no d_min"),
        ([1.0], [], None, "0 held-out outlier segments and 0 known anomaly clips"),
        ([1.0], [], [[5.0]] * 7, "0 held-out outlier segments and 7 known anomaly clips"),
        ([1.0, math.nan], [9.0], None, "held-out normal segment 1: distance nan"),
        ([1.0], [math.inf], None, "held-out outlier segment 0: distance inf"),
        ([1.0], [9.0], [[5.0], [6.0, -math.inf]], "known anomaly clip 1, segment 1: distance -inf"),
    ],
)
def test_missing_or_damaged_distances_are_refused_by_position(
    normals: list[float], outliers: list[float], anomalies: list[list[float]] | None, message: str
) -> None:
    clips = None if anomalies is None else [np.array(clip) for clip in anomalies]
    with pytest.raises(InputError, match=message):
        fit_distance_range(np.array(normals), np.array(outliers), clips)


def test_segments_passed_for_anomaly_clips_are_refused() -> None:
    with pytest.raises(InputError, match="one array of segment distances per clip"):
        fit_distance_range(np.array([1.0]), np.array([9.0]), np.arange(20.0))  # type: ignore[arg-type]


# --- paper mode ---


@given(SEGMENTS)
def test_paper_range_maps_evaluation_set_to_unit_interval(d: NDArray[np.float32]) -> None:
    assume(d.min() < d.max())
    fitted = paper_range(d)
    primes = [standardise(float(x), fitted) for x in d]
    assert (min(primes), max(primes)) == (0.0, 1.0)
    assert fitted.mode == "paper"
    assert f"{d.size} evaluation segments (transductive)" in fitted.d_min_source


def test_a_paper_range_of_nothing_or_of_one_value_is_refused() -> None:
    with pytest.raises(InputError, match="0 evaluation segments"):
        paper_range(np.empty(0))
    with pytest.raises(CheckFailed, match="all 4 evaluation segments lie at the same distance 7"):
        paper_range(np.full(4, 7.0))
    with pytest.raises(InputError, match="evaluation segment 2: distance nan"):
        paper_range(np.array([1.0, 2.0, math.nan]))


# --- α ---

UNIT = st.one_of(st.integers(0, 4).map(lambda i: i / 4), st.floats(0, 1))


def columns(n_max: int) -> st.SearchStrategy[NDArray[np.float64]]:
    return st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=n_max).map(lambda rows: np.array(rows).T)


def naive_auc(alpha: float, normal: NDArray[np.float64], anomaly: NDArray[np.float64]) -> float:
    scores = [alpha * q + (1 - alpha) * d for q, d in (normal, anomaly)]
    return float(np.mean([(a > n) + 0.5 * (a == n) for n in scores[0] for a in scores[1]]))


@given(columns(15), columns(15))
def test_alpha_has_the_highest_auc_and_is_nearest_a_half(
    normal: NDArray[np.float64], anomaly: NDArray[np.float64]
) -> None:
    grid = [i / 10 for i in range(11)]
    choice = choose_alpha(*normal, *anomaly, grid)
    aucs = {alpha: naive_auc(alpha, normal, anomaly) for alpha in grid}
    assert choice.auc == pytest.approx(max(aucs.values()), abs=1e-12)
    equals = [alpha for alpha, value in aucs.items() if value > max(aucs.values()) - 1e-12]
    assert choice.alpha in equals
    assert all(abs(choice.alpha - 0.5) <= abs(alpha - 0.5) + 1e-9 for alpha in equals)
    assert f"{normal.shape[1]} normal and {anomaly.shape[1]} anomalous" in choice.source


def test_the_part_that_separates_is_chosen() -> None:
    good_normal, good_anomaly = [0.1, 0.2, 0.3], [0.8, 0.9]
    bad_normal, bad_anomaly = [0.0, 5.0, 9.0], [1.0, 0.0]
    grid = [0.0, 0.5, 1.0]
    assert choose_alpha(good_normal, bad_normal, good_anomaly, bad_anomaly, grid).alpha == 1.0
    assert choose_alpha(bad_normal, good_normal, bad_anomaly, good_anomaly, grid).alpha == 0.0


def test_equal_alphas_give_the_half_or_the_smaller() -> None:
    same = ([0.1, 0.2], [0.1, 0.2], [0.8], [0.8])
    assert choose_alpha(*same).alpha == 0.5
    assert choose_alpha(*same, grid=[1.0, 0.9, 0.7, 0.3, 0.0]).alpha == 0.3
    assert choose_alpha(*same, grid=[0.3, 0.7]).alpha == 0.3


@pytest.mark.parametrize(("n_normal", "n_anomaly"), [(3, 0), (0, 2), (0, 0)])
def test_without_labels_alpha_is_a_half_and_the_source_says_so(n_normal: int, n_anomaly: int) -> None:
    normal, anomaly = np.zeros(n_normal), np.zeros(n_anomaly)
    choice = choose_alpha(normal, normal, anomaly, anomaly, grid=[0.0, 1.0])
    assert (choice.alpha, choice.auc) == (0.5, None)
    assert f"not chosen: {n_normal} normal and {n_anomaly} anomalous" in choice.source


@pytest.mark.parametrize("grid", [[], [-0.1, 0.5], [0.5, 1.01], [math.nan]])
def test_an_alpha_outside_zero_to_one_is_refused(grid: list[float]) -> None:
    with pytest.raises(InputError, match="alpha grid"):
        choose_alpha([0.0], [0.0], [1.0], [1.0], grid)


def test_damaged_or_unequal_clip_means_are_refused_by_position() -> None:
    with pytest.raises(InputError, match=r"normal clip means .* \(2,\) and \(1,\)"):
        choose_alpha([0.0, 1.0], [0.0], [1.0], [1.0])
    with pytest.raises(InputError, match="anomalous clip 1: mean d′ is nan"):
        choose_alpha([0.0], [0.0], [1.0, 1.0], [1.0, math.nan])


@given(columns(15), columns(15))
def test_the_auc_here_is_the_auc_of_the_evaluation(normal: NDArray[np.float64], anomaly: NDArray[np.float64]) -> None:
    choice = choose_alpha(*normal, *anomaly, grid=[1.0])
    assert choice.auc == auc(normal[0], anomaly[0])
