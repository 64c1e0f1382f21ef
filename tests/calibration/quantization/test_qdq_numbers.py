"""The two INT8 graphs in ONNX Runtime: they compute the encoder, up to the noise of eight bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.layer_noise import LARGEST_DB, decibels, layer_outputs, signal_to_noise
from edgeasd.calibration.quantization.qdq import int8_cpu_graph, int8_graph
from edgeasd.calibration.quantization.ranges import collect
from edgeasd.runtime.engines.onnxruntime import make_session, optimisation_of
from edgeasd.runtime.errors import InputError

Encoder = Callable[..., onnx.ModelProto]
Noise = Callable[..., np.ndarray]
BUILDERS = {"int8": int8_graph, "int8-cpu": int8_cpu_graph}


@pytest.fixture(scope="module")
def ranges(random_encoder: Encoder, segments: Noise) -> dict[str, tuple[float, float]]:
    return collect(random_encoder("quick"), segments(8)).ranges("minmax")


def embed(model: onnx.ModelProto, x: np.ndarray, optimisation: str | None) -> np.ndarray:
    session = make_session(model.SerializeToString(), threads=1, optimisation=optimisation)
    found: np.ndarray = session.run(["z"], {"logmel": x[:, None]})[0]
    assert found.dtype == np.float32
    return found


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))


@pytest.mark.parametrize("precision", BUILDERS)
def test_the_embedding_is_that_of_float32_up_to_eight_bits(
    precision: str, random_encoder: Encoder, segments: Noise, ranges: dict[str, tuple[float, float]]
) -> None:
    model, x = random_encoder("quick"), segments(4, seed=1)
    made = BUILDERS[precision](model, ranges)
    exact = embed(model, x, None)
    assert 0.005 < relative(embed(made, x, optimisation_of(precision)), exact) < 0.12


def test_int8_cpu_runs_in_integer_kernels_of_onnx_runtime(
    random_encoder: Encoder, segments: Noise, ranges: dict[str, tuple[float, float]], tmp_path: object
) -> None:
    import onnxruntime

    made = int8_cpu_graph(random_encoder("quick"), ranges)
    x = segments(2, seed=1)
    options = onnxruntime.SessionOptions()
    # Without VNNI, the default AVX2 kernels saturate sums of two products at 16 bits.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["z"], {"logmel": x[:, None]})[0], embed(made, x, "none"), atol=0.02)
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node]
    convs = sum(node.op_type == "Conv" for node in made.graph.node)
    assert kinds.count("QLinearConv") == convs - 1, "all but the first"
    assert kinds.count("QLinearAveragePool") == 4
    assert kinds.count("QLinearAdd") == 3, "all but the last, whose sum goes into the mean"


@pytest.mark.parametrize("precision", BUILDERS)
def test_dead_channels_do_no_harm(precision: str, random_encoder: Encoder, segments: Noise) -> None:
    """Zero-initialised batch norms make whole residual branches zero; their ranges are 0..0."""
    model, x = random_encoder("quick", dead=True), segments(4)
    found = collect(model, x).ranges("minmax")
    assert found["stages.1.0.conv2"] == (0.0, 0.0)
    made = BUILDERS[precision](model, found)
    for tensor in made.graph.initializer:
        if tensor.name.endswith("scale"):
            assert (numpy_helper.to_array(tensor) > 0).all(), tensor.name
    exact = embed(model, x, None)
    assert 0.001 < relative(embed(made, x, optimisation_of(precision)), exact) < 0.1


@pytest.mark.parametrize("precision", BUILDERS)
def test_a_kept_layer_is_as_exact_as_its_input(
    precision: str, random_encoder: Encoder, segments: Noise, ranges: dict[str, tuple[float, float]]
) -> None:
    """The first quantised layer: kept, it has the noise of float16 or none; its input is not quantised either."""
    model, x = random_encoder("quick"), segments(2)
    reference, layer = prepare(model), "stages.0.0.conv1"
    plain = signal_to_noise(reference, BUILDERS[precision](model, ranges), x)
    pool = "stem.0.relu.pool"
    kept = signal_to_noise(reference, BUILDERS[precision](model, ranges, [layer, pool]), x)
    assert plain[layer] < 45
    assert kept[layer] > (60 if precision == "int8" else 100)
    assert kept["stages.0.0.conv2"] > plain["stages.0.0.conv2"]


def test_noise_is_told_layer_by_layer_in_running_order(
    random_encoder: Encoder, segments: Noise, ranges: dict[str, tuple[float, float]]
) -> None:
    model, x = random_encoder("quick"), segments(5)
    reference, told = prepare(model), []
    found = signal_to_noise(reference, int8_graph(model, ranges), x, report=lambda done, of: told.append((done, of)))
    assert next(iter(found)) == "stem.0"
    assert list(found)[-1] == "z"
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert found["stem.0"] > 60, "float16, not quantised"
    assert found["stages.3.0.conv2"] < found["stages.0.0.conv1"] < 40
    itself = signal_to_noise(reference, reference, x)
    assert set(itself.values()) == {LARGEST_DB}
    one_by_one = signal_to_noise(reference, int8_graph(model, ranges), x, batch=1)
    assert one_by_one == pytest.approx(found, abs=0.05)


def test_layer_outputs_are_float32_and_before_the_relu(random_encoder: Encoder, segments: Noise) -> None:
    (batch,) = layer_outputs(prepare(random_encoder("quick")), segments(2))
    assert batch["stem.0"].shape == (2, 8, 128, 64)
    assert batch["stem.0"].dtype == np.float32
    assert batch["stem.0"].min() < 0
    assert batch["z"].shape == (2, 64)


def test_another_encoder_is_no_reference(random_encoder: Encoder, segments: Noise) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(prepare(random_encoder("quick")))
    next(node for node in other.graph.node if node.op_type == "Conv").name = "other"
    with pytest.raises(InputError, match="reference and variant have other convolutions"):
        signal_to_noise(prepare(random_encoder("quick")), other, segments(1))


def test_decibels_at_the_ends() -> None:
    assert decibels(1.0, 0.01) == pytest.approx(20.0)
    assert decibels(0.0, 0.0) == decibels(1.0, 0.0) == LARGEST_DB
    assert decibels(0.0, 1.0) == decibels(1.0, float("nan")) == decibels(1.0, float("inf")) == -LARGEST_DB


@pytest.mark.slow
def test_resnet38_in_all_precisions(random_encoder: Encoder, segments: Noise) -> None:
    model, x = random_encoder("resnet38"), segments(4)
    found = collect(model, x).ranges("percentile")
    exact = embed(model, x[:2], None)
    for precision, build in BUILDERS.items():
        made = build(model, found)
        assert made.ByteSize() < 0.27 * model.ByteSize()
        assert relative(embed(made, x[:2], optimisation_of(precision)), exact) < 0.3
