"""float16 inside a graph, by casts: the base of fp16 and of int8 for TensorRT."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeasd.calibration.quantization.encoder_parts import finish
from edgeasd.runtime.errors import CheckFailed

LARGEST_HALF = 65504.0
"""The largest finite float16."""

HALF_OPERATORS = {"Conv", "Relu", "Add", "AveragePool", "QuantizeLinear", "DequantizeLinear"}
"""Everything else stays float32: the batch norm over mel bands, where the log-mel of a quiet band may vary
less than float16 resolves near -10 (0.0078) and its variance may underflow; and the mean over the feature
map, whose sum may overflow and whose rounding the squared distance would inherit. Both are a few
thousandths of the work."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the prepared `model` that computes HALF_OPERATORS in float16; inputs and outputs keep their type.

    Raises CheckFailed if a weight lies beyond float16.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    _round_weights(graph)
    # Tensor -> is it float16? Integers, of which Q/DQ makes some, never meet a cast.
    half: dict[str, bool] = {value.name: False for value in graph.input}
    integer: set[str] = {
        t.name for t in graph.initializer if t.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16)
    }
    fixed = {tensor.name for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    casts: dict[tuple[str, bool], str] = {}
    for node in graph.node:
        wanted = node.op_type in HALF_OPERATORS
        for index, tensor in enumerate(node.input):
            if tensor in fixed or tensor in integer or half[tensor] == wanted:
                continue
            if (tensor, wanted) not in casts:
                casts[tensor, wanted] = f"{tensor}.{'half' if wanted else 'float'}"
                nodes.append(_cast(tensor, casts[tensor, wanted], wanted))
            node.input[index] = casts[tensor, wanted]
        nodes.append(node)
        for tensor in node.output:
            half[tensor] = wanted
            if node.op_type == "QuantizeLinear":
                integer.add(tensor)
    for output in graph.output:
        if half[output.name]:
            _cast_output(nodes, output.name)
    copies = [_copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    del graph.value_info[:]
    return finish(made)


def _cast(tensor: str, result: str, to_half: bool) -> onnx.NodeProto:
    return helper.make_node(
        "Cast", [tensor], [result], result, to=TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
    )


def _cast_output(nodes: list[onnx.NodeProto], output: str) -> None:
    """Give the float16 tensor `output` another name and cast it back under its own."""
    inner = f"{output}.half"
    for node in nodes:
        node.input[:] = [inner if tensor == output else tensor for tensor in node.input]
        node.output[:] = [inner if tensor == output else tensor for tensor in node.output]
    nodes.append(_cast(inner, output, False))


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _round_weights(graph: onnx.GraphProto) -> None:
    """Float32 initialisers that only float16 operators read, as float16."""
    readers: dict[str, set[bool]] = {}
    for node in graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, set()).add(node.op_type in HALF_OPERATORS)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and readers.get(tensor.name) == {True}:
            values = numpy_helper.to_array(tensor)
            check_half(tensor.name, "a weight", float(np.max(np.abs(values), initial=0.0)))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))


def check_half(name: str, what: str, largest: float) -> None:
    """CheckFailed if the magnitude `largest` of `what` in the tensor `name` lies beyond float16 or is no number."""
    if not largest <= LARGEST_HALF:
        raise CheckFailed(
            f"{name}: {what} of {largest:.4g} lies beyond float16 ({LARGEST_HALF:.0f}); "
            "leave fp16 and int8 out, or train again"
        )


def vanishing_weights(model: onnx.ModelProto) -> dict[str, int]:
    """How many weights of each convolution are not zero in float32 and zero in float16 (below 3e-8).

    Harmless beside larger ones; a layer that loses most of its weights is dead or scaled wrongly.
    """
    found: dict[str, int] = {}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in values:
            weight = numpy_helper.to_array(values[node.input[1]])
            lost = int(np.count_nonzero((weight != 0) & (np.abs(weight) < 2.0**-25)))
            if lost:
                found[node.name] = lost
    return found
