"""The expected range of levels: taken from clips as the health monitor hears them, and used by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.fit.levels import ON_SITE_DB, TRAINING_DB, clip_levels, expected_levels, outside
from edgeasd.runtime.features.logmel import Amplitude
from edgeasd.runtime.health import HealthMonitor, HealthSettings
from edgeasd.runtime.health.settings import LevelRange, level_range

pytestmark = pytest.mark.core

RATE = 16_000


def noise(seconds: float, dbfs: float, seed: int = 0) -> np.ndarray:
    sound = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 10 ** (dbfs / 20)
    return sound.astype(np.float32)


def heard_by_the_monitor(sound: np.ndarray) -> list[float]:
    monitor, levels = HealthMonitor(HealthSettings(), RATE), []
    for at in range(0, len(sound) - RATE // 5 + 1, RATE // 5):
        monitor.push(sound[at : at + RATE // 5])
        levels.append(monitor.report().level_dbfs)
    return [level for level in levels if level is not None]


def test_levels_are_those_that_the_monitor_compares() -> None:
    sound = np.concatenate([noise(6, -40), noise(5, -25) + np.float32(0.1), noise(4.1, -60)])
    assert clip_levels(sound, RATE) == pytest.approx(heard_by_the_monitor(sound), abs=1e-4)
    assert clip_levels(noise(3, -40), RATE) == pytest.approx([-40], abs=0.5)
    assert clip_levels(np.zeros(1000, np.float32), RATE).size == 0
    assert clip_levels(np.zeros(RATE, np.float32), RATE).tolist() == [-120.0]


@settings(max_examples=30, deadline=None)
@given(st.floats(-70, -12), st.floats(0, 8), st.integers(6, 12), st.sampled_from([ON_SITE_DB, TRAINING_DB]))
def test_own_clips_lie_in_range_a_fallen_microphone_does_not(
    level: float, spread: float, count: int, margin: float
) -> None:
    clips = [noise(11, level + spread * (i / count - 0.5), i) for i in range(count)]
    found = expected_levels([clip_levels(clip, RATE) for clip in clips], 11.0 * count, margin)
    assert found is not None
    # Through the file and back, as a device reads it.
    expected = level_range(HealthSettings(), Amplitude(mean=0.0, std=0.5), LevelRange(**found.model_dump(mode="json")))
    assert expected == found
    assert not any(outside(clip_levels(clip, RATE), found) for clip in clips)
    for gain_db, trips in ((0.0, False), (-(margin + spread + 3.0), True)):
        monitor = HealthMonitor(HealthSettings(), RATE, expected)
        changes = [
            change
            for clip in [*clips, clips[0], clips[0]]
            for change in monitor.push((clip * 10 ** (gain_db / 20)).astype(np.float32))
        ]
        assert ("level_low" in {change.state for change in changes}) == trips


def test_one_odd_clip_in_a_hundred_widens_nothing() -> None:
    levels = [np.full(20, -30.0 - 0.01 * i) for i in range(150)]
    odd = np.full(1, -95.0)
    found = expected_levels([*levels, odd], 1500.0, ON_SITE_DB)
    assert found is not None
    assert found.low_dbfs == pytest.approx(-41.5, abs=0.15)
    assert outside(odd, found)
    assert not any(outside(one, found) for one in levels)


def test_a_margin_in_the_settings_replaces_the_built_in_one() -> None:
    found = expected_levels([np.linspace(-40, -30, 100)], 100.0, ON_SITE_DB)
    wide = HealthSettings.model_validate({"level": {"margin_db": 30.0}})
    expected = level_range(wide, Amplitude(mean=0.0, std=0.5), found)
    assert expected is not None
    assert (expected.low_dbfs, expected.high_dbfs) == (pytest.approx(-69.9), pytest.approx(-0.1))


def test_too_little_sound_gives_no_level_range() -> None:
    assert expected_levels([np.full(10, -30.0)], 59.0, ON_SITE_DB) is None
    assert expected_levels([], 600.0, ON_SITE_DB) is None
    loud = expected_levels([np.full(10, 3.0)], 600.0, ON_SITE_DB)
    assert loud is not None
    assert (loud.low_dbfs, loud.high_dbfs) == (-10.0, 0.0)
    assert math.isclose(loud.measured_high_dbfs or 0.0, 3.0)
