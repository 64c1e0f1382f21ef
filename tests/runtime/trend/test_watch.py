"""A year of hours: what changed is named in time, what did not is not, and how hours are given makes no difference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.trend.watch import Change, Hour, TrendWatch, find_changes

pytestmark = pytest.mark.core

DAY = 86_400.0
THRESHOLD = 0.6


def hours(seed: int, days: int, moved: dict[str, np.ndarray] | None = None, hours_a_day: int = 24) -> list[Hour]:
    """Hours of a machine with a daily rhythm and noise; `moved` holds what is added, (hours,), by quantity."""
    random = np.random.default_rng(seed)
    count, moved = 24 * days, moved or {}
    zero = np.zeros(count)
    score = 0.3 + 0.02 * np.sin(np.arange(count) * math.pi / 12) + random.normal(0, 0.03, count)
    score = score + moved.get("score", zero)
    level = -30.0 + random.normal(0, 0.3, count) + moved.get("level", zero)
    spread = 0.1 * np.exp(random.normal(0, 0.05, count) + moved.get("spread", zero))
    return [
        Hour(3600.0 * i, 3600.0, float(score[i]), float(spread[i]), float(level[i]))
        for i in range(count)
        if i % 24 < hours_a_day
    ]


def step(days: int, day: float, size: float) -> np.ndarray:
    return np.where(np.arange(24 * days) >= 24 * day, size, 0.0)


@pytest.mark.parametrize("hours_a_day", [24, 8, 2])
def test_a_year_without_a_change_brings_no_message(hours_a_day: int) -> None:
    for seed in range(3):
        assert find_changes(hours(seed, 365, hours_a_day=hours_a_day), THRESHOLD) == []


@pytest.mark.parametrize(("quantity", "size"), [("score", 0.12), ("level", -3.0), ("spread", math.log(2))])
def test_step_is_named_within_three_days_with_its_date_and_size(quantity: str, size: float) -> None:
    changes = find_changes(hours(1, 90, {quantity: step(90, 40, size)}), THRESHOLD)
    assert [(one.quantity, one.shape) for one in changes] == [(quantity, "step")]
    found = changes[0]
    assert 40 * DAY < found.found <= 43 * DAY
    assert abs(found.began - 40 * DAY) <= 1.0 * DAY
    told = math.log(found.size) if quantity == "spread" else found.size
    assert told == pytest.approx(size, rel=0.2)
    assert found.ended is None


def test_slope_is_one_change_that_ends_as_high_as_it_rose() -> None:
    ramp = np.clip((np.arange(24 * 90) / 24 - 40) / 20, 0, 1) * 0.24
    changes = find_changes(hours(2, 90, {"score": ramp}), THRESHOLD)
    assert [(one.quantity, one.shape) for one in changes] == [("score", "slope")]
    # It has risen by what matters, a tenth of the way, after about 4 days.
    assert changes[0].found <= (44 + 3) * DAY
    assert changes[0].after == pytest.approx(0.54, abs=0.05)


def test_change_that_goes_back_has_an_end_and_may_come_again() -> None:
    moved = step(120, 30, 4.0) - step(120, 60, 4.0) + step(120, 90, 4.0)
    changes = find_changes(hours(3, 120, {"level": moved}), THRESHOLD)
    assert [one.quantity for one in changes] == ["level", "level"]
    assert changes[0].ended is not None
    assert 60 * DAY < changes[0].ended <= 63 * DAY
    assert 90 * DAY < changes[1].found <= 93 * DAY
    assert changes[1].ended is None


def test_weekends_are_no_change_once_a_few_were_heard() -> None:
    weekend = np.where((np.arange(24 * 200) // 24) % 7 >= 5, 0.2, 0.0)
    changes = find_changes(hours(4, 200, {"score": weekend}), THRESHOLD)
    assert len(changes) <= 2
    assert all(one.found < 30 * DAY and one.ended is not None for one in changes)


def test_small_changes_are_not_worth_a_message() -> None:
    moved = {"score": step(90, 40, 0.03), "level": step(90, 40, 1.0), "spread": step(90, 40, math.log(1.25))}
    assert find_changes(hours(5, 90, moved), THRESHOLD) == []


def test_missing_levels_and_short_hours_are_no_obstacle() -> None:
    rows = [replace(one, level=None) for one in hours(6, 60, {"score": step(60, 40, 0.2)})]
    assert [one.quantity for one in find_changes(rows, THRESHOLD)] == ["score"]
    assert find_changes([replace(one, seconds=5.0) for one in rows], THRESHOLD) == []


def test_constant_values_divide_by_nothing() -> None:
    rows = [Hour(3600.0 * i, 3600.0, 0.3, 0.0, -30.0) for i in range(24 * 30)]
    assert find_changes(rows, THRESHOLD) == []
    moved = [replace(one, level=-20.0) if one.at >= 20 * DAY else one for one in rows]
    assert [(one.quantity, one.size) for one in find_changes(moved, THRESHOLD)] == [("level", pytest.approx(10.0))]


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(min_value=0, max_value=24 * 60), size=st.floats(min_value=-0.3, max_value=0.3))
def test_news_add_up_to_the_changes_of_the_whole(cut: int, size: float) -> None:
    rows = hours(7, 60, {"score": step(60, 30, size)})
    watch, told = TrendWatch(THRESHOLD), dict[tuple[str, float], Change]()
    for row in rows:
        told |= {(one.quantity, one.began): one for one in watch.add(row)}
    assert watch.changes == find_changes(rows, THRESHOLD)
    assert {one.began for one in watch.changes} <= {began for _, began in told}
    # What is found does not depend on hours to come.
    early = find_changes(rows[:cut], THRESHOLD)
    assert {(one.quantity, one.found) for one in early} <= {(one.quantity, one.found) for one in watch.changes}
