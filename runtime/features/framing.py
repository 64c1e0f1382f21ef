"""Cuts samples into overlapping normalised frames, for a front end that computes log-mel as a graph."""

from __future__ import annotations

import numpy as np

from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, Float32Array, check_samples

_BLOCK = 1 << 16
"""Samples normalised at once, so that an hour of sound is not held in float64."""


def normalise(samples: Float32Array, amplitude: Amplitude) -> Float32Array:
    """(x − mean) / std of samples (n,) float32, as (n,) float32. The same however the samples are cut."""
    normalised = np.empty(samples.shape, np.float32)
    for start in range(0, samples.size, _BLOCK):
        # In float64, as in `logmel`: a mean subtracted in float32 leaves noise in empty bands.
        block = samples[start : start + _BLOCK].astype(np.float64)
        block -= amplitude.mean
        block /= amplitude.std
        normalised[start : start + _BLOCK] = block
    return normalised


def frames_of(normalised: Float32Array, settings: FeatureSettings) -> Float32Array:
    """Frames (..., T, n_fft) float32 of normalised samples (..., n): a view, in which frames overlap.

    T = settings.frame_count(n).
    """
    count = settings.frame_count(normalised.shape[-1])
    if count == 0:
        return np.empty((*normalised.shape[:-1], 0, settings.n_fft), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(normalised, settings.n_fft, axis=-1)
    return windows[..., :: settings.hop_length, :][..., :count, :]


def frame_samples(samples: Float32Array, settings: FeatureSettings, amplitude: Amplitude) -> Float32Array:
    """Normalised frames (T, n_fft) float32 of samples (n,) float32: frame t is (x − mean) / std of [hop t, hop t + n_fft).

    T = settings.frame_count(n). A view into one array of n values, in which frames overlap. Raises InputError for another dtype or shape and for NaN or infinities.
    """
    check_samples(samples, 0, settings.sample_rate)
    return frames_of(normalise(samples, amplitude), settings)
