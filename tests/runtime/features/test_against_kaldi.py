"""kaldi-native-fbank, and Kaldi's formulas in float64, are the references of the Kaldi filter bank and pre-emphasis."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeasd.runtime.features.logmel import FeatureSettings, hz_to_mel, logmel, mel_filter_bank, mel_to_hz

KALDI = FeatureSettings(
    sample_rate=32_000,
    n_fft=1024,
    hop_length=320,
    n_mels=64,
    f_min=20.0,
    f_max=15_000.0,
    # Kaldi's own: the smallest step of float32 at 1
    log_floor=float(np.finfo(np.float32).eps),
    window="hann_symmetric",
    window_length=800,
    preemphasis=0.97,
    spectrum="power",
    mel_scale="kaldi",
    mel_norm="none",
    logarithm="ln",
)
SILENT_BEFORE = (KALDI.n_fft - 800) // 2
"""Samples of a frame of ours before its window; Kaldi's frames start with the window and have their zeros at the end."""


def sound(seed: int = 0, samples: int = 32_000) -> np.ndarray:
    time = np.arange(samples) / 32_000
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.1 * noise + 0.2 * np.sin(2 * np.pi * 997 * time) + 0.05).astype(np.float32)


def kaldi_bank(settings: FeatureSettings) -> np.ndarray:
    """Kaldi's MelBanks::MelBanks (feat/mel-computations.cc), band by band and bin by bin, in float64."""

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    low, step = mel(settings.f_min), (mel(settings.f_max) - mel(settings.f_min)) / (settings.n_mels + 1)
    weights = np.zeros((settings.n_mels, 1 + settings.n_fft // 2))
    for band in range(settings.n_mels):
        left, centre, right = (low + (band + i) * step for i in range(3))
        for index in range(settings.n_fft // 2):
            at = mel(index * settings.sample_rate / settings.n_fft)
            if left < at < right:
                weights[band, index] = (at - left) / step if at <= centre else (right - at) / step
    return weights


@pytest.mark.parametrize(
    "change",
    [{}, {"n_mels": 128, "f_min": 0.0}, {"f_max": 16_000.0}, {"sample_rate": 16_000, "f_max": 7600.0}],
    ids=str,
)
def test_the_kaldi_bank_is_kaldis(change: dict[str, float]) -> None:
    settings = KALDI.model_copy(update=change)
    found = mel_filter_bank(
        settings.sample_rate, settings.n_fft, settings.n_mels, settings.f_min, settings.f_max, "kaldi", "none"
    )
    np.testing.assert_allclose(found, kaldi_bank(settings), rtol=0, atol=1e-7)


def test_the_scales_of_htk_and_kaldi_differ_by_rounding() -> None:
    hz = np.linspace(0, 24_000, 1001)
    np.testing.assert_allclose(hz_to_mel(hz, "htk"), hz_to_mel(hz, "kaldi"), rtol=1e-5)
    for scale in ("htk", "kaldi"):
        np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz, rtol=1e-12, atol=1e-9)


def test_frames_are_those_of_kaldi_native_fbank() -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    frame = options.frame_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = 32_000, 25.0, 10.0
    # "hanning" is Kaldi's own, symmetric; "hann" was added for librosa, periodic
    frame.window_type, frame.preemph_coeff, frame.dither = "hanning", 0.97, 0.0
    frame.remove_dc_offset, frame.snip_edges, frame.round_to_power_of_two = False, True, True
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = 64, 20.0, 15_000.0
    options.use_energy, options.use_log_fbank, options.use_power = False, True, True
    computer = knf.OnlineFbank(options)
    samples = sound()
    computer.accept_waveform(32_000, samples[SILENT_BEFORE:].tolist())
    expected = np.array([computer.get_frame(t) for t in range(computer.num_frames_ready)])
    found = logmel(samples, KALDI)
    assert len(found) > 90
    # float32 throughout on their side
    np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=2e-3)
    assert np.median(np.abs(found - expected[: len(found)])) < 2e-5


def test_frames_are_kaldis_formulas_in_float64() -> None:
    samples, bank = sound(1), kaldi_bank(KALDI)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / 799) for i in range(800)]
    expected = []
    for start in range(SILENT_BEFORE, len(samples) - KALDI.n_fft + SILENT_BEFORE + 1, 320):
        x = samples[start : start + 800].astype(np.float64)
        # Preemphasize() of feat/feature-window.cc: from the end, the first sample by itself
        y = x.copy()
        y[1:] -= 0.97 * x[:-1]
        y[0] -= 0.97 * x[0]
        power = np.abs(np.fft.rfft(y * hann, 1024)) ** 2
        expected.append(np.log(np.maximum(bank @ power, KALDI.log_floor)))
    np.testing.assert_allclose(logmel(samples, KALDI), expected, rtol=0, atol=2e-6)
