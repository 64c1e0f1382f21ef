"""The head as Triton serves it: with the constants now in force, and with the embedding handed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeasd.export.triton_config import EMBEDDING, ENCODER_OUT
from edgeasd.runtime.errors import BundleError
from edgeasd.runtime.score import ScoreSettings


def served_head(path: Path, score: ScoreSettings) -> onnx.ModelProto:
    """head.onnx with d_min and d_max of `score` and one more output, "embedding" (N, D).

    A re-fit changes d_min and d_max in the manifest and leaves the graph alone; a server knows no manifest. And
    an ensemble must not give out a tensor that a later step also reads: Triton leaves out the step that makes
    an output which nobody asked for, whoever else needs it. So the embedding comes out of the last step.

    Raises BundleError for a head that is not of our making.
    """
    model = onnx.load_from_string(path.read_bytes())
    graph = model.graph
    found = {constant.name: constant for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name == ENCODER_OUT]
    if not inputs or "d_min" not in found or "d_spread" not in found:
        raise BundleError(f"{path.name}: not a head that this edgeasd writes; export the bundle again")
    values = {"d_min": np.float32(score.d_min), "d_spread": np.float32(score.d_max) - np.float32(score.d_min)}
    for name, value in values.items():
        found[name].CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))
    size = inputs[0].type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Identity", [ENCODER_OUT], [EMBEDDING]))
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", size]))
    onnx.checker.check_model(model, full_check=True)
    return model
