"""Where Q/DQ pairs stand, beside NVIDIA's own quantiser, which must be installed apart: it pins other versions.

    python3 -m venv apart
    apart/bin/pip install torch==2.13.0 nvidia-modelopt==0.47.0 'onnx~=1.21.0' 'onnxruntime~=1.24.2' onnxslim lief \
        cppimport ml_dtypes onnxscript 'onnxconverter-common~=1.16.0' 'onnx-graphsurgeon>=0.6.1' polygraphy
    EDGEASD_MODELOPT_PYTHON=apart/bin/python pytest -m slow tests/calibration/quantization/test_qdq_modelopt.py
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx

from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.qdq import int8_graph
from edgeasd.calibration.quantization.ranges import collect

pytestmark = pytest.mark.slow

QUANTISE = """
import sys, numpy
from modelopt.onnx.quantization import quantize
source, segments, target = sys.argv[1:]
quantize(source, calibration_data=numpy.load(segments), calibration_method="max", calibration_eps=["cpu"],
         output_path=target, log_level="ERROR")
"""
JUDGED = ("Conv", "Add", "AveragePool", "Relu", "ReduceMean")
DIFFER = {
    # It leaves convolutions of fewer than 16 channels alone, which TensorRT gains nothing from; ours takes them.
    "quick": {"stages.0.0.conv1", "stages.0.0.conv2", "stages.0.0.conv2.add"},
    # Ours leaves the convolution of one input channel alone: a thousandth of the work, the widest range of all.
    "resnet38": {"stem.0.body.0"},
}


@pytest.fixture(scope="module")
def apart() -> str:
    python = os.environ.get("EDGEASD_MODELOPT_PYTHON")
    if not python:
        pytest.skip("MODELOPT ABSENT: set EDGEASD_MODELOPT_PYTHON to a Python that has it; see this file")
    return python


def placement(model: Any) -> dict[str, tuple[bool, ...]]:
    """Which of the first two inputs of each layer come out of a DequantizeLinear, casts left aside."""
    made_by = {name: node for node in model.graph.node for name in node.output}

    def quantised(name: str) -> bool:
        while name in made_by and made_by[name].op_type == "Cast":
            name = made_by[name].input[0]
        return name in made_by and made_by[name].op_type == "DequantizeLinear"

    return {
        node.name: tuple(quantised(name) for name in node.input[:2])
        for node in model.graph.node
        if node.op_type in JUDGED
    }


@pytest.mark.parametrize("backbone", ["quick", "resnet38"])
def test_pairs_stand_where_nvidias_quantiser_puts_them(
    backbone: str,
    random_encoder: Callable[..., Any],
    segments: Callable[..., np.ndarray],
    apart: str,
    tmp_path: Path,
) -> None:
    encoder = random_encoder(backbone)
    few = segments(2)
    onnx.save(prepare(encoder), tmp_path / "prepared.onnx")
    np.save(tmp_path / "segments.npy", few[:, None])
    files = ("prepared.onnx", "segments.npy", "theirs.onnx")
    subprocess.run([apart, "-c", QUANTISE, *files], cwd=tmp_path, check=True, timeout=280)
    theirs = placement(onnx.load(tmp_path / "theirs.onnx"))
    ours = placement(int8_graph(encoder, collect(encoder, few).ranges("minmax")))
    assert len(ours) > 20
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} == DIFFER[backbone]
