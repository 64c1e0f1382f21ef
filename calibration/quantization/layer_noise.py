"""Runs variants of the encoder in ONNX Runtime and measures the noise that eight bits add to each layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
import onnx
from onnx import helper

from edgeasd.calibration.progress import ProgressCallback, no_progress
from edgeasd.calibration.quantization.encoder_parts import convolutions, prepare
from edgeasd.calibration.quantization.placement import Target, quantised_edges
from edgeasd.calibration.quantization.ranges import BATCH
from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine, make_session, optimisation_of
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array

LARGEST_DB = 150.0
"""Stands for no noise at all: float32 itself has about that."""
Build = Callable[[Collection[str]], onnx.ModelProto]
"""From the names of the layers to keep to a graph."""


def candidate_engine(model: onnx.ModelProto, precision: str, threads: int | None = None) -> OnnxRuntimeEngine:
    """`model` in ONNX Runtime on the CPU, optimised as far as its precision allows; close it after use.

    fp16 and int8 run as they are written, int8-cpu with all optimisation (runtime/engines/onnxruntime.py says
    why). Raises InputError if ONNX Runtime cannot load it.
    """
    return OnnxRuntimeEngine(
        model.SerializeToString(),
        precision=precision,
        threads=threads,
        optimisation=optimisation_of(precision),
        max_batch=BATCH,
    )


def embed(engine: OnnxRuntimeEngine, segments: Float32Array) -> Float32Array:
    """Segments (N, frames, n_mels) to embeddings (N, D), a few at a time."""
    step = engine.max_batch
    return np.concatenate([engine.embed(segments[i : i + step, None]) for i in range(0, len(segments), step)])


def expose(model: onnx.ModelProto, tensors: list[str]) -> bytes:
    """`model` as a file that gives `tensors` as further outputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    there = {value.name for value in made.graph.output}
    made.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in there)
    return made.SerializeToString()


def layer_outputs(
    model: onnx.ModelProto, segments: Float32Array, *, batch: int = 2, threads: int | None = None
) -> Iterator[dict[str, Float32Array]]:
    """Outputs of every convolution, before its ReLU, and "z": one dictionary for each batch of segments.

    `model` is prepared (edgeasd.calibration.quantization.encoder_parts) or a variant made from it; segments (N, frames,
    n_mels) float32. Values are float32, whatever the graph computes in. Runs without graph optimisation,
    so that every Q/DQ is computed as written. Memory is that of one batch.
    """
    names = [*convolutions(model), model.graph.output[0].name]
    session = make_session(expose(model, names), threads=threads, optimisation="none")
    for start in range(0, len(segments), batch):
        found = session.run(names, {model.graph.input[0].name: segments[start : start + batch, None]})
        yield {name: np.asarray(array, np.float32) for name, array in zip(names, found, strict=True)}


def signal_to_noise(
    reference: onnx.ModelProto,
    variant: onnx.ModelProto,
    segments: Float32Array,
    *,
    batch: int = 2,
    threads: int | None = None,
    report: ProgressCallback = no_progress,
) -> dict[str, float]:
    """10 log10(Σ reference² / Σ (variant - reference)²) of every convolution's output and of "z", in dB.

    `reference` is the prepared float32 encoder, `variant` a graph made from it; layers come in the order
    in which they run, with the noise of all layers before included. At most LARGEST_DB; a layer that is
    zero in both has that too. Raises InputError if the two are not of one encoder.
    """
    if convolutions(reference) != convolutions(variant):
        raise InputError("layers: reference and variant have other convolutions; build the variant from the reference")
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    pairs = zip(
        layer_outputs(reference, segments, batch=batch, threads=threads),
        layer_outputs(variant, segments, batch=batch, threads=threads),
        strict=True,
    )
    for number, (exact, found) in enumerate(pairs, start=1):
        for name, values in exact.items():
            signal[name] = signal.get(name, 0.0) + _power(values)
            noise[name] = noise.get(name, 0.0) + _power(found[name] - values)
        report(min(number * batch, len(segments)), len(segments))
    return {name: decibels(signal[name], noise[name]) for name in signal}


def _power(values: Float32Array) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))


def decibels(signal: float, noise: float) -> float:
    """Ratio of two powers in dB, between minus and plus LARGEST_DB; NaN and infinite noise is all noise."""
    if not np.isfinite(noise):
        return -LARGEST_DB
    if noise == 0.0:
        return LARGEST_DB
    if signal == 0.0:
        return -LARGEST_DB
    return float(np.clip(10.0 * np.log10(signal / noise), -LARGEST_DB, LARGEST_DB))


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
