"""Folding a batch norm into the convolution before it changes nothing but the number of nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.fold import fold_batch_norms
from edgeasd.runtime.engines.onnxruntime import make_session


def build(bias: bool, extra_reader: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    values = {
        "a.weight": rng.normal(0, 1, (4, 2, 3, 3)),
        "a.bias": rng.normal(0, 1, 4),
        "gamma": rng.uniform(0.5, 1.5, 4),
        "beta": rng.normal(0, 1, 4),
        "mean": rng.normal(0, 1, 4),
        "variance": rng.uniform(0.1, 2, 4),
    }
    if not bias:
        del values["a.bias"]
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", *(["a.bias"] if bias else [])], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["n"], epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Add", ["r", "c" if extra_reader else "n"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 5, 5])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    model.ir_version = 9
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_it_computes_the_same_with_one_node_less(bias: bool) -> None:
    model = build(bias)
    folded = fold_batch_norms(model)
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Relu", "Add"]
    x = np.random.default_rng(1).normal(size=(2, 2, 5, 5)).astype(np.float32)
    one, two = (make_session(m.SerializeToString()).run(None, {"x": x})[0] for m in (model, folded))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_convolution_that_others_read_too_is_left_alone() -> None:
    folded = fold_batch_norms(build(True, extra_reader=True))
    assert [node.op_type for node in folded.graph.node] == ["Conv", "BatchNormalization", "Relu", "Add"]


def test_prepared_it_has_the_names_of_its_modules() -> None:
    assert [node.name for node in prepare(build(True)).graph.node] == ["a", "a.relu", "a.relu.add"]
