"""Shifts by the clock on the wall, in summer and in winter."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.states import Schedule
from edgeasd.runtime.states.schedule import DAYS

pytestmark = pytest.mark.core

BERLIN = ZoneInfo("Europe/Berlin")


def at(*parts: int, fold: int = 0) -> float:
    return datetime(*parts, tzinfo=BERLIN, fold=fold).timestamp()  # type: ignore[arg-type]


def test_a_shift_includes_its_first_minute_and_not_its_end() -> None:
    plan = Schedule.parse(["Mon-Fri 06:00-22:00"], "Europe/Berlin")
    assert not plan.includes(at(2026, 12, 1, 5, 59))
    assert plan.includes(at(2026, 12, 1, 6, 0))
    assert plan.includes(at(2026, 12, 1, 21, 59))
    assert not plan.includes(at(2026, 12, 1, 22, 0))
    assert not plan.includes(at(2026, 12, 5, 12, 0)), "a Saturday"


def test_a_night_shift_belongs_to_the_day_it_begins() -> None:
    plan = Schedule.parse(["Fri 22:00-06:00"], "Europe/Berlin")
    assert plan.includes(at(2026, 12, 4, 23, 0))
    assert plan.includes(at(2026, 12, 5, 5, 59))
    assert not plan.includes(at(2026, 12, 4, 3, 0)), "that would be Thursday's"
    assert not plan.includes(at(2026, 12, 5, 6, 0))


def test_the_shift_begins_at_the_same_clock_time_all_year() -> None:
    plan = Schedule.parse(["daily 06:00-22:00"], "Europe/Berlin")
    # The clock goes ahead on 29 March 2026 and back on 25 October 2026, both Sundays, at night.
    for day in ((2026, 3, 28), (2026, 3, 29), (2026, 3, 30), (2026, 10, 24), (2026, 10, 25), (2026, 10, 26)):
        assert not plan.includes(at(*day, 6, 0) - 1)
        assert plan.includes(at(*day, 6, 0))
        assert plan.includes(at(*day, 22, 0) - 1)
        assert not plan.includes(at(*day, 22, 0))


def test_an_hour_that_comes_twice_counts_twice() -> None:
    plan = Schedule.parse(["Sun 02:00-03:00"], "Europe/Berlin")
    begin = at(2026, 10, 25, 2, 0)
    inside = [plan.includes(begin + 60 * minute) for minute in range(-10, 130)]
    assert sum(inside) == 120


def test_an_hour_that_does_not_come_is_no_shift() -> None:
    plan = Schedule.parse(["Sun 02:00-03:00"], "Europe/Berlin")
    assert not any(plan.includes(at(2026, 3, 29, 1, 0) + 60 * minute) for minute in range(180))


@given(st.integers(0, 3 * 365 * 24 * 60))
def test_two_halves_of_a_day_are_the_whole_day(minute: int) -> None:
    wall = at(2025, 1, 1, 0, 0) + 60 * minute
    halves = [
        Schedule.parse([text], "Europe/Berlin").includes(wall) for text in ("daily 07:30-19:10", "daily 19:10-07:30")
    ]
    assert sorted(halves) == [False, True]


@given(st.sampled_from(DAYS), st.sampled_from(DAYS), st.integers(0, 6))
def test_days_go_round_the_week(first: str, last: str, day: int) -> None:
    plan = Schedule.parse([f"{first.title()}-{last.title()} 00:00-24:00"], "Europe/Berlin")
    begin, end = DAYS.index(first), DAYS.index(last)
    expected = (day - begin) % 7 <= (end - begin) % 7
    assert plan.includes(at(2026, 6, 1 + day, 12, 0)) == expected  # 1 June 2026 is a Monday


def test_the_next_change_is_the_end_of_the_shift() -> None:
    plan = Schedule.parse(["Mon-Fri 06:00-22:00"], "Europe/Berlin")
    change = plan.next_change(at(2026, 12, 4, 12, 0))
    assert change is not None
    assert (change.weekday(), change.hour, change.minute) == (4, 22, 0)
    change = plan.next_change(at(2026, 12, 4, 23, 0))
    assert change is not None
    assert (change.weekday(), change.hour) == (0, 6)
    assert Schedule.parse(["daily 00:00-24:00"]).next_change(0.0) is None


@pytest.mark.parametrize(
    "text", ["Mon 6-22", "Mon-Fri", "Monday 06:00-22:00", "Mon 25:00-26:00", "Mon 06:60-07:00", "Mon 06:00-06:00", ""]
)
def test_what_is_no_shift_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="schedule ") as caught:
        Schedule.parse([text])
    assert str(caught.value).isprintable()


def test_an_unknown_zone_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"timezone 'Mars/Olympus': not known here; use a name such as"):
        Schedule.parse(["daily 06:00-22:00"], "Mars/Olympus")
