"""The rules of quantisation: which tensors of an encoder are read in eight bits, by target."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import onnx

from edgeasd.calibration.quantization.encoder_parts import constants, producers
from edgeasd.runtime.errors import InputError


class Target(str, Enum):
    """The engine that runs the graph; the value is the name of the precision."""

    TENSORRT = "int8"
    ONNXRUNTIME = "int8-cpu"


@dataclass(frozen=True, order=True)
class Edge:
    """Input number `slot` of the node called `node` reads `tensor` in eight bits."""

    tensor: str
    node: str
    slot: int


def quantised_edges(model: onnx.ModelProto, target: Target, keep: Collection[str] = ()) -> list[Edge]:
    """The activations that are quantised in the prepared `model`, in graph order.

    A node in `keep` reads everything as it is, weights included. For TensorRT: the inputs of
    convolutions and average pools, and of an addition the one branch that no convolution can be fused
    with. Nothing comes between a convolution and its ReLU. For ONNX Runtime, whose integer kernels need
    both ends of a node in eight bits: both inputs of an addition, and the input of the final mean where a
    convolution makes it.

    A convolution of one input channel, the first, stays as it is in both: its work is a thousandth of
    the whole, integer kernels have nothing to gain from one channel, and its input has the widest range.
    Raises InputError for a name in `keep` that the graph does not have.
    """
    graph = model.graph
    unknown = sorted(set(keep) - {node.name for node in graph.node})
    if unknown:
        raise InputError(f"layers to keep: {', '.join(unknown)} not in the encoder; use names of its report")
    makers = producers(graph)
    found = []
    for node in graph.node:
        if node.name not in keep:
            found += [Edge(node.input[slot], node.name, slot) for slot in _slots(graph, node, target, makers)]
    return found


def has_quantised_weights(graph: onnx.GraphProto, node: onnx.NodeProto, keep: Collection[str]) -> bool:
    """Whether a node is a convolution whose weights are quantised."""
    return node.op_type == "Conv" and node.name not in keep and not _is_first(graph, node)


def _is_first(graph: onnx.GraphProto, conv: onnx.NodeProto) -> bool:
    weight = constants(graph).get(conv.input[1])
    return weight is None or weight.dims[1] == 1


def _slots(
    graph: onnx.GraphProto, node: onnx.NodeProto, target: Target, makers: dict[str, onnx.NodeProto]
) -> tuple[int, ...]:
    if node.op_type == "Conv":
        return () if _is_first(graph, node) else (0,)
    if node.op_type == "AveragePool":
        return (0,)
    if node.op_type == "Add":
        return (0, 1) if target is Target.ONNXRUNTIME else (_other_branch(graph, node, makers),)
    if node.op_type == "ReduceMean" and target is Target.ONNXRUNTIME and _ends_a_convolution(node, makers):
        return (0,)
    return ()


def _ends_a_convolution(mean: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """An addition before the mean costs next to nothing in float32 and spares the embedding the noise of eight bits."""
    made = makers.get(mean.input[0])
    if made is not None and made.op_type == "Relu":
        made = makers.get(made.input[0])
    return made is not None and made.op_type == "Conv"


def _other_branch(graph: onnx.GraphProto, add: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> int:
    """Which input of an addition is not the one whose convolution takes the addition into its own kernel.

    TensorRT fuses convolution, addition and ReLU, with the sum in high precision and the other branch
    read in eight bits. The main branch is the convolution with the larger kernel; a shortcut has 1 x 1.
    """
    sizes = []
    for tensor in add.input:
        made = makers.get(tensor)
        size = -1
        if made is not None and made.op_type == "Conv" and made.input[1] in (known := constants(graph)):
            size = known[made.input[1]].dims[2] * known[made.input[1]].dims[3]
        sizes.append(size)
    return 1 if sizes[0] >= sizes[1] else 0


def calibrated_tensors(model: onnx.ModelProto) -> list[str]:
    """Every activation that some target may quantise: what ranges are collected for, in graph order."""
    wanted = {edge.tensor for target in Target for edge in quantised_edges(model, target)}
    return [tensor for node in model.graph.node for tensor in node.output if tensor in wanted]
