"""The front ends of pretrained encoders are the published ones: frames agree, shifted, with a float64 transcription."""

from __future__ import annotations

import numpy as np
import pytest

from edgeasd.runtime.features.logmel import Float32Array, LogMelStream, logmel
from edgeasd.toolkit.models.front_ends import EFFICIENTAT, PANNS

torch = pytest.importorskip("torch")
librosa = pytest.importorskip("librosa")

SKIPPED = 128
"""Samples left out so that our frames lie on the grid of centred ones: n_fft / 2 + 128 are two hops."""


def sound(kind: str, seconds: float = 2.0) -> Float32Array:
    rng, time = np.random.default_rng(5), np.arange(int(32_000 * seconds)) / 32_000
    noise = rng.standard_normal(time.size)
    made = {
        "noise": 0.1 * noise,
        "quiet noise": 1e-4 * noise,
        "machine": 0.05 * np.sign(np.sin(2 * np.pi * 49.7 * time)) + 0.01 * noise,
        "clicks": np.where(np.arange(time.size) % 4801 == 0, 0.9, 0.0),
        "offset": 0.2 + 0.001 * noise,
        "silence": np.zeros(time.size),
    }[kind]
    return made.astype(np.float32)


KINDS = ["noise", "quiet noise", "machine", "clicks", "offset", "silence"]


def kaldi_mel_banks() -> np.ndarray:
    """torchaudio.compliance.kaldi.get_mel_banks(128, 1024, 32000, 0, 15000), padded by the Nyquist bin, in float64."""

    def mel(hz: np.ndarray) -> np.ndarray:
        return np.asarray(1127.0 * np.log(1.0 + hz / 700.0))

    low, high = mel(np.array(0.0)), mel(np.array(15_000.0))
    step = (high - low) / 129
    band = np.arange(128)[:, None]
    left, centre, right = low + band * step, low + (band + 1.0) * step, low + (band + 2.0) * step
    bins = mel(32_000 / 1024 * np.arange(512))[None]
    up, down = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.pad(np.maximum(0.0, np.minimum(up, down)), ((0, 0), (0, 1)))


def efficientat(samples: Float32Array) -> np.ndarray:
    """`AugmentMelSTFT.forward` of EfficientAT in evaluation, with its operators, in float64: (T, 128)."""
    x = torch.from_numpy(samples.astype(np.float64))[None]
    x = torch.nn.functional.conv1d(x[:, None], torch.tensor([[[-0.97, 1.0]]], dtype=torch.float64))[:, 0]
    spectrum = torch.stft(
        x,
        1024,
        hop_length=320,
        win_length=800,
        center=True,
        normalized=False,
        window=torch.hann_window(800, periodic=False, dtype=torch.float64),
        return_complex=True,
    )
    power = spectrum.abs() ** 2
    mel = torch.from_numpy(kaldi_mel_banks()) @ power[0]
    return np.asarray((((mel + 1e-5).log() + 4.5) / 5.0).T)


def panns(samples: Float32Array) -> np.ndarray:
    """`Spectrogram` and `LogmelFilterBank` of torchlibrosa as PANNs set them, from librosa in float64: (T, 64)."""
    spectrum = librosa.stft(samples.astype(np.float64), n_fft=1024, hop_length=320, center=True, pad_mode="reflect")
    bank = librosa.filters.mel(sr=32_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000, dtype=np.float64)
    return np.asarray(10.0 * np.log10(np.maximum(1e-10, bank @ np.abs(spectrum) ** 2)).T)


def assert_interior_agrees(ours: Float32Array, theirs: np.ndarray, atol: float) -> None:
    interior = theirs[2:-2]
    assert len(interior) > 150
    np.testing.assert_allclose(ours[: len(interior)], interior, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_interior_frames_are_efficientats(kind: str) -> None:
    samples = sound(kind)
    # Their pre-emphasis gives one sample less: theirs at i is ours at i + 1.
    assert_interior_agrees(logmel(samples[SKIPPED + 1 :], EFFICIENTAT), efficientat(samples), 2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_interior_frames_are_panns(kind: str) -> None:
    samples = sound(kind)
    # In dB, around -100 to 50: float32 keeps steps of 4e-6 to 8e-6 there
    assert_interior_agrees(logmel(samples[SKIPPED:], PANNS), panns(samples), 5e-5)


@pytest.mark.parametrize("settings", [EFFICIENTAT, PANNS], ids=["efficientat", "panns"])
def test_cut_sound_gives_the_same_frames(settings: object) -> None:
    samples = sound("machine", 3.0)
    whole = logmel(samples, settings)  # type: ignore[arg-type]
    stream, parts, at = LogMelStream(settings), [], 0  # type: ignore[arg-type]
    for size in np.random.default_rng(1).integers(0, 3000, 200):
        parts.append(stream.push(samples[at : at + size]))
        at += int(size)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
