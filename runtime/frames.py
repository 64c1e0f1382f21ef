"""Samples cut into overlapping frames, for a front end that does the rest elsewhere."""

from __future__ import annotations

import numpy as np

from edgeasd.runtime.logmel import Amplitude, FeatureSettings, Float32Array, check_samples


def frame_samples(samples: Float32Array, settings: FeatureSettings, amplitude: Amplitude) -> Float32Array:
    """Normalised frames (T, n_fft) float32 of samples (n,) float32: frame t is (x − mean) / std of [hop t, hop t + n_fft).

    T = settings.frame_count(n). A view into one array of n values: frames overlap and are copied by whoever needs
    them apart. Raises InputError for another dtype or shape and for NaN or infinities.
    """
    check_samples(samples, 0, settings.sample_rate)
    # In float64, as in `logmel`: a mean subtracted in float32 leaves noise where sound leaves nothing.
    normalised = ((samples.astype(np.float64) - amplitude.mean) / amplitude.std).astype(np.float32)
    count = settings.frame_count(samples.size)
    if count == 0:
        return np.empty((0, settings.n_fft), np.float32)
    return np.lib.stride_tricks.sliding_window_view(normalised, settings.n_fft)[:: settings.hop_length][:count]
