"""What became of each layer, read from the inspector's JSON.

EVERY JSON HERE IS MADE BY HAND, after the little that is published of its form. No engine of ours has been inspected
on real hardware yet; the first that is belongs here as a file.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeasd.runtime.engine_build.inspector import Inspection, inspect, parse_layers

pytestmark = pytest.mark.core

HAND_MADE: dict[str, Any] = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to node_Conv_1 + node_relu",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        },
        {
            "Name": "node_Conv_1 + node_relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP16 format"}],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 4608},
            "Bias": {"Type": "Float", "Count": 32},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32",
        },
        {
            "Name": "node_Conv_2",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "z", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "Outputs": [{"Name": "w", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Half", "Count": 4608},
            "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc",
        },
        {
            "Name": "__myl_ConvAdd_myl0_7",
            "LayerType": "kgen",
            "Inputs": [{"Name": "w", "Format/Datatype": "Int8"}],
            "Outputs": [{"Name": "v", "Format/Datatype": "Half"}],
            "TacticName": "__myl_ConvAdd_0xabc",
            "Metadata": "[ONNX Layer: node_Conv_20]\x1e[ONNX Layer: node_add]",
        },
        {
            "Name": "node_mean",
            "LayerType": "Reduce",
            "Inputs": [{"Name": "v", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "o", "Format/Datatype": "Row major linear FP32"}],
        },
    ],
    "Bindings": ["logmel", "embedding"],
}


def test_layers_are_counted_by_what_they_multiply() -> None:
    found = inspect(json.dumps(HAND_MADE), ["node_Conv_1", "node_Conv_20"])
    assert found == Inspection({"FP16": 2, "FP32": 1, "INT8": 2}, ("node_Conv_1", "node_Conv_20"), {}, ())


def test_a_quantised_convolution_that_runs_in_fp16_is_told() -> None:
    found = inspect(json.dumps(HAND_MADE), ["node_Conv_1", "node_Conv_2"])
    assert (found.int8, found.other) == (("node_Conv_1",), {"node_Conv_2": "FP16"})


def test_an_unnamed_convolution_is_unknown() -> None:
    """node_Conv_2 is named, node_Conv and node_Conv_200 only look like it."""
    found = inspect(json.dumps(HAND_MADE), ["node_Conv", "node_Conv_200"])
    assert (found.int8, found.other, found.unknown) == ((), {}, ("node_Conv", "node_Conv_200"))


def test_a_copy_in_front_of_a_convolution_says_nothing_about_it() -> None:
    copies = {"Layers": HAND_MADE["Layers"][:1]}
    assert inspect(json.dumps(copies), ["node_Conv_1"]).unknown == ("node_Conv_1",)


def test_an_engine_built_without_details_lists_names_alone() -> None:
    """That of TensorRT without ProfilingVerbosity.DETAILED."""
    found = inspect(json.dumps({"Layers": ["node_Conv_1 + node_relu", "node_mean"]}), ["node_Conv_1"])
    assert found == Inspection({"unknown": 2}, (), {}, ("node_Conv_1",))


@pytest.mark.parametrize(
    ("said", "precision"),
    [
        ("Row major linear FP32", "FP32"),
        ("Row major linear BFloat16 format", "BF16"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Row major linear Int8 format", "INT8"),
        ("Row major linear INT32 format", "unknown"),
        ("Float", "FP32"),
        ("Half", "FP16"),
        ("N/A due to dynamic shapes", "unknown"),
    ],
)
def test_words_for_types(said: str, precision: str) -> None:
    text = json.dumps({"Layers": [{"Name": "x", "Outputs": [{"Format/Datatype": said}]}]})
    assert [layer.precision for layer in parse_layers(text)] == [precision]


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"Layers": 3}', '{"Bindings": []}', "[" * 50_000])
def test_what_cannot_be_read_leaves_everything_unknown(text: str) -> None:
    assert inspect(text, ["node_Conv_1"]) == Inspection({}, (), {}, ("node_Conv_1",))


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Layers", "Name", "LayerType", "Inputs", "Outputs", "Weights", "Type", "Metadata", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["Layers", "Bindings"]), Json, max_size=2))
def test_no_json_is_an_error(raw: dict[str, Any]) -> None:
    found = inspect(json.dumps(raw), ["conv"])
    assert len(found.int8) + len(found.other) + len(found.unknown) == 1
