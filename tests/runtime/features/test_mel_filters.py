"""The filter bank: triangles of unit area on Slaney's scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.features.logmel import hz_to_mel, mel_filter_bank, mel_to_hz

pytestmark = pytest.mark.core


@given(st.floats(0, 96_000))
def test_hertz_to_mel_and_back(hz: float) -> None:
    assert mel_to_hz(hz_to_mel(hz)) == pytest.approx(hz, rel=1e-12, abs=1e-9)


def test_the_scale_is_linear_to_1_khz_and_logarithmic_above() -> None:
    # Slaney's Auditory Toolbox: 15 mels at 1 kHz, 27 more for each factor of 6.4
    np.testing.assert_allclose(hz_to_mel([0, 200, 1000, 6400, 6400 * 6.4]), [0, 3, 15, 42, 69], rtol=1e-12)


def test_shape_and_type() -> None:
    bank = mel_filter_bank(16_000, 1024, 128, 50.0, 8000.0)
    assert bank.shape == (128, 513)
    assert bank.dtype == np.float32
    assert (bank >= 0).all()


def test_every_band_of_the_default_bank_hears_something() -> None:
    assert (mel_filter_bank(16_000, 1024, 128, 50.0, 8000.0).max(axis=1) > 0).all()


def test_nothing_outside_the_outer_edges_is_heard() -> None:
    bank = mel_filter_bank(16_000, 1024, 40, 300.0, 3400.0)
    hz = np.linspace(0, 8000, 513)
    assert (bank[:, (hz <= 300) | (hz >= 3400)] == 0).all()
    assert (bank[:, (hz > 320) & (hz < 3300)].sum(axis=0) > 0).all()


def test_each_triangle_has_unit_area() -> None:
    # a fine grid, so that the sum over bins is close to the integral
    bank = mel_filter_bank(16_000, 1 << 15, 64, 50.0, 8000.0).astype(np.float64)
    area = bank.sum(axis=1) * 16_000 / (1 << 15)
    np.testing.assert_allclose(area, 1.0, rtol=2e-3)


def test_bands_rise_in_frequency_and_overlap_by_half() -> None:
    bank = mel_filter_bank(16_000, 1 << 14, 32, 50.0, 8000.0)
    peaks = bank.argmax(axis=1)
    assert (np.diff(peaks) > 0).all()
    # where one triangle peaks its neighbours are zero: their edges are its centre
    for band in range(1, 31):
        around = bank[band - 1 : band + 2 : 2, peaks[band]]
        assert (around < 0.05 * bank[band, peaks[band]]).all()
