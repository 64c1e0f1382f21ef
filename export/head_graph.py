"""head.onnx: z -> logit, q, p, d, d_prime, with the weights, the frozen centroid and d′ constants inside.

Always float32. q = σ(-ℓ) is not written with the Sigmoid operator: ONNX Runtime's CPU kernel is
an approximation of 0.5 plus something small, exact to about 1e-7 in absolute terms, so that beyond
a logit of 15 its q is rounding noise and beyond 18 a constant. exp(min(-ℓ, 0)) / (1 + exp(-|ℓ|)) is
the same function and keeps its relative precision down to where float32 ends (ℓ = 88).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeasd.runtime.logmel import Float32Array

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
