"""head.onnx is the head: float32, exact where one minus p would be zero, and small enough to read."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.export.head import build_head
from edgeasd.runtime.scoring.score import relative_distance
from edgeasd.runtime.scoring.scorer import HEAD_OUTPUTS, Head


def parameters(size: int, seed: int = 0) -> tuple[np.ndarray, float, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, size).astype(np.float32), float(rng.normal()), rng.normal(0, 1, size).astype(np.float32)


def run(model: onnx.ModelProto, z: np.ndarray) -> dict[str, np.ndarray]:
    return Head(model.SerializeToString())(z)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Float64, without 1 - p on either side."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


@pytest.mark.parametrize("size", [1, 64, 2048])
def test_outputs_equal_float64(size: int) -> None:
    weight, bias, centroid = parameters(size)
    z = np.random.default_rng(1).normal(0, 1, (9, size)).astype(np.float32)
    found = run(build_head(weight, bias, centroid, 0.5, 12.0), z)
    exact_logit = z.astype(np.float64) @ weight.astype(np.float64) + bias
    exact_d = np.sum((z.astype(np.float64) - centroid) ** 2, axis=1)
    np.testing.assert_allclose(found["logit"], exact_logit, rtol=1e-5, atol=1e-5 * size**0.5)
    logit = found["logit"].astype(np.float64)
    np.testing.assert_allclose(found["q"], sigmoid(-logit), rtol=1e-5)
    np.testing.assert_allclose(found["p"], sigmoid(logit), rtol=1e-5)
    np.testing.assert_allclose(found["d"], exact_d, rtol=1e-5)
    np.testing.assert_allclose(found["d_prime"], (exact_d - 0.5) / 11.5, rtol=1e-5, atol=1e-6)
    assert set(found) == set(HEAD_OUTPUTS)
    assert all(v.dtype == np.float32 and v.shape == (9,) for v in found.values())


def test_q_keeps_its_relative_precision_to_a_logit_of_eighty() -> None:
    head = build_head(np.ones(1, np.float32), 0.0, np.zeros(1, np.float32), 0.0, 1.0)
    logits = np.arange(-80.0, 80.25, 0.25, dtype=np.float32)
    found = run(head, logits[:, None])
    np.testing.assert_array_equal(found["logit"], logits)
    exact = logits.astype(np.float64)
    np.testing.assert_allclose(found["q"], sigmoid(-exact), rtol=2e-6)
    np.testing.assert_allclose(found["p"], sigmoid(exact), rtol=2e-6)
    beyond = found["q"][logits >= 17]
    assert (np.diff(beyond) < 0).all(), "the most normal segments keep their order"
    assert (1.0 - found["p"][logits >= 17] == 0.0).all(), "which 1 - p would lose"


def test_logits_beyond_float32_saturate_and_are_never_nan() -> None:
    head = build_head(np.ones(1, np.float32), 0.0, np.zeros(1, np.float32), 0.0, 1.0)
    found = run(head, np.array([[-1e4], [-100.0], [100.0], [1e4]], np.float32))
    np.testing.assert_array_equal(found["q"][:2], [1.0, 1.0])
    np.testing.assert_array_equal(found["p"][2:], [1.0, 1.0])
    assert (found["q"][2:] < 1e-37).all()
    assert all(np.isfinite(found[name]).all() for name in ("q", "p"))


@settings(max_examples=40, deadline=None)
@given(
    d_min=st.floats(0.0, 1e4, width=32),
    spread=st.floats(0.0078125, 1e4, width=32),
    d=st.floats(0.0, 1e5, width=32),
)
def test_the_graph_s_d_prime_is_the_runtime_s(d_min: float, spread: float, d: float) -> None:
    d_max = float(np.float32(d_min + spread))
    if not d_max > d_min:
        return
    head = build_head(np.ones(1, np.float32), 0.0, np.zeros(1, np.float32), d_min, d_max)
    found = run(head, np.array([[np.sqrt(d)]], np.float32))
    expected = relative_distance(found["d"], d_min, d_max)
    # Float32 subtraction: what is lost is a rounding of d, in units of the spread.
    tolerance = 4e-7 * (1.0 + abs(expected[0]) + max(d, d_max) / (d_max - d_min))
    assert abs(found["d_prime"][0] - expected[0]) <= tolerance


def test_the_batch_is_free_and_rows_do_not_mix() -> None:
    head = Head(build_head(*parameters(8), 0.0, 1.0).SerializeToString())
    z = np.random.default_rng(2).normal(0, 1, (7, 8)).astype(np.float32)
    together = head(z)
    for row in range(7):
        for name, values in head(z[row : row + 1]).items():
            np.testing.assert_allclose(values[0], together[name][row], rtol=1e-6)


def test_the_graph_keeps_the_bundle_s_rules() -> None:
    model = build_head(*parameters(64), 0.5, 2.0)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version == 9
    assert {node.domain for node in model.graph.node} == {""}
    assert "Sigmoid" not in {node.op_type for node in model.graph.node}
    assert [i.name for i in model.graph.input] == ["z"]
    assert [o.name for o in model.graph.output] == list(HEAD_OUTPUTS)
    batch, size = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, size.dim_value) == ("N", 64)
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert len(floats) == len(model.graph.initializer) - 1
    one, two = (build_head(*parameters(64), 0.5, 2.0).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
