"""The parts of the health monitor beside plain definitions of what they compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.manifest import dump_manifest, parse_manifest
from edgeasd.runtime.errors import BundleError, InputError
from edgeasd.runtime.features.logmel import Amplitude
from edgeasd.runtime.health.detectors import DropoutDetector, StuckDetector, WindowMeter
from edgeasd.runtime.health.monitor import HoldTimer
from edgeasd.runtime.health.settings import STATES, HealthSettings, LevelRange, level_range, training_level_dbfs

pytestmark = pytest.mark.core


def plain_holes(sound: list[float], shortest: int, longest: int, edge: float) -> int:
    """DropoutDetector of a whole sound, run by run."""
    found, at = 0, 0
    while at < len(sound):
        if sound[at] != 0:
            at += 1
            continue
        end = at
        while end < len(sound) and sound[end] == 0:
            end += 1
        before = abs(sound[at - 1]) if at else 0.0
        if end < len(sound) and shortest <= end - at <= longest and max(before, abs(sound[end])) >= edge:
            found += 1
        at = end
    return found


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.1, -0.5]), min_size=8, max_size=96), st.integers(1, 6), st.integers(0, 9)
)
def test_dropouts_are_counted_across_windows(sound: list[float], shortest: int, more: int) -> None:
    sound = sound[: len(sound) // 8 * 8]
    holes = DropoutDetector(shortest, shortest + more, edge=0.3)
    windows = np.array(sound, np.float32).reshape(-1, 8)
    counted = sum(holes.push(window, int(np.count_nonzero(window == 0))) for window in windows)
    assert counted == plain_holes(sound, shortest, shortest + more, 0.3)


def block_of(sound: np.ndarray, size: int) -> int | None:
    """Samples of the block that `sound` repeats, of at most size // 2."""
    detector = StuckDetector(size)
    detector.push(sound)
    return detector.block


@settings(deadline=None)
@given(st.integers(2, 500), st.integers(0, 2**32 - 1), st.integers(2, 2000))
def test_a_repeated_block_is_found_at_its_length(block: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    once = rng.integers(-levels, levels, block).astype(np.float32)
    sound = np.tile(once, 1600 // block + 1)[:1600]
    found = block_of(sound, 1600)
    if np.ptp(once) == 0:
        assert found is None
    else:
        assert found is not None
        assert found > 1
        assert np.array_equal(sound[found:], sound[:-found])
        sound[rng.integers(900)] += 1.0
        assert block_of(sound, 1200) is None or found < 300


@given(st.integers(0, 2**32 - 1))
def test_noise_of_one_bit_repeats_nothing(seed: int) -> None:
    assert block_of(np.random.default_rng(seed).integers(0, 2, 1600).astype(np.float32), 1600) is None


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.sampled_from("be-x"), max_size=60))
def test_a_hold_timer_changes_after_windows_in_a_row(on: int, off: int, asked: list[str]) -> None:
    latch, row = HoldTimer(on, off), ""
    for position, ask in enumerate(asked):
        was = latch.active
        changed = latch.update(ask in "bx", ask in "ex", position)
        row = row + "y" if ask in ("ex" if was else "bx") else ""
        assert changed == (len(row) == (off if was else on))
        assert latch.active == (was != changed)
        if changed:
            assert latch.since == position - len(row) + 1
            row = ""


def test_the_figures_of_a_window_are_what_they_say() -> None:
    rng = np.random.default_rng(1)
    window = (0.2 * rng.standard_normal(3200) + 0.1).astype(np.float32)
    window[:7] = 1.0
    window[10:13] = 0.0
    figures = WindowMeter(3200, 0.9999).measure(window)
    assert figures.mean == pytest.approx(float(window.astype(float).mean()), rel=1e-12)
    assert figures.power == pytest.approx(float(window.astype(float).var()), rel=1e-12)
    assert (figures.clipped, figures.zeros, figures.constant) == (int(np.sum(np.abs(window) >= 0.9999)), 3, False)
    assert figures.clipped >= 7


# Settings


def test_the_training_level_comes_from_the_amplitude() -> None:
    assert training_level_dbfs(Amplitude(std=0.1)) == pytest.approx(-20.0)
    assert training_level_dbfs(Amplitude()) is None
    found = level_range(HealthSettings(), Amplitude(std=0.01), None)
    assert found is not None
    assert (found.low_dbfs, found.high_dbfs) == pytest.approx((-60.0, -20.0))
    assert "training level -40.0 dBFS" in found.found_by


