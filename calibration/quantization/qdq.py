"""INT8 graphs with explicit QuantizeLinear and DequantizeLinear, two kinds from one set of ranges."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeasd.calibration.quantization.encoder_parts import finish, prepare, weights
from edgeasd.calibration.quantization.fp16 import check_half, to_half
from edgeasd.calibration.quantization.placement import Edge, Target, has_quantised_weights, quantised_edges
from edgeasd.calibration.quantization.scales import Quantisation, asymmetric, quantise_bias, quantise_weights, symmetric
from edgeasd.runtime.errors import InputError

Ranges = Mapping[str, tuple[float, float]]
"""Lowest and highest value of each tensor of a prepared encoder; see edgeasd.calibration.quantization.ranges."""


def int8_graph(encoder: onnx.ModelProto, ranges: Ranges, keep: Collection[str] = ()) -> onnx.ModelProto:
    """`encoder` (float32) for TensorRT: symmetric int8 with zero zero points, float16 elsewhere, float32 in and out.

    Weights are int8 initialisers with one scale for each output channel, biases float16. Where Q/DQ is
    placed, and where not, is in edgeasd.calibration.quantization.placement. Nodes named in `keep`, as
    edgeasd.calibration.quantization.encoder_parts.prepare names them, are left in float16. Raises InputError for an
    unknown name or a missing range, CheckFailed if a weight or a range lies beyond float16.
    """
    return to_half(_quantise(prepare(encoder), ranges, Target.TENSORRT, keep))


def int8_cpu_graph(encoder: onnx.ModelProto, ranges: Ranges, keep: Collection[str] = ()) -> onnx.ModelProto:
    """`encoder` (float32) for ONNX Runtime: uint8 activations with zero points, int8 weights, float32 elsewhere.

    Biases of quantised convolutions are int32, without which ONNX Runtime does not fuse them. A node in
    `keep` stays float32, and so does in effect the node before it, whose integer kernel needs all its
    readers in eight bits. Raises as int8_graph does.
    """
    return finish(_quantise(prepare(encoder), ranges, Target.ONNXRUNTIME, keep))


def _quantise(model: onnx.ModelProto, ranges: Ranges, target: Target, keep: Collection[str]) -> onnx.ModelProto:
    graph = model.graph
    edges = quantised_edges(model, target, keep)
    tensors = {edge.tensor: _activation(edge.tensor, ranges, target) for edge in edges}
    by_node: dict[str, list[Edge]] = {}
    for edge in edges:
        by_node.setdefault(edge.node, []).append(edge)
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in list(graph.node):
        for edge in by_node.get(node.name, ()):
            if edge.tensor not in done:
                done.add(edge.tensor)
                nodes.append(_quantise_node(graph, edge.tensor, tensors[edge.tensor]))
            nodes.append(_dequantise_edge(edge))
        if has_quantised_weights(graph, node, keep):
            nodes += _dequantise_weights(graph, node, tensors[node.input[0]], target)
        for edge in by_node.get(node.name, ()):
            node.input[edge.slot] = dequantised_name(edge)
        nodes.append(node)
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    return model


def dequantised_name(edge: Edge) -> str:
    """Name of the tensor, and of the DequantizeLinear, that an edge reads in place of its own."""
    return f"{edge.node}.input{edge.slot}.dq"


def _activation(tensor: str, ranges: Ranges, target: Target) -> Quantisation:
    if tensor not in ranges:
        raise InputError(f"ranges: none for the tensor {tensor}; collect them from this encoder")
    low, high = ranges[tensor]
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise InputError(f"ranges: {tensor} has {low}..{high}; collect them again")
    if target is Target.ONNXRUNTIME:
        return asymmetric(low, high)
    check_half(tensor, "an activation", max(abs(low), abs(high)))
    return symmetric(low, high)


def _quantise_node(graph: onnx.GraphProto, tensor: str, found: Quantisation) -> onnx.NodeProto:
    _add(graph, f"{tensor}.scale", found.scale)
    _add(graph, f"{tensor}.zero", found.zero)
    name = f"{tensor}.q"
    return helper.make_node("QuantizeLinear", [tensor, f"{tensor}.scale", f"{tensor}.zero"], [name], name)


def _dequantise_edge(edge: Edge) -> onnx.NodeProto:
    # One for each reader: TensorRT and ONNX Runtime both fuse a DequantizeLinear into the node that reads it.
    inputs, name = [f"{edge.tensor}.q", f"{edge.tensor}.scale", f"{edge.tensor}.zero"], dequantised_name(edge)
    return helper.make_node("DequantizeLinear", inputs, [name], name)


def _dequantise_weights(
    graph: onnx.GraphProto, conv: onnx.NodeProto, reads: Quantisation, target: Target
) -> list[onnx.NodeProto]:
    weight, bias = weights(graph, conv.input[1]), weights(graph, conv.input[2]) if len(conv.input) > 2 else None
    if target is Target.TENSORRT:
        check_half(conv.input[1], "a weight", float(np.max(np.abs(weight), initial=0.0)))
        steps, scale = quantise_weights(weight, "float16")
        nodes = [_constant(graph, f"{conv.name}.weight", steps, scale)]
    else:
        input_scale = float(reads.scale)
        steps, scale = quantise_weights(weight, "float32", bias, input_scale)
        nodes = [_constant(graph, f"{conv.name}.weight", steps, scale)]
        if bias is not None:
            nodes.append(_constant(graph, f"{conv.name}.bias", *quantise_bias(bias, input_scale, scale)))
            conv.input[2] = nodes[-1].output[0]
    conv.input[1] = nodes[0].output[0]
    return nodes


def _constant(graph: onnx.GraphProto, name: str, steps: np.ndarray, scale: np.ndarray) -> onnx.NodeProto:
    """An integer initialiser and the DequantizeLinear that reads it, with one scale for each output channel."""
    for suffix, array in (("int", steps), ("scale", scale), ("zero", np.zeros(scale.shape, steps.dtype))):
        _add(graph, f"{name}.{suffix}", array)
    inputs = [f"{name}.{suffix}" for suffix in ("int", "scale", "zero")]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}.dq"], f"{name}.dq", axis=0)


def _add(graph: onnx.GraphProto, name: str, array: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
