"""Clocks of the system: settled wall time, texts of times, and waits between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.system.clocks import Backoff, SettledClock, utc_text

pytestmark = pytest.mark.core
RATE = 16000


DAY = 86_400.0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.floats(1.0, 3 * 3600.0), st.sampled_from([0.0, 0.0, 0.0, -9e8, -50.0, 50.0, 9e8]))))
def test_step_ahead_must_last_step_back_counts_at_once(
    looks: list[tuple[float, float]],
) -> None:
    """Looks so many seconds apart, before which the clock is set by the second figure."""
    now, wall = [100.0], [1_700_000_000.0]
    settled = SettledClock(lambda: wall[0], lambda: now[0])
    set_at = [now[0]]
    for passed, step in looks:
        now[0], wall[0] = now[0] + passed, wall[0] + passed + step
        set_at = [now[0]] if step else set_at
        said = settled()
        assert said <= wall[0] + 1e-3, "nothing is ever older than the clock says"
        if now[0] - set_at[0] > SettledClock.LASTING_SECONDS + 3 * 3600.0:
            assert said == pytest.approx(wall[0])
    for _ in range(60):
        now[0], wall[0] = now[0] + 1800.0, wall[0] + 1800.0
        said = settled()
    assert said == pytest.approx(wall[0])


def test_clock_years_ahead_for_hours_makes_nothing_old() -> None:
    now, wall = [100.0], [1_700_000_000.0]
    settled = SettledClock(lambda: wall[0], lambda: now[0])
    for hour in range(1, 20):
        now[0] += 3600.0
        wall[0] += 3600.0 + {3: 10 * 366 * DAY, 8: -10 * 366 * DAY}.get(hour, 0.0)
        assert settled() == pytest.approx(1_700_000_000.0 + hour * 3600.0)


def test_wall_time_is_iso_8601() -> None:
    assert utc_text(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"


def test_backoff_doubles_to_its_longest_and_begins_anew() -> None:
    backoff = Backoff(0.5, 3.0, lambda: 1.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.succeeded()
    assert backoff.failed() == 0.5


def test_backoff_draws_from_half_to_all_of_the_wait() -> None:
    assert [Backoff(1.0, 1.0, lambda draw=draw: draw).failed() for draw in (0.0, 0.5, 1.0)] == [0.5, 0.75, 1.0]
