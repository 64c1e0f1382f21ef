"""The arithmetic of quantisation: nothing clipped, nothing divided by zero, no step too many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.calibration.quantization.scales import (
    SMALLEST_HALF_SCALE,
    asymmetric,
    quantise_bias,
    quantise_weights,
    symmetric,
)

pytestmark = pytest.mark.core

finite = st.floats(-6e4, 6e4, width=32)


@given(finite, finite)
def test_a_symmetric_range_is_covered_and_hardly_widened(one: float, two: float) -> None:
    low, high = min(one, two), max(one, two)
    found = symmetric(low, high)
    reach = 127.0 * float(found.scale)
    assert (found.scale.dtype, found.zero.dtype, int(found.zero)) == (np.float16, np.int8, 0)
    assert reach >= max(abs(low), abs(high))
    largest = max(abs(low), abs(high), 127 * SMALLEST_HALF_SCALE)
    assert reach <= largest * (1.07 if largest < 127 * 2.0**-14 else 1.002)


@given(finite, finite)
def test_an_asymmetric_range_is_covered_and_holds_zero(one: float, two: float) -> None:
    low, high = min(one, two), max(one, two)
    found = asymmetric(low, high)
    scale, zero = float(found.scale), int(found.zero)
    assert (found.scale.dtype, found.zero.dtype) == (np.float32, np.uint8)
    assert scale > 0
    assert (0 - zero) * scale <= min(low, 0.0) + 0.5001 * scale
    assert (255 - zero) * scale >= max(high, 0.0) - 0.5001 * scale


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_weights_come_back_within_half_a_step(kind: str) -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (5, 4, 3, 3)).astype(np.float32)
    weight *= np.array([1, 10, 1e-2, 1e-3, 0], np.float32).reshape(-1, 1, 1, 1)
    steps, scale = quantise_weights(weight, kind)
    assert (steps.dtype, scale.dtype, scale.shape) == (np.int8, np.dtype(kind), (5,))
    back = steps * scale.astype(np.float64).reshape(-1, 1, 1, 1)
    assert (np.abs(back - weight) <= 0.5001 * scale.astype(np.float64).reshape(-1, 1, 1, 1)).all()
    assert (np.abs(steps).max(axis=(1, 2, 3))[:3] >= 126).all(), "each channel uses its whole range"
    assert scale[4] == scale.max(), "a dead channel takes its loudest neighbour's scale"
    assert not steps[4].any()


def test_a_layer_of_zeros_has_positive_scales() -> None:
    for kind in ("float16", "float32"):
        steps, scale = quantise_weights(np.zeros((3, 2, 1, 1), np.float32), kind)
        assert (scale > 0).all()
        assert not steps.any()


@given(st.floats(1e-12, 1e3), st.floats(-1e3, 1e3), st.floats(1e-6, 1e2))
def test_a_bias_fits_whatever_the_weights(largest: float, bias: float, input_scale: float) -> None:
    """A channel of next to no weights and an ordinary bias: steps of their product would not fit int32."""
    weight = np.full((1, 1, 1, 1), largest, np.float32)
    biases = np.array([bias], np.float32)
    _, scale = quantise_weights(weight, "float32", biases, input_scale)
    steps, bias_scale = quantise_bias(biases, input_scale, scale)
    assert steps.dtype == np.int32
    assert abs(int(steps[0])) <= 1.001 * 2**30
    back = float(steps[0]) * float(bias_scale[0])
    assert abs(back - float(biases[0])) <= 0.51 * float(bias_scale[0]) + 1e-6 * abs(bias)
