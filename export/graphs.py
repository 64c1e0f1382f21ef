"""encoder.fp32.onnx from torch: a dynamic batch and its weights inside, opset 19 and IR 9, the standard domain only."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from edgeasd.export.head import IR_VERSION, OPSET
from edgeasd.runtime.errors import CheckFailed


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
