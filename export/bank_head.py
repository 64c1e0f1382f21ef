"""head.onnx for a bank of normals: the same outputs as that of a centroid, with d from the banks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeasd.calibration.fit.bank import Bank
from edgeasd.export.graphs import build_head
from edgeasd.runtime.features.logmel import Float32Array


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
        constants["voters"] = np.float32(len(votes))
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
        found = node("Div", [node("Sub", [found, "mean"], "above_mean"), "spread"], "vote")
    return f"{name}_{found}"
