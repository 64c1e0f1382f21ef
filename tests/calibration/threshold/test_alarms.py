"""Counting alarms for every threshold at once is counting what the alarm rule raises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.threshold.alarms_per_day import AlarmCurve, Stretches, alarm_levels, rises
from edgeasd.runtime.scoring.threshold import AlarmRule, Threshold

pytestmark = pytest.mark.core

# Whole numbers meet the threshold and each other; any float goes as well.
SCORES = st.lists(st.integers(-3, 3).map(float) | st.floats(-3, 3), max_size=40)
RECORDINGS = st.lists(SCORES.map(np.array), min_size=1, max_size=4)
THRESHOLDS = st.integers(-4, 4).map(float) | st.floats(-4, 4)
CONSECUTIVE = st.integers(1, 5)


def raised_by_the_rule(recordings: list[np.ndarray], threshold: float, consecutive: int) -> int:
    """The rule itself, score by score; reset between recordings."""
    rule = AlarmRule(Threshold(clip=threshold, consecutive=consecutive, found_by="test", clips=1))
    raised = 0
    for scores in recordings:
        rule.reset()
        raised += sum(rule.update(float(score), True) is True for score in scores)
    return raised


@given(RECORDINGS, THRESHOLDS, CONSECUTIVE)
@settings(max_examples=300, deadline=None)
def test_the_curve_is_the_rule(recordings: list[np.ndarray], threshold: float, consecutive: int) -> None:
    curve = AlarmCurve.of(recordings, consecutive)
    assert curve.count(threshold) == raised_by_the_rule(recordings, threshold, consecutive)


@given(RECORDINGS, CONSECUTIVE, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_above_the_lowest_threshold_alarms_stay_within_number(
    recordings: list[np.ndarray], consecutive: int, alarms: int
) -> None:
    levels = np.concatenate([alarm_levels(scores, consecutive) for scores in recordings])
    found = AlarmCurve.of(recordings, consecutive).lowest_threshold(alarms)
    if not levels.size:
        assert np.isnan(found)
        return
    assert all(raised_by_the_rule(recordings, u, consecutive) <= alarms for u in levels if u >= found)
    ends = np.concatenate([np.concatenate(rises(alarm_levels(scores, consecutive))) for scores in recordings])
    below = ends[(ends < found) & np.isfinite(ends)]
    if below.size:
        assert raised_by_the_rule(recordings, float(below.max()), consecutive) > alarms


@given(RECORDINGS, THRESHOLDS, CONSECUTIVE, st.integers(1, 6))
@settings(max_examples=200, deadline=None)
def test_stretches_share_out_all_alarms_and_lie_apart(
    recordings: list[np.ndarray], threshold: float, consecutive: int, apart: int
) -> None:
    stretches = Stretches(recordings, consecutive, apart)
    highest, raised, first = stretches.at(threshold)
    assert raised.sum() == raised_by_the_rule(recordings, threshold, consecutive)
    assert np.all(highest > threshold)
    assert np.all(raised >= 1)
    assert np.all(np.diff(first) > 0)
    levels = [alarm_levels(scores, consecutive) for scores in recordings]
    expected = 0
    for row in levels:
        above = np.flatnonzero(row > threshold)
        expected += int(above.size > 0) + int(np.sum(np.diff(above) > apart))
    assert len(highest) == expected


def test_a_base_is_found_for_the_number_of_stretches_wanted() -> None:
    scores = np.random.default_rng(0).standard_normal(5000)
    stretches = Stretches([scores], 1, 10)
    base = stretches.threshold_for(50)
    assert 50 <= len(stretches.at(base)[0]) <= 60
    assert len(stretches.at(stretches.threshold_for(10**6))[0]) >= 150, "where there are too few: the most there are"
