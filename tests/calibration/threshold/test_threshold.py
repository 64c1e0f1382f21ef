"""The starting threshold: the largest held-out clip score, three times in a row."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.calibration.threshold.threshold import largest_holdout
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(SCORES)
def test_one_held_out_clip_lies_on_the_threshold(scores: list[float]) -> None:
    threshold = largest_holdout(scores)
    assert not any(score > threshold.clip for score in scores)
    assert threshold.clip in scores
    assert threshold.consecutive == 3
    assert threshold.clips == len(scores)
    assert threshold.found_by == "largest held-out clip score"


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_a_float32_score_is_kept_exactly(scores: list[float]) -> None:
    assert largest_holdout(np.array(scores, np.float32)).clip == max(scores)


@pytest.mark.parametrize(("n", "warned"), [(1, True), (9, True), (10, False), (150, False)])
def test_fewer_than_ten_clips_carry_a_warning(n: int, warned: bool) -> None:
    warning = largest_holdout(np.linspace(0, 1, n)).warning
    assert (warning is not None) == warned
    if warning is not None:
        assert f"{n} held-out normal clip" in warning


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "0 held-out normal clips"),
        ([0.1, 0.2, math.nan], "score 2 of 3 is nan"),
        ([math.inf, 0.2], "score 0 of 2 is inf"),
        ([[0.1, 0.2], [0.3, 0.4]], r"shape \(2, 2\)"),
    ],
)
def test_scores_that_give_no_threshold_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        largest_holdout(scores)
