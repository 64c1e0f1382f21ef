"""Clips of another machine are told by their scores; normal clips of this one are not accused by chance."""

from __future__ import annotations

import numpy as np
import pytest

from edgeasd.calibration.fit.clips import is_other_machine, normal_bounds, outside_normal_bounds
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core


def test_bounds_mirror_the_extremes_about_the_median() -> None:
    assert normal_bounds([1.0, 2.0, 4.0]) == pytest.approx((0.0, 6.0))
    assert normal_bounds([1.0, 2.0, 4.0], threshold=7.0) == pytest.approx((0.0, 7.0))
    assert normal_bounds([0.03, 0.03]) == pytest.approx((-0.02, 0.08))


@pytest.mark.parametrize(("references", "stated"), [(7, 0.056), (20, 0.0087), (100, 0.00039)])
def test_a_normal_clip_is_accused_as_rarely_as_stated(references: int, stated: float) -> None:
    rng = np.random.default_rng(0)
    # On a scale on which the least margin plays no part.
    bounds = [normal_bounds(rng.exponential(10.0, references).tolist())[1] for _ in range(4000)]
    assert np.exp(-np.array(bounds) / 10).mean() == pytest.approx(stated, rel=0.15)


def test_own_clips_seldom_look_like_another_machine() -> None:
    rng = np.random.default_rng(0)
    bounds = [normal_bounds(rng.exponential(10.0, 7).tolist())[1] for _ in range(10_000)]
    assert 0.001 < np.mean(np.exp(-np.array(bounds) / 10) > 0.5) < 0.005


def test_a_few_odd_clips_are_not_another_machine() -> None:
    reference = [0.026, 0.028, 0.031, 0.04]
    scores = [0.03] * 20 + [1.1, float("nan"), -0.2]
    assert outside_normal_bounds(scores, reference, 0.04) == [20, 21, 22]
    assert not is_other_machine(scores, reference, 0.04)
    assert is_other_machine([1.1] * 10 + [0.03] * 10, reference, 0.04)


def test_a_bundle_that_knows_no_normals_cannot_say() -> None:
    with pytest.raises(InputError, match="0 held-out normal clips"):
        outside_normal_bounds([1.0], [])
