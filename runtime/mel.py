"""The mel filter bank: Slaney's scale and Slaney's area normalisation.

Same definition as `librosa.filters.mel(htk=False, norm="slaney")`: linear below 1 kHz,
logarithmic above (M. Slaney, Auditory Toolbox, 1998), triangles of area 2 / bandwidth.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Frequencies in Hz to Slaney mels, any shape, float64."""
    hz = np.asarray(hz, dtype=np.float64)
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ_PER_MEL, above)


def mel_to_hz(mel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Slaney mels to frequencies in Hz, any shape, float64."""
    mel = np.asarray(mel, dtype=np.float64)
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, above)


def mel_filter_bank(sample_rate: int, n_fft: int, n_mels: int, f_min: float, f_max: float) -> npt.NDArray[np.float32]:
    """Weights (n_mels, 1 + n_fft // 2), float32, from FFT magnitude to mel bands.

    `f_min` and `f_max` are the outer edges of the first and last triangle in Hz.
    """
    bins = np.linspace(0.0, sample_rate / 2.0, 1 + n_fft // 2)
    lowest, highest = hz_to_mel([f_min, f_max])
    edges = mel_to_hz(np.linspace(lowest, highest, n_mels + 2))
    widths = np.diff(edges)
    rising = (bins - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins) / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    # float32 before the norm, as librosa does: the two then agree to the last bit or nearly so
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
