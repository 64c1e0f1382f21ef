"""head.onnx: from embeddings to logit, q, p, d and d′, with d from a centroid or from banks of normals. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeasd.calibration.fit.bank import Bank
from edgeasd.runtime.features.logmel import Float32Array

OPSET = 19
IR_VERSION = 9
"""The oldest IR that opset 19 allows; every ONNX Runtime from 1.16 on reads it."""


def build_head(
    weight: Float32Array, bias: float, centroid: Float32Array, d_min: float, d_max: float
) -> onnx.ModelProto:
    """The head as a checked ONNX model.

    weight (D,) and bias of ℓ = w·z + b; centroid c_p (D,); d′ = (d - d_min) / (d_max - d_min).
    Input "z" (N, D) float32; outputs "logit", "q", "p", "d", "d_prime", each (N,) float32.
    """
    size = weight.shape[0]
    constants = {
        "weight": weight.reshape(size, 1),
        "bias": np.array([bias]),
        "centroid": centroid,
        "one": np.array(1.0),
        "zero": np.array(0.0),
        "d_min": np.array(d_min),
        "d_spread": np.float32(d_max) - np.float32(d_min),
    }
    initialisers = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    node = helper.make_node
    nodes = [
        node("MatMul", ["z", "weight"], ["product"]),
        node("Squeeze", ["product", "axis"], ["dot"]),
        node("Add", ["dot", "bias"], ["logit"]),
        node("Abs", ["logit"], ["magnitude"]),
        node("Neg", ["magnitude"], ["minus_magnitude"]),
        node("Exp", ["minus_magnitude"], ["tail"]),
        node("Add", ["tail", "one"], ["denominator"]),
        node("Neg", ["logit"], ["minus_logit"]),
        *_probability("minus_logit", "q"),
        *_probability("logit", "p"),
        node("Sub", ["z", "centroid"], ["offset"]),
        node("Mul", ["offset", "offset"], ["squares"]),
        node("ReduceSum", ["squares", "axis"], ["d"], keepdims=0),
        node("Sub", ["d", "d_min"], ["above"]),
        node("Div", ["above", "d_spread"], ["d_prime"]),
    ]
    graph = helper.make_graph(
        nodes,
        "edgeasd_head",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("logit", "q", "p", "d", "d_prime")],
        [*initialisers, axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgeasd")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def _probability(logit: str, output: str) -> list[onnx.NodeProto]:
    """σ(x) = exp(min(x, 0)) / (1 + exp(-|x|)), for x = ℓ or -ℓ."""
    return [
        helper.make_node("Min", [logit, "zero"], [f"{output}_capped"]),
        helper.make_node("Exp", [f"{output}_capped"], [f"{output}_numerator"]),
        helper.make_node("Div", [f"{output}_numerator", "denominator"], [output]),
    ]


def build_bank_head(
    weight: Float32Array, bias: float, banks: Sequence[Bank], d_min: float, d_max: float
) -> onnx.ModelProto:
    """The head as a checked ONNX model: input "z" (N, D), outputs "logit", "q", "p", "d", "d_prime", each (N,).

    weight (D,) and bias are those of the classifier, zeros if there is none. d as in `calibration.fit.bank`: which
    stored normal is nearest is found by |a|² + |b_i|² - 2 a·b_i, one matrix product over all; how near it is, by the
    difference itself, for the expansion loses its digits where a and b_i are close.
    """
    model = build_head(weight, bias, np.zeros_like(weight), d_min, d_max)
    graph = model.graph
    # The centroid's part gives way: its three nodes make "d" of z.
    for node in [node for node in graph.node if node.output[0] in ("offset", "squares", "d")]:
        graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name == "centroid"]:
        graph.initializer.remove(tensor)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {"two": np.float32(2.0), "bank_axis": np.array([1], np.int64)}
    votes = []
    for index, bank in enumerate(banks):
        votes.append(_one_bank(f"bank{index}", bank, alone=len(banks) == 1, nodes=nodes, constants=constants))
    if len(votes) == 1:
        nodes.append(helper.make_node("Identity", votes, ["d"]))
    else:
        constants["voters"] = np.float32(sum(bank.weight for bank in banks))
        nodes.append(helper.make_node("Sum", votes, ["votes"]))
        nodes.append(helper.make_node("Div", ["votes", "voters"], ["d"]))
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(model, full_check=True)
    return model


def _one_bank(
    name: str, bank: Bank, *, alone: bool, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]
) -> str:
    """Add the nodes of one bank; returns the name of its d (N,), standardised unless it is alone."""
    first, last = bank.columns
    points = bank.points.astype(np.float64)
    constants |= {
        f"{name}_first": np.array([first], np.int64),
        f"{name}_last": np.array([last], np.int64),
        f"{name}_shift": bank.shift,
        f"{name}_points": bank.points,
        f"{name}_squares": (points**2).sum(axis=1).astype(np.float32),
        f"{name}_weights": (1.0 / bank.density.astype(np.float64) ** 2).astype(np.float32),
    }

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        named = [one if one in ("z", "two", "bank_axis") else f"{name}_{one}" for one in inputs]
        nodes.append(helper.make_node(kind, named, [f"{name}_{output}"], **attributes))
        return output

    def square_sum(value: str, output: str, keepdims: int) -> str:
        return node(
            "ReduceSum", [node("Mul", [value, value], f"{value}_squared"), "bank_axis"], output, keepdims=keepdims
        )

    values = node("Sub", [node("Slice", ["z", "first", "last", "bank_axis"], "values"), "shift"], "centred")
    if bank.matrix is not None:
        constants[f"{name}_matrix"] = bank.matrix
        values = node("Mul" if bank.matrix.ndim == 1 else "MatMul", [values, "matrix"], "mapped")
    products = node("Mul", [node("Gemm", [values, "points"], "products", transB=1), "two"], "twice_products")
    sums = node("Add", [square_sum(values, "own", keepdims=1), "squares"], "sums")
    relative = node("Mul", [node("Sub", [sums, products], "apart"), "weights"], "relative")
    index = node("ArgMin", [relative], "index", axis=1, keepdims=0)
    offset = node("Sub", [values, node("Gather", ["points", index], "nearest")], "offset")
    weight = node("Gather", ["weights", index], "weight")
    found = node(
        "Sqrt", [node("Mul", [square_sum(offset, "apart_exactly", keepdims=0), weight], "squared")], "distance"
    )
    if not alone:
        constants |= {f"{name}_mean": np.float32(bank.mean), f"{name}_spread": np.float32(bank.spread)}
        found = node("Div", [node("Sub", [found, "mean"], "above_mean"), "spread"], "standardised")
        if bank.weight != 1.0:
            constants[f"{name}_weight_of_vote"] = np.float32(bank.weight)
            found = node("Mul", [found, "weight_of_vote"], "vote")
    return f"{name}_{found}"


def classifier_of(head: bytes) -> tuple[Float32Array, float]:
    """weight (D,) and bias of a head that `build_head` or `build_bank_head` made."""
    constants = {tensor.name: tensor for tensor in onnx.load_from_string(head).graph.initializer}
    weight, bias = (numpy_helper.to_array(constants[name]) for name in ("weight", "bias"))
    return np.asarray(weight[:, 0], np.float32), float(bias[0])


def describe_banks(banks: Sequence[Bank]) -> list[dict[str, Any]]:
    """What the manifest says of each bank."""
    return [
        {
            "name": bank.name,
            "columns": list(bank.columns),
            "whitened": bank.matrix is not None and bank.matrix.ndim == 2,
            "normals": len(bank.points),
            "chosen_by": "k-centre",
            "weight": bank.weight,
        }
        for bank in banks
    ]
