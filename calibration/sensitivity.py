"""What each layer costs alone: the order in which layers go back to higher precision."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx

from edgeasd.calibration.candidate import candidate_engine, embed
from edgeasd.calibration.encoder_parts import prepare
from edgeasd.calibration.layers import decibels
from edgeasd.calibration.placement import Target, quantised_edges
from edgeasd.runtime.logmel import Float32Array

Build = Callable[[Collection[str]], onnx.ModelProto]
"""From the names of the layers to keep to a graph."""


def quantised_layers(encoder: onnx.ModelProto, target: Target) -> list[str]:
    """Names of the nodes of the prepared `encoder` that read something in eight bits, in the order in which they run."""
    return list(dict.fromkeys(edge.node for edge in quantised_edges(prepare(encoder), target)))


def embedding(model: onnx.ModelProto, precision: str, segments: Float32Array, threads: int | None) -> Float32Array:
    """z (N, D) of segments (N, frames, n_mels)."""
    engine = candidate_engine(model, precision, threads)
    try:
        return embed(engine, segments)
    finally:
        engine.close()


def layer_sensitivity(
    layer: str,
    layers: Collection[str],
    build: Build,
    precision: str,
    segments: Float32Array,
    exact: Float32Array,
    *,
    threads: int | None = None,
) -> float:
    """Signal-to-noise ratio of the embedding in dB with `layer` alone in eight bits and all other `layers` kept.

    10 log10(Σ z² / Σ (z' − z)²) over `segments`; `exact` is z of fp32 for them. The noises of layers
    nearly add up, so the lowest ratio is the most harmful layer. On the embedding and not on the scores: a few
    segments tell it, where scores of normal clips take hundreds.
    """
    found = embedding(build([one for one in layers if one != layer]), precision, segments, threads)
    signal = float(np.sum(np.square(exact, dtype=np.float64)))
    noise = float(np.sum(np.square(found.astype(np.float64) - exact)))
    return decibels(signal, noise)
