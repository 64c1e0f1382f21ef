"""The exponential tail of normal scores: what a threshold above them rests on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.scoring.tail import FARTHEST, ONE_A_WEEK, tail_threshold, window_peaks

pytestmark = pytest.mark.core

PEAKS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60)


@given(PEAKS)
def test_threshold_lies_above_all_peaks_by_the_mean_excess(peaks: list[float]) -> None:
    tail = tail_threshold(peaks, 10.0)
    assert tail.clip >= max(peaks) + tail.mean_excess - 1e-9
    low, high = tail.interval95
    assert low <= tail.clip <= high
    assert tail.windows == len(peaks)
    assert tail.excesses <= max(10, math.ceil(len(peaks) / 5))


@given(PEAKS, st.floats(0.1, 10), st.floats(-5, 5))
def test_threshold_moves_with_the_scale_of_the_score(peaks: list[float], scale: float, shift: float) -> None:
    first = tail_threshold(peaks, 10.0)
    moved = tail_threshold(scale * np.array(peaks) + shift, 10.0)
    assert moved.clip == pytest.approx(scale * first.clip + shift, rel=1e-6, abs=1e-6 * scale * 1e3)


def test_fewer_alarms_a_day_need_a_higher_threshold() -> None:
    peaks = np.random.default_rng(0).exponential(1.0, 500)
    found = [tail_threshold(peaks, 10.0, rate).clip for rate in (100.0, 10.0, 1.0, 0.1)]
    assert found == sorted(found)


def test_it_extrapolates_twenty_times_and_to_a_week_at_most() -> None:
    peaks = np.random.default_rng(0).exponential(1.0, 100_000)
    assert tail_threshold(peaks[:6], 10.0).per_day == pytest.approx(86_400 / (FARTHEST * 60))
    assert tail_threshold(peaks, 10.0).per_day == ONE_A_WEEK


def test_exponential_scores_keep_the_rate_on_average() -> None:
    """100 trials of an hour each; what lies above in the long run, beside what was allowed."""
    draw = np.random.default_rng(1)
    rates = []
    for _ in range(100):
        tail = tail_threshold(draw.exponential(1.0, 360), 10.0)
        rates.append(8640 * math.exp(-tail.clip) / tail.per_day)
    assert 0.3 < float(np.median(rates)) < 1.3


def test_scores_with_a_shorter_tail_keep_it_almost_always() -> None:
    draw = np.random.default_rng(2)
    kept = 0
    for _ in range(100):
        tail = tail_threshold(draw.standard_normal(100), 10.0)
        above = 0.5 * math.erfc(tail.clip / math.sqrt(2))
        kept += 8640 * above <= tail.per_day
    assert kept >= 85


def test_windows_are_cut_one_after_another() -> None:
    assert window_peaks([1.0, 5.0, 2.0, 3.0, 4.0], 2).tolist() == [5.0, 3.0, 4.0]
    assert window_peaks([], 2).tolist() == []


def test_one_peak_or_equal_peaks_give_the_peak() -> None:
    assert tail_threshold([0.25], 10.0).clip == 0.25
    assert tail_threshold([0.25] * 8, 10.0).clip == 0.25
    with pytest.raises(ValueError, match="no peaks"):
        tail_threshold([], 10.0)
