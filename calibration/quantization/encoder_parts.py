"""The encoder graph as variants are built on it: batch norms folded, with stable names.

Torch's exporter numbers nodes and tensors by chance of the trace (node_Conv_181, getitem_33). A report on single
layers, a list of layers and a file of ranges need names that stay the same.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import numpy_helper

from edgeasd.calibration.quantization.fold import fold_batch_norms
from edgeasd.runtime.features.logmel import Float32Array

_SUFFIXES = {
    "Relu": "relu",
    "Add": "add",
    "AveragePool": "pool",
    "ReduceMean": "mean",
    "Transpose": "transpose",
    "BatchNormalization": "norm",
}


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with batch norms folded into convolutions and stable names.

    A node with weights has the name of its module, "stages.1.0.conv1"; what follows it without weights
    adds to that: "stages.1.0.conv1.relu", "stages.1.0.conv2.add.relu.pool". A tensor has the name of
    the node that makes it; graph inputs, outputs and initialisers keep theirs. Preparing twice changes
    nothing. Opset and IR version are those of `model`.
    """
    prepared = fold_batch_norms(model)
    graph = prepared.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    layers: dict[str, str] = {value.name: value.name for value in graph.input}
    seen: Counter[str] = Counter()
    for node in graph.node:
        name = _layer_name(node, layers, constants)
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"
        node.input[:] = [renamed.get(tensor, tensor) for tensor in node.input]
        for index, tensor in enumerate(node.output):
            layers[tensor] = node.name
            if tensor not in kept:
                renamed[tensor] = node.name if index == 0 else f"{node.name}:{index}"
        node.output[:] = [renamed.get(tensor, tensor) for tensor in node.output]
        layers.update({tensor: node.name for tensor in node.output})
    del graph.value_info[:]
    return prepared


def _layer_name(node: onnx.NodeProto, layers: dict[str, str], constants: set[str]) -> str:
    weight = next((name for name in node.input[1:2] if name in constants and name.endswith(".weight")), None)
    if weight is not None:
        return weight.removesuffix(".weight")
    before = next((layers[name] for name in node.input if name in layers), "constant")
    return f"{before}.{_SUFFIXES.get(node.op_type, node.op_type.lower())}"


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor; inputs and initialisers have none."""
    return {tensor: node for node in graph.node for tensor in node.output}


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initialisers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions of a prepared model, in the order in which they run."""
    return [node.name for node in model.graph.node if node.op_type == "Conv"]


def weights(graph: onnx.GraphProto, name: str) -> Float32Array:
    """An initialiser as a float32 array."""
    array: Float32Array = numpy_helper.to_array(constants(graph)[name])
    return array


def finish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop initialisers that nothing uses any more, check the whole model and return it.

    Raises onnx.checker.ValidationError or onnx.shape_inference.InferenceError where it is not valid: a defect here.
    """
    graph = model.graph
    used = {tensor for node in graph.node for tensor in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(left) < len(graph.initializer):
        names = {tensor.name for tensor in left}
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name not in names:
                del graph.initializer[index]
    onnx.checker.check_model(model, full_check=True)
    return model
