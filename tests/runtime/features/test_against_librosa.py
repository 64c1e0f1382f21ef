"""librosa is the reference of the features: within 5e-6 of it on any input."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.features.logmel import (
    Amplitude,
    FeatureSettings,
    LogMelStream,
    hz_to_mel,
    logmel,
    mel_filter_bank,
    mel_to_hz,
)

librosa = pytest.importorskip("librosa")

TIME = np.arange(32_000) / 16_000
RNG = np.random.default_rng(7)
AMPLITUDE = Amplitude(mean=0.0123, std=0.0371)


def reference(samples: np.ndarray, features: FeatureSettings, amplitude: Amplitude) -> np.ndarray:
    x = (samples.astype(np.float64) - amplitude.mean) / amplitude.std
    mel = librosa.feature.melspectrogram(
        y=x,
        sr=features.sample_rate,
        n_fft=features.n_fft,
        hop_length=features.hop_length,
        n_mels=features.n_mels,
        fmin=features.f_min,
        fmax=features.f_max,
        power=1.0,
        center=False,
        htk=False,
        norm="slaney",
    )
    return np.asarray(np.log10(np.maximum(1e-10, mel)).T)


FFT_ROUNDING = 1e-13
"""Of a magnitude, for sound of this amplitude."""


def reference_of_any(samples: np.ndarray, features: FeatureSettings, amplitude: Amplitude) -> np.ndarray:
    """What librosa's parts give in float64 for settings that its own log-mel has no names for."""
    x = (samples.astype(np.float64) - amplitude.mean) / amplitude.std
    if features.preemphasis:
        x = librosa.effects.preemphasis(x, coef=features.preemphasis)
    length = features.window_length or features.n_fft
    window = librosa.filters.get_window("hann", length, fftbins=features.window == "hann_periodic")
    spectrum = np.abs(
        librosa.stft(
            x, n_fft=features.n_fft, hop_length=features.hop_length, win_length=length, window=window, center=False
        )
    )
    bank = librosa.filters.mel(
        sr=features.sample_rate,
        n_fft=features.n_fft,
        n_mels=features.n_mels,
        fmin=features.f_min,
        fmax=features.f_max,
        htk=features.mel_scale == "htk",
        norm="slaney" if features.mel_norm == "slaney" else None,
        dtype=np.float64,
    )
    mel = bank @ (spectrum if features.spectrum == "magnitude" else spectrum**2)
    mel = mel + features.log_floor if features.floor_rule == "add" else np.maximum(mel, features.log_floor)
    log = np.log(mel) if features.logarithm == "ln" else np.log10(mel)
    return np.asarray(((log + features.offset) * features.scale).T)


def tone(hz: float, level: float) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * TIME)


def band(low: float, high: float) -> np.ndarray:
    """Noise with nothing at all outside [low, high] Hz, but for rounding to float32."""
    spectrum = np.fft.rfft(RNG.standard_normal(TIME.size))
    hz = np.fft.rfftfreq(TIME.size, 1 / 16_000)
    spectrum[(hz < low) | (hz > high)] = 0
    return np.asarray(0.1 * np.fft.irfft(spectrum, TIME.size))


SOUNDS = {
    "noise": 0.1 * RNG.standard_normal(TIME.size),
    "digital silence": np.zeros(TIME.size),
    "silence at the mean": np.full(TIME.size, AMPLITUDE.mean),
    "an offset": np.full(TIME.size, 0.5),
    "tone at a bin, full scale": tone(1000.0, 0.999),
    "tone between bins": tone(1007.7, 0.5),
    "quiet tone": tone(440.0, 1e-3),
    "very quiet tone": tone(3333.3, 1e-6),
    "tone at 16 bit resolution": np.round(tone(250.0, 0.7) * 32768) / 32768,
    "tone near Nyquist": tone(7990.0, 0.9),
    "tone below the bank": tone(20.0, 0.9),
    "sweep": 0.5 * np.sin(2 * np.pi * (50 * TIME + 1500 * TIME**2)),
    "low band only": band(100, 800),
    "narrow band": band(2000, 2050),
    "high band only": band(6000, 8000),
    "very quiet noise": 1e-8 * RNG.standard_normal(TIME.size),
    "clipped noise": np.clip(5 * RNG.standard_normal(TIME.size), -1, 0.99997),
    "far beyond full scale": 1e6 * RNG.standard_normal(TIME.size),
    "one click": np.eye(1, TIME.size, 9000)[0],
    "smallest step": np.where(np.arange(TIME.size) % 97 == 0, 2.0**-15, 0.0),
}


@pytest.mark.parametrize(
    "settings", [(16_000, 1024, 128, 50.0, 8000.0), (44_100, 2048, 64, 0.0, 16_000.0), (16_000, 512, 40, 300.0, 3400.0)]
)
def test_the_filter_bank_is_librosas(settings: tuple[int, int, int, float, float]) -> None:
    rate, n_fft, n_mels, f_min, f_max = settings
    expected = librosa.filters.mel(
        sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=f_min, fmax=f_max, htk=False, norm="slaney", dtype=np.float32
    )
    found = mel_filter_bank(*settings)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * expected.max())


