"""The sound profile of recordings: what moves its offset, what moves its shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeasd.calibration.fit.levels import clip_levels
from edgeasd.calibration.fit.profile import ClipSound, clip_sound, mode_of, mode_profiles, sound_profile
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel

pytestmark = pytest.mark.core

RATE, FEATURES = 16_000, FeatureSettings()


def clip(seed: int, gain: float = 1.0, colour: float = 0.0, std: float = 0.05, seconds: float = 10.0) -> ClipSound:
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE) + 1)
    sound = (0.05 * gain * (noise[1:] + colour * noise[:-1])).astype(np.float32)
    amplitude = Amplitude(mean=0.0, std=std)
    return clip_sound(logmel(sound, FEATURES, amplitude), clip_levels(sound, RATE), FEATURES, amplitude)


def test_less_than_a_minute_gives_no_profile() -> None:
    assert sound_profile([clip(seed) for seed in range(5)]) is None
    assert sound_profile([]) is None


def test_a_gain_moves_the_offset_and_not_the_distance() -> None:
    profile = sound_profile([clip(seed) for seed in range(12)])
    assert profile is not None
    assert profile.level_dbfs == pytest.approx((-26.0, -26.0), abs=0.2)
    for gain_db in (-12.0, -6.0, 0.0, 6.0):
        offset, distance = profile.compare(clip(100, 10 ** (gain_db / 20)).spectra[0])
        assert offset == pytest.approx(gain_db, abs=0.3)
        assert profile.fits(distance)


def test_another_colour_moves_the_distance() -> None:
    profile = sound_profile([clip(seed) for seed in range(12)])
    assert profile is not None
    assert not profile.fits(profile.compare(clip(100, colour=0.9).spectra[0])[1])


def test_the_profile_does_not_depend_on_the_amplitude() -> None:
    one, other = (sound_profile([clip(seed, std=std) for seed in range(6)]) for std in (0.05, 0.5))
    assert one is not None
    assert other is not None
    assert np.allclose(one.mean_db, other.mean_db, atol=0.02)


def test_long_clips_are_taken_in_spans_of_ten_seconds() -> None:
    assert clip(0, seconds=61.0).spectra.shape == (6, 128)


def test_names_say_the_mode() -> None:
    assert mode_of(Path("a/normal/clip_fast_000001.flac")) == "fast"
    assert mode_of(Path("a/mode_slow-2/x.wav")) == "slow-2"
    assert mode_of(Path("a/normal/clip_000001.flac")) is None
    sounds = [clip(seed) for seed in range(6)]
    assert set(mode_profiles({"fast": sounds, "slow": sounds[:2], None: sounds})) == {"fast"}