@given(st.floats(1e-9, 1e6), st.floats(0.1, 120))
def test_every_amplitude_gives_a_range_that_means_something(std: float, margin: float) -> None:
    found = level_range(HealthSettings(level={"margin_db": margin}), Amplitude(std=std), None)  # type: ignore[arg-type]
    assert found is None if std == 1.0 else found is not None and -120 <= found.low_dbfs < found.high_dbfs <= 0


def test_settings_win_over_measured_over_training_level() -> None:
    measured = LevelRange(low_dbfs=-50, high_dbfs=-30, found_by="commissioning")
    amplitude = Amplitude(std=0.1)
    assert level_range(HealthSettings(), amplitude, measured) == measured
    found = level_range(HealthSettings.parse({"level": {"low_dbfs": -70}}, "site.toml"), amplitude, measured)
    assert found is not None
    assert (found.low_dbfs, found.high_dbfs) == (-70, -30)
    alone = level_range(HealthSettings.parse({"level": {"high_dbfs": -10}}, "site.toml"), Amplitude(), None)
    assert alone is not None
    assert (alone.low_dbfs, alone.high_dbfs) == (-120, -10)
    with pytest.raises(InputError, match="low_dbfs -20 is not below high_dbfs -30"):
        level_range(HealthSettings.parse({"level": {"low_dbfs": -20}}, "site.toml"), amplitude, measured)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"silence": {"on_dbfs": -60, "off_dbfs": -70}}, "on_dbfs <= off_dbfs"),
        ({"clipping": {"on_share": 0.1, "off_share": 0.2}}, "on_share"),
        ({"dropouts": {"on_count": 2, "off_count": 2}}, "off_count < on_count"),
        ({"dropouts": {"shortest_seconds": 0.5, "longest_seconds": 0.1}}, "shortest_seconds"),
        ({"level": {"low_dbfs": -3, "high_dbfs": -9}}, "low_dbfs < high_dbfs"),
        ({"stuck": {"on_seconds": "long"}}, "stuck.on_seconds 'long'"),
        ({"stuck": {"on_seconds": float("nan")}}, "stuck.on_seconds"),
        ({"silense": {}}, "silense"),
        ({"unhealthy": ["sleepy"]}, "'sleepy' is not a health state"),
        ("loud", "'loud'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(given_: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        HealthSettings.parse(given_, "site.toml: health")
    assert str(caught.value).startswith("site.toml: health: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_state_makes_sick_unless_told_otherwise() -> None:
    assert HealthSettings().unhealthy == STATES
    assert HealthSettings.parse({"unhealthy": []}, "x").unhealthy == ()


def test_a_manifest_without_a_level_is_written_as_before(small_bundle) -> None:  # type: ignore[no-untyped-def]
    import json

    plain = json.loads((small_bundle / "manifest.json").read_text("utf-8"))
    manifest = parse_manifest(json.dumps(plain).encode(), "m")
    assert manifest.level is None
    assert json.loads(dump_manifest(manifest)) == plain
    plain["level"] = {"low_dbfs": -50.0, "high_dbfs": -20.0, "found_by": "commissioning"}
    manifest = parse_manifest(json.dumps(plain).encode(), "m")
    assert manifest.level == LevelRange(low_dbfs=-50, high_dbfs=-20, found_by="commissioning")
    assert json.loads(dump_manifest(manifest)) == plain
    plain["level"]["high_dbfs"] = -90.0
    with pytest.raises(BundleError, match=r"low_dbfs -50.0 < high_dbfs -90.0"):
        parse_manifest(json.dumps(plain).encode(), "m")


def test_keys_of_earlier_settings_still_load() -> None:
    assert HealthSettings.parse({"sick": ["stuck"]}, "x").unhealthy == ("stuck",)
    with pytest.raises(InputError, match=r"sick: is the old name of unhealthy; give unhealthy alone"):
        HealthSettings.parse({"sick": [], "unhealthy": []}, "x")


def test_a_measured_range_keeps_the_keys_of_the_manifest() -> None:
    stored = {
        "low_dbfs": -60.0,
        "high_dbfs": -20.0,
        "found_by": "clips",
        "heard_low_dbfs": -50.0,
        "heard_high_dbfs": -30.0,
    }
    found = LevelRange.model_validate(stored)
    assert (found.measured, found.measured_low_dbfs, found.measured_high_dbfs) == (True, -50.0, -30.0)
    assert found.model_dump(mode="json") == stored
