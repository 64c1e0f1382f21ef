"""encoder.fp16.onnx: float16 where it pays, float32 where it would lose, and nothing that float16 cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeasd.calibration.quantization.encoder_parts import prepare
from edgeasd.calibration.quantization.fp16 import vanishing_weights
from edgeasd.export.fp16 import FP16_LIMITS, build_fp16, load_limits
from edgeasd.runtime.bundle.manifest import Tolerance
from edgeasd.runtime.bundle.onnx_check import inspect_onnx
from edgeasd.runtime.bundle.reference_segments import Deviation
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed

BACKBONES = ["quick", pytest.param("resnet38", marks=pytest.mark.slow)]


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by inference."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    return {**found, **{t.name: t.data_type for t in model.graph.initializer}}


def damaged(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensor = next(t for t in made.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    return made


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_graph_keeps_the_rules(
    backbone: str, random_encoder: Callable[..., onnx.ModelProto], tmp_path: Path
) -> None:
    model = build_fp16(random_encoder(backbone))
    onnx.checker.check_model(model, full_check=True)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    header = inspect_onnx(tmp_path / "m.onnx")
    assert header.opsets == {"": 19}
    assert header.ir_version <= 10
    assert {node.domain for node in model.graph.node} == {""}
    kinds = types(model)
    assert kinds["logmel"] == kinds["z"] == TensorProto.FLOAT
    for node in model.graph.node:
        wanted = TensorProto.FLOAT16 if node.op_type in {"Conv", "Relu", "Add", "AveragePool"} else TensorProto.FLOAT
        if node.op_type != "Cast":
            assert {kinds[t] for t in node.input if kinds[t] != TensorProto.INT64} == {wanted}, node.name
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 2, "one after the mel norm, one before the mean"
    assert model.ByteSize() < 0.52 * random_encoder(backbone).ByteSize() + 20_000


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_computes_what_float32_does_within_the_limit(
    backbone: str, random_encoder: Callable[..., onnx.ModelProto], segments: Callable[..., np.ndarray]
) -> None:
    model = random_encoder(backbone)
    x = segments(3)[:, None]
    exact = make_session(model.SerializeToString()).run(["z"], {"logmel": x})[0]
    found = make_session(build_fp16(model).SerializeToString(), optimisation="none").run(["z"], {"logmel": x})[0]
    assert found.dtype == np.float32
    deviation = np.abs(found - exact).max() / np.abs(exact).max()
    assert 1e-5 < deviation < FP16_LIMITS.z, "float16 at work, and no more than its rounding"


def test_fp16_leaves_the_original_alone_and_is_reproducible(
    random_encoder: Callable[..., onnx.ModelProto],
) -> None:
    model = random_encoder("quick")
    before = model.SerializeToString(deterministic=True)
    one, two = (build_fp16(model).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("value", [65520.0, 1e30, np.inf, np.nan])
def test_a_weight_beyond_float16_is_refused_by_name(
    random_encoder: Callable[..., onnx.ModelProto], value: float
) -> None:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[3] = value
        return array

    with pytest.raises(
        CheckFailed, match=r"^stages\.2\.0\.conv1\.weight: a weight of .* lies beyond float16"
    ) as caught:
        build_fp16(damaged(random_encoder("quick"), "stages.2.0.conv1.weight", change))
    assert "\n" not in str(caught.value)


def test_a_mel_norm_that_float16_could_not_hold_is_no_obstacle(
    random_encoder: Callable[..., onnx.ModelProto], segments: Callable[..., np.ndarray]
) -> None:
    """A silent band has a variance that float16 calls zero; its batch norm stays in float32."""
    model = damaged(random_encoder("quick"), "norm.norm.running_var", lambda array: np.full_like(array, 1e-9))
    x = -1.0 + 1e-4 * segments(2)[:, None]
    exact = make_session(model.SerializeToString()).run(["z"], {"logmel": x})[0]
    found = make_session(build_fp16(model).SerializeToString(), optimisation="none").run(["z"], {"logmel": x})[0]
    assert np.abs(found - exact).max() < FP16_LIMITS.z * np.abs(exact).max()


def test_weights_that_vanish_are_counted(random_encoder: Callable[..., onnx.ModelProto]) -> None:
    assert vanishing_weights(prepare(random_encoder("quick"))) == {}
    tiny = damaged(random_encoder("quick"), "stages.1.0.conv2.weight", lambda array: array * np.float32(1e-9))
    assert vanishing_weights(prepare(tiny)) == {"stages.1.0.conv2": 16 * 16 * 9}


def test_tolerance_follows_the_measurement_between_its_bounds() -> None:
    quiet = load_limits(Deviation(z=1e-6, logit=1e-6, d=1e-6, score=1e-6))
    assert quiet == Tolerance(**{k: v / 4 for k, v in FP16_LIMITS.model_dump().items()})
    loud = load_limits(Deviation(z=2e-2, logit=1e-2, d=1e-2, score=4e-3))
    assert (loud.z, loud.logit, loud.d, loud.score) == (
        FP16_LIMITS.z,
        FP16_LIMITS.logit,
        FP16_LIMITS.d,
        FP16_LIMITS.score,
    )


def test_the_trained_bundle_in_fp16_is_verified_and_scored(small_bundle: Path, bundle_copy: Path) -> None:
    from edgeasd.runtime.bundle.bundle import Bundle, hash_file

    data = build_fp16(onnx.load(small_bundle / "encoder.fp32.onnx")).SerializeToString()
    (bundle_copy / "encoder.fp16.onnx").write_bytes(data)
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    tolerance = load_limits(Deviation(z=2e-3, logit=1e-3, d=1e-3, score=6e-4)).model_dump()
    manifest["precisions"]["fp16"] = {"file": "encoder.fp16.onnx", "tolerance": tolerance}
    manifest["files"]["encoder.fp16.onnx"] = {
        "sha256": hash_file(bundle_copy / "encoder.fp16.onnx"),
        "size": len(data),
    }
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with Bundle(bundle_copy) as bundle:
        scorer, found = bundle.open_scorer(precision="fp16", threads=1)
        assert scorer.engine.precision == "fp16"
        assert scorer.engine.name.endswith("1 thread, graph not optimised")
        assert 1e-6 < found.z < tolerance["z"]
        scorer.close()
        plain, _ = bundle.open_scorer(threads=1)
        assert plain.engine.precision == "fp32"
        assert "not optimised" not in plain.engine.name
