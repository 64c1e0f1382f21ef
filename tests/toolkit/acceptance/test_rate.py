"""False alarms of a listening time: exact intervals, call-outs, and the hours a promise needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.toolkit.acceptance.rate import (
    CALL_OUT_SECONDS,
    HOURS_A_MONTH,
    Span,
    count_false_alarms,
    hours_needed,
    share_interval,
)


def spread(count: int, hours: float) -> Span:
    """Alarms far apart."""
    return Span(hours, tuple((np.arange(count) + 0.5) * hours * 3600 / max(count, 1)))


def test_no_alarm_in_three_hours_promises_little() -> None:
    seen = count_false_alarms([Span(1.0), Span(2.0)])
    assert seen.call_outs == 0
    # -ln 0.05 events at most, 95 %.
    assert seen.at_most == pytest.approx(2.9957 / 3 * HOURS_A_MONTH, rel=1e-3)
    assert hours_needed(1.0) == pytest.approx(2.9957 * HOURS_A_MONTH, rel=1e-3)


def test_interval_of_counts_is_that_of_garwood() -> None:
    seen = count_false_alarms([spread(10, HOURS_A_MONTH)])
    low, high = seen.interval95
    assert (low, high) == pytest.approx((4.795, 18.390), abs=0.001)


def test_alarms_close_together_are_one_call_out() -> None:
    seen = count_false_alarms([Span(10.0, (0.0, 60.0, 60.0 + CALL_OUT_SECONDS - 1, 10_000.0))])
    assert (seen.alarms, seen.call_outs) == (4, 2)


@given(st.integers(0, 200), st.floats(1.0, 1e4))
def test_promise_lies_above_what_was_seen(count: int, hours: float) -> None:
    seen = count_false_alarms([spread(count, max(hours, count))])
    assert seen.at_least <= seen.per_month <= seen.at_most
    assert seen.interval95[0] <= seen.at_least
    assert seen.at_most <= seen.interval95[1]


@given(st.floats(0.01, 1e4), st.integers(0, 50))
def test_the_hours_that_are_named_carry_the_promise(limit: float, count: int) -> None:
    hours = hours_needed(limit, count)
    assert hours >= count / limit * HOURS_A_MONTH
    seen = count_false_alarms([Span(1.001 * hours)] if not count else [spread(count, 1.001 * hours)])
    assert seen.call_outs <= count
    assert seen.at_most <= limit * 1.0001 or seen.dispersion > 1


def test_call_outs_in_spells_widen_the_interval() -> None:
    even = count_false_alarms([spread(40, 1000.0)])
    spell = [Span(900.0), spread(40, 100.0)]
    assert even.dispersion == 1
    assert count_false_alarms(spell).dispersion > 5
    assert count_false_alarms(spell).at_most > even.at_most


def test_share_of_none_and_of_all_has_an_interval() -> None:
    assert share_interval(5, 5) == pytest.approx((0.4782, 1.0), abs=1e-3)
    assert share_interval(0, 5) == pytest.approx((0.0, 0.5218), abs=1e-3)
    assert share_interval(3, 10) == pytest.approx((0.0667, 0.6525), abs=1e-3)


def test_promised_rate_holds_over_simulated_years() -> None:
    """100 years of alarms that come in clusters, each judged on its first 2 months."""
    draw, held = np.random.default_rng(3), 0
    for _ in range(100):
        year = np.sort(draw.uniform(0, 8766, draw.poisson(draw.uniform(5, 200))))
        alarms = np.sort(np.concatenate([year + draw.exponential(0.05, len(year)) * k for k in range(3)]))
        heard = [float(at) * 3600 for at in alarms if at < 1461]
        promised = count_false_alarms([Span(1461.0, tuple(heard))]).at_most
        later = count_false_alarms([Span(8766.0, tuple(float(at) * 3600 for at in alarms))])
        held += later.per_month <= promised
    assert held >= 90
