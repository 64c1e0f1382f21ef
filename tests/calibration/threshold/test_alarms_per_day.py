"""False alarms a day: what is promised is kept within its interval, and what cannot be promised is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from alarm_rule import AlarmRule

from edgeasd.calibration.threshold.alarms_per_day import Tail, threshold_by_alarms
from edgeasd.calibration.threshold.live import LiveNormals, Recording
from edgeasd.calibration.threshold.simulate import simulated_alarms, simulated_scores
from edgeasd.calibration.threshold.threshold import FittedThreshold
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core

HOP, WINDOW = 0.192, 9.952
DAY = round(86_400 / HOP)


def correlation() -> np.ndarray:
    """Of live clip scores as they arise: ten segments of 43 hops averaged, and a machine that wanders slowly."""
    shared = np.convolve(np.ones(43), np.ones(10))
    sound = np.correlate(shared, shared, "full")[len(shared) - 1 :]
    slow = np.exp(-np.arange(1000) * HOP / 30)
    total = 0.2 * slow
    total[: len(sound)] += 0.8 * sound / sound[0]
    return total


def live(*series: np.ndarray) -> LiveNormals:
    return LiveNormals(tuple(Recording(s, f"{i}.wav", "0" * 64) for i, s in enumerate(series)), HOP, WINDOW)


def drawn(hours: float, seed: int) -> np.ndarray:
    return np.concatenate(
        list(simulated_scores(correlation(), round(hours * 3600 / HOP), np.random.default_rng(seed), np.exp))
    )


@pytest.fixture(scope="module")
def eight_hours() -> np.ndarray:
    return drawn(8, 0)


def fit(scores: np.ndarray, per_day: float, **options: int) -> FittedThreshold:
    return threshold_by_alarms(live(scores), per_day, **options)


# The promise


def test_simulated_scores_have_the_correlation_asked_for() -> None:
    wanted = correlation()[:300]
    scores = np.log(drawn(200, 5))
    np.testing.assert_allclose(live(scores).autocorrelation(299), wanted, atol=0.03)
    assert scores.std() == pytest.approx(1, abs=0.02)


def test_two_months_keep_the_promised_alarm_rate() -> None:
    """Eight hours of normals for each fit; the full year is benchmarks/simulate_thresholds.py."""
    days, fits = 45, 24
    truth = simulated_alarms(correlation(), days * DAY, np.random.default_rng(99), 3, keep_above=1.5)
    kept = {12.0: 0, 1.0: 0}
    ratios: dict[float, list[float]] = {rate: [] for rate in kept}
    for seed in range(fits):
        scores = drawn(8, seed)
        for rate in kept:
            found = fit(scores, rate)
            assert found.promise is not None
            assert found.promise.extrapolation == (rate == 1.0)
            low, high = found.promise.interval95
            real = float(truth.count(math.log(found.clip))) / days
            kept[rate] += float(low or 0) <= real <= float(high or 0)
            ratios[rate].append(real / rate)
    for rate, count in kept.items():
        # 24 fits at 95 %: 20 or fewer happen once in 150 times.
        assert count >= 21, f"{rate} a day: {count} of {fits}"
    assert 0.5 < np.median(ratios[12.0]) < 1.3
    assert 0.2 < np.median(ratios[1.0]) < 3


def test_counted_alarms_are_those_of_the_alarm_rule(eight_hours: np.ndarray) -> None:
    found = fit(eight_hours, 30)
    rule, raised = AlarmRule(found.stored()), 0
    for score in eight_hours:
        raised += rule.update(float(score), True) is True
    assert raised == found.details["alarms_at_threshold"] == 30 * 8 // 24 - 1
    assert found.promise is not None
    assert found.promise.expected == pytest.approx(30, rel=1e-3)
    low, high = found.promise.interval95
    assert low is not None
    assert high is not None
    assert low < 30 < high


def test_fewer_alarms_allowed_are_a_higher_threshold(eight_hours: np.ndarray) -> None:
    thresholds = [fit(eight_hours, rate).clip for rate in (100, 30, 10, 3, 1, 0.1, 0.01)]
    assert thresholds == sorted(thresholds)
    longer_rows = [fit(eight_hours, 10, consecutive=c).clip for c in (1, 3, 30)]
    assert longer_rows == sorted(longer_rows, reverse=True)


# What H hours can support


def test_fewer_than_one_alarm_in_all_hours_is_extrapolated(eight_hours: np.ndarray) -> None:
    counted, beyond = fit(eight_hours, 3), fit(eight_hours, 2.9)
    assert "counted in 8 h" in counted.found_by
    assert counted.warning is not None
    assert "rests on the 1 highest alarm " in counted.warning
    assert counted.clip == counted.stored().clip < beyond.clip * 1.5
    assert "extrapolation by a generalised Pareto tail from 8 h" in beyond.found_by
    assert beyond.warning is not None
    assert "cannot show fewer than 3 alarms a day" in beyond.warning
    assert (counted.promise and counted.promise.extrapolation, beyond.promise and beyond.promise.extrapolation) == (
        False,
        True,
    )
    far = fit(eight_hours, 0.01)
    assert far.warning is not None
    assert "300 times smaller than the recordings can show; record 120 h" in far.warning


def test_more_hours_make_the_interval_narrower() -> None:
    widths = []
    for hours in (8, 80):
        promise = fit(drawn(hours, 1), 12).promise
        assert promise is not None
        low, high = promise.interval95
        assert low is not None
        assert high is not None
        widths.append(math.log(high / low))
    assert widths[1] < widths[0] / 2


def test_a_few_minutes_give_no_tail(eight_hours: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"1 false alarms a day: 0.2 h .* too few for a tail .*; record about"):
        fit(eight_hours[: round(720 / HOP)], 1)


def test_clips_too_short_for_the_rule_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 complete live scores and an alarm takes 3 .* 10.3 s or more"):
        threshold_by_alarms(live(*(np.zeros(1) for _ in range(50))), 1)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(rate: float, eight_hours: np.ndarray) -> None:
    with pytest.raises(InputError, match="not a rate"):
        fit(eight_hours, rate)


def test_constant_scores_give_one_line() -> None:
    with pytest.raises(InputError):
        fit(np.full(100_000, 0.5), 0.1)


# Correlation and change


def test_repeated_scores_are_no_more_evidence(eight_hours: np.ndarray) -> None:
    """Counting scores as independent would narrow the interval by the root of ten; counting stretches does not."""
    part = eight_hours[: len(eight_hours) // 10]
    once = fit(part, 100).promise
    often = threshold_by_alarms(LiveNormals((Recording(np.repeat(part, 10)),), HOP / 10, WINDOW), 100).promise
    assert once is not None
    assert often is not None
    assert often.interval95 == pytest.approx(once.interval95, rel=0.35)


def test_loud_spells_widen_the_intervals_and_warn() -> None:
    scores = np.log(drawn(40, 3))
    spells = scores + 0.8 * (np.arange(len(scores)) // (DAY // 6) % 2)
    calm, spelled = fit(scores, 24), fit(spells, 24)
    assert calm.details["dispersion"] == 1
    assert float(str(spelled.details["dispersion"])) > 2
    assert spelled.warning is not None
    assert "come in spells" in spelled.warning

    def width(found: FittedThreshold) -> float:
        assert found.promise is not None
        low, high = found.promise.interval95
        return float(high or 0) / float(low or 1e-9)

    assert width(spelled) > 1.5 * width(calm)


def test_many_short_recordings_are_warned_of_and_all_are_listed(eight_hours: np.ndarray) -> None:
    pieces = np.array_split(eight_hours, 300)
    found = threshold_by_alarms(live(*pieces), 100)
    assert found.warning is not None
    assert "the rule starts again in each" in found.warning
    assert (found.clips, len(found.sources), len(found.stored().sources)) == (300, 300, 300)
    assert found.hours == pytest.approx(8, rel=1e-3)


# The tail


@pytest.mark.parametrize("xi", [-0.3, 0.0, 0.3])
def test_the_tail_fit_is_scipys_and_its_interval_covers(xi: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    draws = stats.genpareto.rvs(xi, scale=2.0, size=3000, random_state=rng)
    tail = Tail(draws, 100.0)
    shape, _, scale = stats.genpareto.fit(draws, floc=0)
    assert (tail.xi, tail.sigma) == pytest.approx((shape, scale), abs=0.04)
    truth = float(stats.genpareto.isf(0.3 / 60, xi, scale=2.0))
    covered = 0
    for _ in range(40):
        sample = stats.genpareto.rvs(xi, scale=2.0, size=rng.poisson(60), random_state=rng)
        low, high = Tail(sample, 1.0).excess_interval(0.3)
        covered += low <= truth <= high
    assert covered >= 34


def test_rate_and_excess_are_inverses() -> None:
    tail = Tail(np.random.default_rng(0).exponential(1.0, 100), 10.0)
    for rate in (5.0, 1.0, 0.01):
        assert tail.rate(tail.excess_at(rate)) == pytest.approx(rate)
    low, high = tail.rate_interval(tail.excess_at(0.01))
    assert low < 0.01 < high
    ending = Tail(1 - np.random.default_rng(0).random(100) ** 0.4, 10.0)
    low, high = ending.rate_interval(1.05)
    assert low == 0
    assert 1e-3 < high < 1, "a tail that ends below is not known to end there"
    wide = Tail(np.random.default_rng(0).exponential(1.0, 100), 10.0, dispersion=4.0)
    assert wide.rate_interval(tail.excess_at(0.01))[1] > high
