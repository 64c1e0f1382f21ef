"""The two INT8 graphs, read node by node: every placement rule, for every backbone."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeasd.calibration.quantization.encoder_parts import convolutions, prepare
from edgeasd.calibration.quantization.placement import calibrated_tensors
from edgeasd.calibration.quantization.qdq import int8_cpu_graph, int8_graph
from edgeasd.runtime.errors import CheckFailed, InputError

BACKBONES = ["quick", pytest.param("resnet38", marks=pytest.mark.slow)]
Encoder = Callable[..., onnx.ModelProto]


def any_ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    return {tensor: (-1.5, 3.0) for tensor in calibrated_tensors(prepare(model))}


class Graph:
    """A graph with its ends tied together."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.by_name = {node.name: node for node in self.nodes}
        self.maker = {tensor: node for node in self.nodes for tensor in node.output}
        self.value = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    def of(self, *kinds: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type in kinds]

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if tensor in node.input]

    def is_quantised(self, tensor: str) -> bool:
        """Whether it comes out of a DequantizeLinear of an activation."""
        node = self.maker.get(tensor)
        return node is not None and node.op_type == "DequantizeLinear" and node.input[0] not in self.value


def assert_common_rules(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version <= 10
    assert {node.domain for node in model.graph.node} == {""}
    ends = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    assert ends == [TensorProto.FLOAT, TensorProto.FLOAT]
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    graph = Graph(model)
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        scale = graph.value[node.input[1]]
        assert (scale > 0).all(), node.name
        assert np.isfinite(scale).all(), node.name
        assert len(node.input) == 3, "a zero point is stated: its type is the type of the integers"
    for conv in graph.of("Conv"):
        weight = graph.maker.get(conv.input[1])
        if weight is not None:
            steps, scale, zero = (graph.value[name] for name in weight.input)
            assert (weight.op_type, steps.dtype) == ("DequantizeLinear", np.int8)
            assert scale.shape == zero.shape == (len(steps),), "a scale for every output channel"
            assert onnx.helper.get_node_attr_value(weight, "axis") == 0
            assert not zero.any()
            assert steps.min() >= -127
        readers = {node.op_type for node in graph.readers(conv.output[0])}
        assert readers in ({"Relu"}, {"Add"}, {"QuantizeLinear"}), conv.name
        if "Relu" in readers:
            assert len(graph.readers(conv.output[0])) == 1, "nothing between a convolution and its ReLU"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_int8_is_placed_as_tensorrt_wants_it(backbone: str, random_encoder: Encoder) -> None:
    model = int8_graph(random_encoder(backbone), any_ranges(random_encoder(backbone)))
    assert_common_rules(model)
    graph = Graph(model)
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        zero, scale = graph.value[node.input[2]], graph.value[node.input[1]]
        assert (zero.dtype, scale.dtype) == (np.int8, np.float16)
        assert not zero.any(), "TensorRT knows symmetric quantisation only"
    first, *convs = graph.of("Conv")
    assert graph.value[first.input[1]].dtype == np.float16, "one input channel: not quantised"
    assert not graph.is_quantised(first.input[0])
    for conv in convs:
        assert graph.is_quantised(conv.input[0])
        assert conv.input[1] in graph.maker, f"{conv.name}: weights in eight bits"
        assert graph.value[conv.input[2]].dtype == np.float16, f"{conv.name}: no quantised bias"
    assert any("shortcut" in conv.name for conv in convs)
    for pool in graph.of("AveragePool"):
        assert graph.is_quantised(pool.input[0])
        assert {node.op_type for node in graph.readers(pool.output[0])} == {"QuantizeLinear"}
    for add in graph.of("Add"):
        quantised = [graph.is_quantised(tensor) for tensor in add.input]
        assert sum(quantised) == 1, f"{add.name}: one branch"
        fused = graph.maker[add.input[quantised.index(False)]]
        assert fused.op_type == "Conv"
        assert fused.name.endswith("conv2"), "the main branch takes the addition in, not the shortcut"
        assert [node.op_type for node in graph.readers(add.output[0])] == ["Relu"]
    for node in graph.of("ReduceMean", "BatchNormalization"):
        assert not graph.is_quantised(node.input[0])
    assert {t.data_type for t in model.graph.initializer} == {
        *(TensorProto.INT8, TensorProto.FLOAT16),
        *(TensorProto.FLOAT, TensorProto.INT64),  # of the mel norm and the axes of the mean
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_int8_cpu_is_placed_as_onnx_runtime_fuses_it(backbone: str, random_encoder: Encoder) -> None:
    model = int8_cpu_graph(random_encoder(backbone), any_ranges(random_encoder(backbone)))
    assert_common_rules(model)
    graph = Graph(model)
    for node in graph.of("QuantizeLinear"):
        assert graph.value[node.input[2]].dtype == np.uint8
        assert graph.value[node.input[1]].dtype == np.float32
        assert graph.value[node.input[2]] == 85, "asymmetric: zero lies a third up from -1.5 to 3"
    for conv in graph.of("Conv")[1:]:
        weight, bias = graph.maker[conv.input[1]], graph.maker[conv.input[2]]
        read = graph.maker[conv.input[0]]
        assert graph.is_quantised(conv.input[0])
        assert graph.value[bias.input[0]].dtype == np.int32
        product = graph.value[read.input[1]] * graph.value[weight.input[1]]
        np.testing.assert_allclose(graph.value[bias.input[1]], product, rtol=1e-6)
    for add in graph.of("Add"):
        assert all(graph.is_quantised(tensor) for tensor in add.input)
    for pool in graph.of("AveragePool"):
        assert graph.is_quantised(pool.input[0])
    assert TensorProto.FLOAT16 not in {t.data_type for t in model.graph.initializer}


def test_names_are_those_of_the_modules(random_encoder: Encoder) -> None:
    model = random_encoder("quick")
    names = convolutions(prepare(model))
    assert names[:4] == ["stem.0", "stages.0.0.conv1", "stages.0.0.conv2", "stages.1.0.conv1"]
    assert "stages.3.0.shortcut.1" in names
    assert calibrated_tensors(prepare(model))[:3] == [
        "stem.0.relu",
        "stem.0.relu.pool",
        "stages.0.0.conv1.relu",
    ]
    for made in (int8_graph(model, any_ranges(model)), int8_cpu_graph(model, any_ranges(model))):
        assert convolutions(made) == names
    once = prepare(model)
    assert prepare(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@pytest.mark.parametrize("keep", [["stages.1.0.conv2"], ["stages.2.0.conv1", "stages.2.0.shortcut.1"]])
@pytest.mark.parametrize("build", [int8_graph, int8_cpu_graph])
def test_a_layer_that_is_kept_reads_nothing_in_eight_bits(
    build: Callable[..., onnx.ModelProto], keep: Collection[str], random_encoder: Encoder
) -> None:
    model = random_encoder("quick")
    graph = Graph(build(model, any_ranges(model), keep))
    kind = np.float16 if build is int8_graph else np.float32
    for conv in graph.of("Conv")[1:]:
        floats = [name in graph.value and graph.value[name].dtype == kind for name in conv.input[1:2]]
        assert floats == [conv.name in keep]
        assert graph.is_quantised(conv.input[0]) == (conv.name not in keep)


def test_keeping_everything_is_no_quantisation(random_encoder: Encoder) -> None:
    model = random_encoder("quick")
    everything = [node.name for node in prepare(model).graph.node]
    for build in (int8_graph, int8_cpu_graph):
        assert not Graph(build(model, {}, everything)).of("QuantizeLinear", "DequantizeLinear")


def test_wrong_ranges_and_names_are_refused_in_one_line(random_encoder: Encoder) -> None:
    model = random_encoder("quick")
    good = any_ranges(model)
    for ranges, keep, expected in (
        (good, ["stages.9.conv1"], r"layers to keep: stages\.9\.conv1 not in the encoder"),
        ({k: v for k, v in good.items() if k != "stem.0.relu"}, (), r"ranges: none for the tensor stem\.0\.relu;"),
        ({**good, "stem.0.relu": (0.0, float("nan"))}, (), r"ranges: stem\.0\.relu has 0\.0\.\.nan"),
        ({**good, "stem.0.relu": (1.0, -1.0)}, (), r"ranges: stem\.0\.relu has 1\.0\.\.-1\.0"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            int8_graph(model, ranges, keep)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["stages.1.0.conv1.weight", "stages.1.0.conv1.weight_bias"])
def test_what_lies_beyond_float16_is_refused_for_tensorrt_alone(name: str, random_encoder: Encoder) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(random_encoder("quick"))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), 1e6, np.float32), name))
    with pytest.raises(CheckFailed, match=rf"^{name}: a weight of 1e\+06 lies beyond float16"):
        int8_graph(model, any_ranges(model))
    int8_cpu_graph(model, any_ranges(model))


def test_activations_beyond_float16_are_refused_for_tensorrt(random_encoder: Encoder) -> None:
    wide = {**any_ranges(random_encoder("quick")), "stem.0.relu": (0.0, 7e4)}
    with pytest.raises(CheckFailed, match=r"^stem\.0\.relu: an activation of 7e\+04 lies beyond float16"):
        int8_graph(random_encoder("quick"), wide)


def test_the_same_ranges_give_the_same_bytes(random_encoder: Encoder) -> None:
    model = random_encoder("quick")
    before = model.SerializeToString(deterministic=True)
    for build in (int8_graph, int8_cpu_graph):
        one, two = (build(model, any_ranges(model)).SerializeToString(deterministic=True) for _ in range(2))
        assert one == two
    assert model.SerializeToString(deterministic=True) == before
