"""Each way in which an input goes bad is seen, named and timed; good sound is healthy."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.health import STATES, HealthChange, HealthMonitor, HealthSettings, LevelRange

pytestmark = pytest.mark.core

RATE = 16_000
LEVEL = LevelRange(low_dbfs=-46.0, high_dbfs=-6.0)
Sound = np.ndarray


def noise(seconds: float, level: float = 0.05, seed: int = 0) -> Sound:
    """White noise of that RMS, as a 16-bit converter delivers it."""
    x = level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (np.clip(np.round(x * 32768), -32768, 32767) / 32768).astype(np.float32)


def judged(*parts: Sound, level: LevelRange | None = LEVEL, **changed: object) -> list[HealthChange]:
    return HealthMonitor(HealthSettings(**changed), RATE, level).push(np.concatenate(parts))  # type: ignore[arg-type]


def timeline(changes: list[HealthChange], state: str) -> list[tuple[bool, float]]:
    return [(change.active, round(change.since_seconds, 3)) for change in changes if change.state == state]


def test_noise_is_healthy_and_the_report_says_its_level() -> None:
    monitor = HealthMonitor(HealthSettings(), RATE, LEVEL)
    assert monitor.push(noise(30)) == []
    report = monitor.report()
    assert not report.is_unhealthy
    assert report.active == ()
    assert report.level_dbfs == pytest.approx(20 * np.log10(0.05), abs=0.1)
    assert report.at_seconds == 30.0
    assert tuple(report.states) == STATES


def test_nothing_is_claimed_before_there_is_a_figure() -> None:
    report = HealthMonitor(HealthSettings(), RATE, LEVEL).report()
    assert report.level_dbfs is None
    assert all(state.value is None and not state.active for state in report.states.values())


def test_digital_silence_begins_and_ends() -> None:
    changes = judged(noise(20), np.zeros(5 * RATE, np.float32), noise(20), level=None)
    assert [(c.state, c.active, c.since_seconds, c.at_seconds, c.is_unhealthy) for c in changes] == [
        ("digital_silence", True, 20.0, 21.0, True),
        ("digital_silence", False, 25.0, 26.0, False),
    ]


def test_converter_noise_alone_is_silence() -> None:
    changes = judged(noise(12), noise(30, level=2e-5), noise(12), level=None)
    assert timeline(changes, "silence") == [(True, 12.0), (False, 42.0)]
    assert timeline(changes, "digital_silence") == []


def test_a_pause_shorter_than_the_hold_time_is_no_silence() -> None:
    assert judged(noise(12), noise(9, level=2e-5), noise(12), level=None) == []


def test_clipped_sound_is_seen_and_a_single_knock_is_not() -> None:
    loud = np.clip(noise(20, level=0.3) * 3, -1, 32767 / 32768).astype(np.float32)
    assert timeline(judged(noise(20), loud, noise(40), level=None), "clipping") == [(True, 20.0), (False, 49.8)]
    knocked = noise(30)
    knocked[RATE : RATE + 100] = 32767 / 32768
    assert judged(knocked, level=None) == []


def test_an_offset_is_seen_whatever_the_sound_on_it() -> None:
    for level in (0.05, 1e-4):
        changes = judged(noise(30, level) + np.float32(0.1), level=None)
        assert timeline(changes, "dc_offset") == [(True, 9.8)], level


@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_is_stuck_and_not_silent(sign: int) -> None:
    changes = judged(noise(20), np.full(20 * RATE, sign * 0.01, np.float32), noise(20), level=None)
    assert timeline(changes, "stuck") == [(True, 20.0), (False, 40.0)]
    assert {change.state for change in changes} == {"stuck"}


@pytest.mark.parametrize("block", [64, 512, 1000, 1024, 4800, 8000])
def test_a_buffer_that_comes_again_and_again_is_stuck(block: int) -> None:
    repeated = np.tile(noise(1, seed=5)[:block], 10 * RATE // block + 1)[: 10 * RATE]
    monitor = HealthMonitor(HealthSettings(), RATE)
    (begun,) = monitor.push(np.concatenate([noise(20), repeated]))
    assert (begun.state, begun.active, begun.value) == ("stuck", True, block)
    assert 20 <= begun.since_seconds <= 22
    assert begun.at_seconds <= 24
    (ended,) = monitor.push(noise(5, seed=6))
    assert (ended.state, ended.active) == ("stuck", False)


def holes(sound: Sound, at: list[float], length: int = 160) -> Sound:
    for second in at:
        start = round(second * RATE)
        sound[start : start + length] = 0
    return sound


def test_zero_filled_buffers_are_dropouts_for_a_minute() -> None:
    changes = judged(holes(noise(90), [5.0, 6.31, 8.0]), level=None)
    assert timeline(changes, "dropouts") == [(True, 8.0), (False, 68.0)]


def test_three_gaps_a_minute_are_dropouts_two_holes_not() -> None:
    assert judged(holes(noise(80), [5.0, 6.0]), level=None) == []
    monitor = HealthMonitor(HealthSettings(), RATE)
    for _ in range(3):
        assert monitor.push(noise(1)) == []
        monitor.gap(1600)
    assert [c.state for c in monitor.push(noise(1))] == ["dropouts"]
    assert monitor.report().at_seconds == pytest.approx(4.3)


def test_sound_that_fades_to_nothing_and_back_has_no_holes() -> None:
    fade = np.abs(np.sin(np.linspace(0, 40 * np.pi, 60 * RATE))) ** 3
    faded = (np.round(noise(60) * fade * 32768) / 32768).astype(np.float32)
    assert np.count_nonzero(np.convolve(faded == 0, np.ones(64), "valid") == 64), (
        "there are runs of zeros to tell apart"
    )
    assert judged(faded, level=None) == []


@pytest.mark.parametrize(("level", "state"), [(0.0005, "level_low"), (0.9, "level_high")])
def test_a_level_far_from_training_begins_after_ten_seconds(level: float, state: str) -> None:
    unclipped = noise(40, level)
    changes = judged(noise(20), unclipped, noise(40), clipping={"enabled": False})
    assert [(c.state, c.active) for c in changes] == [(state, True), (state, False)]
    assert changes[0].is_unhealthy
    assert not changes[1].is_unhealthy


def test_without_a_range_no_level_is_judged() -> None:
    assert judged(noise(60, 0.0005), level=None) == []


def test_a_state_can_be_off_or_leave_the_input_healthy() -> None:
    silence = np.zeros(5 * RATE, np.float32)
    assert judged(silence, level=None, digital_silence={"enabled": False}) == []
    (change,) = judged(silence, level=None, unhealthy=["clipping"])
    assert (change.state, change.is_unhealthy) == ("digital_silence", False)


def test_reset_forgets_everything() -> None:
    monitor = HealthMonitor(HealthSettings(), RATE, LEVEL)
    fresh = monitor.report()
    monitor.push(np.zeros(5 * RATE, np.float32))
    assert monitor.is_unhealthy
    monitor.reset()
    assert monitor.report() == fresh


def test_reports_and_changes_are_json_without_nan() -> None:
    monitor = HealthMonitor(HealthSettings(), RATE, LEVEL)
    changes = monitor.push(np.zeros(30 * RATE, np.float32))
    assert changes
    for thing in (monitor.report(), *changes):
        value = json.loads(json.dumps(thing.to_json(), allow_nan=False))
        assert value["schema"] == 1
    assert monitor.report().to_json()["states"]["digital_silence"]["active"] is True


def test_bad_samples_are_refused_and_change_nothing() -> None:
    monitor = HealthMonitor(HealthSettings(), RATE)
    before = monitor.report()
    for bad in (np.full(10, np.nan, np.float32), np.zeros(10), np.zeros((2, 5), np.float32)):
        with pytest.raises(InputError):
            monitor.push(bad)
    assert monitor.report() == before
    with pytest.raises(InputError, match="100 Hz"):
        HealthMonitor(HealthSettings(), 100)
    with pytest.raises(InputError, match="-1 samples"):
        monitor.gap(-1)


# However the sound is cut

TROUBLE: dict[str, Callable[[], Sound]] = {
    "noise": lambda: noise(3.1),
    "zeros": lambda: np.zeros(round(2.37 * RATE), np.float32),
    "constant": lambda: np.full(round(3.3 * RATE), 0.02, np.float32),
    "repeated": lambda: np.tile(noise(0.05, seed=3), 70),
    "holes": lambda: holes(noise(3), [0.4, 0.999, 1.5, 2.0]),
    "quiet": lambda: noise(11, level=2e-5),
    "clipped": lambda: np.clip(noise(4, level=0.5) * 3, -1, 32767 / 32768).astype(np.float32),
}


def states_of(monitor: HealthMonitor, sound: Sound, cuts: list[int]) -> list[HealthChange]:
    edges = [0, *sorted(cuts), sound.size]
    return [c for a, b in pairwise(edges) for c in monitor.push(sound[a:b])]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(TROUBLE)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.booleans(),
)
def test_states_do_not_depend_on_how_the_sound_is_cut(kinds: list[str], seed: int, cuts: int, gap: bool) -> None:
    sound = np.concatenate([TROUBLE[kind]() for kind in kinds])
    rng = np.random.default_rng(seed)
    whole, cut = (HealthMonitor(HealthSettings(), RATE, LEVEL) for _ in range(2))
    first = sound.size // 2 if gap else sound.size
    for part in (sound[:first], sound[first:]):
        points = [int(c) for c in rng.integers(0, part.size + 1, cuts)]
        assert states_of(cut, part, points) == whole.push(part)
        assert cut.report() == whole.report()
        whole.gap(77)
        cut.gap(77)


@pytest.mark.parametrize("size", [17, 50, 3199, 3201, 16_001])
def test_states_are_the_same_in_blocks_of_any_one_size(size: int) -> None:
    sound = np.concatenate([noise(1.7), *(TROUBLE[kind]() for kind in ("repeated", "holes", "constant")), noise(5)])
    whole, cut = (HealthMonitor(HealthSettings(), RATE, LEVEL) for _ in range(2))
    assert states_of(cut, sound, list(range(size, sound.size, size))) == whole.push(sound)
    assert cut.report() == whole.report()


def test_memory_does_not_grow() -> None:
    import pickle

    monitor = HealthMonitor(HealthSettings(), RATE, LEVEL)
    sound = noise(1)
    sizes = []
    for _ in range(3):
        for _ in range(70):
            monitor.push(sound)
        sizes.append(len(pickle.dumps(monitor)))
    assert max(sizes[1:]) - min(sizes[1:]) < 500


def test_clips_of_a_real_machine_are_healthy(shared_data: Path) -> None:
    monitor = HealthMonitor(HealthSettings(), RATE, LevelRange(low_dbfs=-48.5, high_dbfs=-8.5))
    files = sorted((shared_data / "dcase2023_toycar").rglob("*.flac"))[::12]
    assert len(files) > 5
    for path in files:
        sound, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
        assert monitor.push(sound) == [], path.name


# Before a state is known


def suspect_spans(
    *parts: Sound, level: LevelRange | None = LEVEL, settings: HealthSettings = HealthSettings()
) -> list[tuple[bool, float, bool]]:
    """(suspect, seconds of sound, sick) wherever `suspect` changes, looked at every 0.2 s."""
    monitor = HealthMonitor(settings, RATE, level)
    sound, was, found = np.concatenate(parts), False, []
    for at in range(0, len(sound), RATE // 5):
        monitor.push(sound[at : at + RATE // 5])
        if monitor.is_suspect != was:
            was = monitor.is_suspect
            found.append((was, round(monitor.at_seconds, 3), monitor.is_unhealthy))
    return found


def test_healthy_sound_is_never_suspect() -> None:
    assert suspect_spans(noise(30)) == []


def test_silence_is_suspect_from_its_first_window() -> None:
    quiet = noise(4, level=10 ** (-85 / 20))
    assert suspect_spans(noise(20), quiet, noise(5), level=None) == [(True, 20.2, False), (False, 24.2, False)]
    assert suspect_spans(noise(20), noise(12, level=10 ** (-85 / 20)), level=None) == [
        (True, 20.2, False),
        (False, 30.0, True),
    ]


@pytest.mark.parametrize("gain", [10 ** (-30 / 20), 4.0])
def test_a_level_out_of_range_is_suspect_within_a_second(gain: float) -> None:
    level = LevelRange(low_dbfs=-46.0, high_dbfs=-16.0)
    (begun, *_) = suspect_spans(noise(20), noise(5, level=0.05 * gain), level=level)
    assert begun[0]
    assert 20.2 <= begun[1] <= 21.0
    assert not begun[2]


def test_what_makes_no_input_sick_makes_none_suspect() -> None:
    low = noise(9, level=10 ** (-85 / 20))
    assert suspect_spans(noise(20), low, settings=HealthSettings(unhealthy=("clipping",))) == []
    off = HealthSettings.parse({"silence": {"enabled": False}, "level": {"enabled": False}}, "test")
    assert suspect_spans(noise(20), low, settings=off) == []
