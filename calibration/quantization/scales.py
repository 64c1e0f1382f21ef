"""Scales and zero points, and weights in eight bits: the arithmetic of quantisation.

Real value = scale * (integer - zero point), as QuantizeLinear of ONNX defines it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.features.logmel import Float32Array

_FLOATS: dict[str, Any] = {"float16": np.float16, "float32": np.float32}

SMALLEST_HALF_SCALE = 2.0**-20
"""A float16 scale below 2⁻¹⁴ loses digits one by one; here it has four bits left, and below it none worth having."""
SMALLEST_SCALE = 2.0**-100
_LARGEST_BIAS = 2.0**30
"""In steps. Half of int32: the convolution adds its products to the bias in int32 too."""


@dataclass(frozen=True)
class Quantisation:
    """Of one activation: a positive scale and a zero point, with the types the graph stores them in."""

    scale: np.ndarray
    """() float16 or float32."""
    zero: np.ndarray
    """() int8, always 0, or uint8."""


def symmetric(low: float, high: float) -> Quantisation:
    """int8 with zero point 0 and a float16 scale over the range low..high, for TensorRT."""
    return Quantisation(_rounded_up(np.array(max(abs(low), abs(high)) / 127.0), "float16"), np.array(0, np.int8))


def asymmetric(low: float, high: float) -> Quantisation:
    """uint8 with a float32 scale over low..high, widened to hold zero exactly, for ONNX Runtime."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _rounded_up(np.array((high - low) / 255.0), "float32")
    return Quantisation(scale, np.array(np.clip(np.rint(-low / float(scale)), 0, 255), np.uint8))


def _rounded_up(exact: npt.NDArray[np.float64], kind: str) -> np.ndarray:
    """`exact` in another type and never smaller, so that nothing at the edge of a range is cut off; positive."""
    smallest = SMALLEST_HALF_SCALE if kind == "float16" else SMALLEST_SCALE
    limited = np.clip(exact, smallest, float(np.finfo(_FLOATS[kind]).max))
    rounded = limited.astype(_FLOATS[kind])
    return np.asarray(np.where(rounded < limited, np.nextafter(rounded, _FLOATS[kind](np.inf)), rounded), _FLOATS[kind])


def quantise_weights(
    weight: Float32Array, kind: str, bias: Float32Array | None = None, input_scale: float | None = None
) -> tuple[npt.NDArray[np.int8], np.ndarray]:
    """int8 weights in -127..127 and one scale for each output channel (axis 0), of type `kind`.

    A dead channel, all zeros, takes the largest scale of its layer: any positive number would do, and
    that one is as harmless as its neighbours. With `bias` and `input_scale` a channel's scale is made
    large enough for its bias to fit int32 in steps of input_scale * scale: a channel of next to no
    weights with an ordinary bias would not.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64) / 127.0
    largest = np.where(largest > 0.0, largest, max(float(largest.max()), 0.0) or 1.0)
    if bias is not None and input_scale is not None:
        largest = np.maximum(largest, np.abs(bias.astype(np.float64)) / (input_scale * _LARGEST_BIAS))
    scale = _rounded_up(largest, kind)
    steps = weight.astype(np.float64) / scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scale


def quantise_bias(bias: Float32Array, input_scale: float, weight_scale: Float32Array) -> tuple[np.ndarray, np.ndarray]:
    """int32 bias and its scale, input_scale * weight_scale (channels,) float32, as integer convolutions add it."""
    scale = (np.float32(input_scale) * weight_scale).astype(np.float32)
    scale = np.maximum(scale, np.float32(SMALLEST_SCALE))
    steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
    info = np.iinfo(np.int32)
    return np.clip(steps, info.min, info.max).astype(np.int32), scale
