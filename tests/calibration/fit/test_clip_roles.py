"""Which clips give ranges and which judge: by content, never both, and never too few."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.fit.clips import DRIFT_CLIPS, RANGE_CLIPS, needed_clips, split_calibration_clips
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(count)]


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 600), st.integers(0, 5), st.integers(0, 20))
def test_no_content_is_in_both_and_order_makes_no_difference(count: int, seed: int, copies: int) -> None:
    contents = hashes(count) + hashes(copies)
    roles = split_calibration_clips(contents, seed=seed)
    ranges, drift = ([contents[i] for i in part] for part in (roles.ranges, roles.drift))
    assert sorted([*ranges, *drift]) == sorted(set(contents)), "each content once"
    assert len(drift) == min(max(count // 2, DRIFT_CLIPS), 200)
    assert len(ranges) >= RANGE_CLIPS
    shuffled = random.Random(seed).sample(contents, len(contents))
    again = split_calibration_clips(shuffled, seed=seed)
    assert {shuffled[i] for i in again.drift} == set(drift)


def test_too_few_are_refused_with_the_number_and_the_reason() -> None:
    assert needed_clips() == 40
    assert split_calibration_clips(hashes(40))
    with pytest.raises(InputError, match=r"^3 normal clips \(1 more are copies\) are too few.*40 are needed, 16 for"):
        split_calibration_clips([*hashes(3), hashes(1)[0]])


def test_one_swapped_pair_keeps_the_strictest_limit() -> None:
    n = DRIFT_CLIPS
    assert 12 / (n**3 - n) < 0.001
    assert 12 / ((n - 2) ** 3 - (n - 2)) > 0.001, "fewer clips would not do"