def test_the_scale_is_librosas() -> None:
    hz = np.linspace(0, 24_000, 1001)
    np.testing.assert_allclose(hz_to_mel(hz), librosa.hz_to_mel(hz), rtol=1e-12)
    mel = np.linspace(0, 60, 1001)
    np.testing.assert_allclose(mel_to_hz(mel), librosa.mel_to_hz(mel), rtol=1e-12)


@pytest.mark.parametrize("amplitude", [AMPLITUDE, Amplitude(), Amplitude(mean=8e-5, std=0.0193)], ids=repr)
@pytest.mark.parametrize("name", SOUNDS)
def test_within_5e_6_of_librosa(name: str, amplitude: Amplitude) -> None:
    samples = SOUNDS[name].astype(np.float32)
    expected = reference(samples, FeatureSettings(), amplitude)
    found = logmel(samples, FeatureSettings(), amplitude)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 5e-6


def test_a_very_loud_tone_agrees_but_for_noise_at_the_floor() -> None:
    # Here the rounding of any float64 FFT, librosa's included, reaches the floor of 1e-10.
    amplitude = Amplitude(mean=8e-5, std=0.002)
    for name in ("tone at a bin, full scale", "tone between bins", "low band only"):
        samples = SOUNDS[name].astype(np.float32)
        expected = reference(samples, FeatureSettings(), amplitude)
        apart = np.abs(logmel(samples, FeatureSettings(), amplitude) - expected)
        assert apart.max() <= 5e-3, name
        assert apart[expected > -8].max() <= 5e-6, name


@pytest.mark.parametrize(
    "change", [{"n_fft": 2048, "hop_length": 441}, {"n_mels": 64, "f_min": 0.0}, {"f_max": 4000.0}], ids=str
)
def test_other_settings_are_librosas_too(change: dict[str, Any]) -> None:
    features = FeatureSettings(**change)
    samples = SOUNDS["noise"].astype(np.float32)
    assert np.abs(logmel(samples, features, AMPLITUDE) - reference(samples, features, AMPLITUDE)).max() <= 5e-6


GRID = [
    dict(zip(("spectrum", "mel_scale", "mel_norm", "logarithm", "floor_rule"), values))
    for values in itertools.product(
        ("magnitude", "power"), ("slaney", "htk"), ("slaney", "none"), ("log10", "ln"), ("clamp", "add")
    )
]
SHAPES: list[dict[str, Any]] = [
    {},
    {"window_length": 800, "window": "hann_symmetric", "preemphasis": 0.97, "offset": 4.5, "scale": 0.2},
    {"window_length": 641, "hop_length": 160, "preemphasis": 0.5, "log_floor": 1e-5, "scale": 10.0},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["plain", "short window", "odd window"])
@pytest.mark.parametrize("choice", GRID, ids=lambda choice: "-".join(choice.values()))
def test_every_choice_is_librosas(choice: dict[str, Any], shape: dict[str, Any]) -> None:
    features = FeatureSettings(**choice, **shape)
    # No pure tone, and silence is an offset here: the bands they leave empty hold the rounding of an FFT, which no two programs share.
    for name in ("noise", "very quiet noise", "sweep", "one click", "smallest step"):
        samples = SOUNDS[name].astype(np.float32)
        expected = reference_of_any(samples, features, AMPLITUDE)
        found = logmel(samples, features, AMPLITUDE)
        assert found.shape == expected.shape
        base = np.e if features.logarithm == "ln" else 10.0
        mel = base ** (expected / features.scale - features.offset)
        # Where an offset leaves a band empty the rounding of the FFT stands beside the floor.
        rounding = features.scale * FFT_ROUNDING / mel
        assert (np.abs(found - expected) <= 1e-5 * max(1.0, features.scale) + rounding).all(), name


@pytest.mark.shared_data
def test_real_clips_are_within_5e_6_of_librosa(shared_data: Path) -> None:
    clips = sorted((shared_data / "dcase2023_toycar").rglob("*.wav")) or sorted(
        (shared_data / "dcase2023_toycar").rglob("*.flac")
    )
    assert clips, "no clips in dcase2023_toycar"
    for clip in clips[:: max(1, len(clips) // 8)][:8]:
        samples = read_audio(clip, sample_rate=16_000)
        expected = reference(samples, FeatureSettings(), AMPLITUDE)
        assert np.abs(logmel(samples, FeatureSettings(), AMPLITUDE) - expected).max() <= 5e-6, clip.name
        stream = LogMelStream(FeatureSettings(), AMPLITUDE)
        cut = np.concatenate([stream.push(samples[at : at + 777]) for at in range(0, samples.size, 777)])
        assert np.abs(cut - expected).max() <= 5e-6, clip.name
