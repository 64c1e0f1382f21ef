"""A threshold by false-positive rate: order statistics, and no promise that the clips cannot keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.calibration.threshold.false_positive_rate import threshold_by_rate
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Threshold, ThresholdSource

pytestmark = pytest.mark.core


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=120), st.floats(0.005, 0.9))
def test_no_larger_share_of_clips_lies_above_the_threshold(scores: list[float], rate: float) -> None:
    needed = 1 / rate - 1
    if len(scores) < needed - 1e-6:
        with pytest.raises(InputError, match="support none below"):
            threshold_by_rate(scores, rate)
    elif len(scores) > needed + 1e-6:
        found = threshold_by_rate(scores, rate)
        assert np.mean(np.array(scores) > found.clip) <= rate
        assert found.clip in scores
        assert found.promise is not None
        assert found.promise.expected <= rate + 1e-9
        assert found.interval95 is not None
        low, high = found.interval95
        assert low is None or low <= found.clip
        assert high is None or high >= found.clip


def test_the_number_of_clips_that_the_refusal_asks_for_is_enough() -> None:
    with pytest.raises(InputError, match="give 99 clips or more") as caught:
        threshold_by_rate(np.arange(98), 0.01)
    assert "98 normal clips support none below 0.0101" in str(caught.value)
    assert threshold_by_rate(np.arange(99), 0.01).clip == 98


@pytest.mark.parametrize(("clips", "rate"), [(60, 0.05), (400, 0.01), (1000, 0.1)])
def test_the_intervals_hold_the_truth_at_their_nominal_rate(clips: int, rate: float) -> None:
    """Over many draws of normals whose distribution is known; whatever it is, ranks do not care."""
    rng = np.random.default_rng(3)
    truth = -math.log(rate)
    kept, over, rates = 0, 0, []
    for _ in range(400):
        found = threshold_by_rate(rng.exponential(1.0, clips), rate)
        low, high = found.interval95 or (None, None)
        kept += (low is None or low <= truth) and (high is None or truth <= high)
        true_rate = math.exp(-found.clip)
        rates.append(true_rate)
        assert found.promise is not None
        ends = found.promise.interval95
        over += float(ends[0] or 0) <= true_rate <= float(ends[1] or 1)
    assert kept / 400 >= 0.93, "of the threshold: at least 95 %, since ranks are whole numbers"
    assert 0.92 <= over / 400 <= 0.98, "of the rate"
    assert np.mean(rates) <= rate * 1.1


def test_few_clips_above_the_threshold_are_warned_of() -> None:
    warning = threshold_by_rate(np.arange(100), 0.05).warning
    assert warning is not None
    assert warning.startswith("4 of 100 normal clips lie above")
    assert "give 200 clips or more" in warning
    assert threshold_by_rate(np.arange(1000), 0.05).warning is None


def test_what_it_came_from_travels_in_the_manifest() -> None:
    sources = [ThresholdSource(name=f"{i}.wav", sha256="0" * 64) for i in range(100)]
    found = threshold_by_rate(np.arange(100), 0.05, hours=0.28, sources=sources).stored()
    again = Threshold.model_validate_json(found.model_dump_json())
    assert again == found
    assert (again.clips, again.hours, len(again.sources)) == (100, 0.28, 100)
    assert again.promise is not None
    assert (again.promise.kind, again.promise.extrapolation) == ("false_positive_rate", False)
    assert again.interval95 is not None
    assert again.interval95[1] is not None
    assert again.interval95[1] > again.clip


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="false-positive rate"):
        threshold_by_rate([0.1, 0.2], rate)


@pytest.mark.parametrize("scores", [[], [0.1, math.nan], [[0.1, 0.2]]])
def test_scores_that_give_no_threshold_are_refused(scores: list[float]) -> None:
    with pytest.raises(InputError, match="normal clip"):
        threshold_by_rate(scores, 0.5)
