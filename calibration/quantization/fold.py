"""Batch norms folded into the convolutions before them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

_EPSILON = 1e-5
"""The default of the operator."""


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which every batch norm whose input is a convolution used nowhere else is part of it.

    w' = w γ / √(σ² + ε), b' = (b - μ) γ / √(σ² + ε) + β, in float64, stored as float32. A batch norm
    elsewhere, like the one over the mel bands at the input, stays. Torch's exporter mostly folds by
    itself; this makes sure of it.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    makers = {tensor: node for node in graph.node for tensor in node.output}
    uses = [tensor for node in graph.node for tensor in node.input] + [output.name for output in graph.output]
    # By its output, not by its name: names of nodes may be empty.
    gone = set()
    for norm in graph.node:
        conv = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or uses.count(conv.output[0]) != 1 or uses.count(conv.input[1]) != 1:
            continue
        _fold(graph, conv, norm, values)
        gone.add(norm.output[0])
        conv.output[0] = norm.output[0]
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type == "BatchNormalization" and node.output[0] in gone:
            del graph.node[index]
    return folded


def _fold(
    graph: onnx.GraphProto, conv: onnx.NodeProto, norm: onnx.NodeProto, values: dict[str, onnx.TensorProto]
) -> None:
    gamma, beta, mean, variance = (numpy_helper.to_array(values[name]).astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), _EPSILON)
    factor = gamma / np.sqrt(variance + epsilon)
    weight = numpy_helper.to_array(values[conv.input[1]]).astype(np.float64) * factor[:, None, None, None]
    bias = numpy_helper.to_array(values[conv.input[2]]).astype(np.float64) if len(conv.input) > 2 else 0.0
    _store(values[conv.input[1]], weight)
    # Always a bias of its own: one that convolutions share must not change for the others.
    name = f"{conv.input[1]}_bias_folded"
    made = graph.initializer.add()
    made.name = name
    _store(made, (bias - mean) * factor + beta)
    conv.input[:] = [*conv.input[:2], name]


def _store(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
