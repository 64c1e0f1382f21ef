"""The fp32 graphs of a bundle: encoder.fp32.onnx from torch, and head.onnx.

Both have a dynamic batch and their weights inside, opset 19 and IR 9, with the standard domain only.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeasd.runtime.errors import CheckFailed
from edgeasd.runtime.features.logmel import Float32Array

OPSET = 19
IR_VERSION = 9
"""The oldest IR that opset 19 allows; every ONNX Runtime from 1.16 on reads it."""


def build_encoder(encoder: nn.Module, frames: int, n_mels: int) -> onnx.ModelProto:
    """Export `encoder` in eval mode: input "logmel" (N, 1, frames, n_mels), output "z" (N, D), float32.

    Opset 19 and IR 9, whatever the exporter's own defaults; no metadata of the exporting machine.
    Raises CheckFailed if the exporter used an operator that opset 19 does not have.
    """
    # A plain copy in the default memory format: the traced graph should not carry layout changes.
    encoder = encoder.eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    # A batch of 2: with 1 the exporter would take the batch for a constant.
    example = torch.zeros(2, 1, frames, n_mels)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                encoder,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["logmel"],
                output_names=["z"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    return tidy(program.model_proto)


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Hold an exported model to the bundle's rules: opset 19, IR 9, one domain, nothing of this machine.

    Raises CheckFailed if the graph breaks them.
    """
    used = {node.domain for node in model.graph.node}
    if used - {""} or model.functions:
        raise CheckFailed(f"encoder graph: uses the domains {sorted(used)}, expected the standard one only")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions.get("") != OPSET:
        raise CheckFailed(f"encoder graph: opset {versions.get('')}, expected {OPSET}; the exporter did not convert it")
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edgeasd", ""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = "edgeasd_encoder", ""
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        # The exporter notes file names and line numbers of the training machine here.
        del part.metadata_props[:]
    del graph.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write one self-contained file."""
    path.write_bytes(model.SerializeToString(deterministic=True))


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
