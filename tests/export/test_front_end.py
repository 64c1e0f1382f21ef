"""Log-mel as a graph: the same features in float32, how far from the runtime's, and where float32 does not do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.export.front_end import FRONT_END, build_front_end, measure_front_end
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.bundle.onnx_check import inspect_onnx
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.features.framing import frame_samples
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.toolkit.models.front_ends import EFFICIENTAT, PANNS

RATE = 16_000


def noise(seconds: float, seed: int = 0, level: float = 0.05) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def through(model: onnx.ModelProto, sound: np.ndarray, features: FeatureSettings, amplitude: Amplitude) -> np.ndarray:
    """Log-mel (T, n_mels) of all frames at once, by the graph."""
    session = make_session(model.SerializeToString(), threads=1)
    found = session.run(None, {"frames": np.array(frame_samples(sound, features, amplitude))[None]})[0]
    assert found.shape[:2] == (1, 1)
    return np.asarray(found[0, 0])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    level=st.floats(1e-3, 0.9),
    mean=st.floats(-0.1, 0.1),
    std=st.floats(1e-3, 1.0),
)
def test_the_graph_computes_the_features_of_the_runtime(seed: int, level: float, mean: float, std: float) -> None:
    features, amplitude = FeatureSettings(), Amplitude(mean=mean, std=std)
    sound = np.float32(mean) + noise(1.0, seed, level)
    expected = logmel(sound, features, amplitude)
    found = through(build_front_end(features, len(expected)), sound, features, amplitude)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_other_settings_make_another_graph() -> None:
    features = FeatureSettings(n_fft=400, hop_length=160, n_mels=40, f_min=20.0, f_max=7600.0, log_floor=1e-6)
    sound = noise(0.5)
    expected = logmel(sound, features, Amplitude())
    found = through(build_front_end(features, len(expected)), sound, features, Amplitude())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("features", [EFFICIENTAT, PANNS], ids=["efficientat", "panns"])
@pytest.mark.parametrize("level", [0.3, 0.003])
def test_front_ends_of_pretrained_encoders_have_a_graph(features: FeatureSettings, level: float) -> None:
    sound = (level * np.random.default_rng(3).standard_normal(32_000)).astype(np.float32)
    expected = logmel(sound, features, Amplitude())
    found = through(build_front_end(features, len(expected)), sound, features, Amplitude())
    # The limit of a loaded engine, in decades of amplitude
    assert np.abs(found - expected).max() / features.decade < 1e-5


def test_the_graph_of_the_defaults_is_unchanged() -> None:
    graph = build_front_end(FeatureSettings(), 4).graph
    assert [node.op_type for node in graph.node] == [
        *("MatMul", "MatMul", "Mul", "Mul", "Add", "Sqrt", "MatMul", "Max", "Log", "Mul", "Unsqueeze")
    ]


def test_silence_is_the_floor_and_not_minus_infinity() -> None:
    features = FeatureSettings()
    found = through(build_front_end(features, 3), np.zeros(2048, np.float32), features, Amplitude())
    np.testing.assert_allclose(found, -10.0, atol=1e-6)


def test_float32_shows_where_sound_leaves_bands_empty() -> None:
    """Why the deviation is measured on real clips and not promised: a pure tone is off by more than a decade."""
    features = FeatureSettings()
    tone = np.sin(2 * np.pi * 1000.0 * np.arange(RATE) / RATE).astype(np.float32)
    expected = logmel(tone, features, Amplitude())
    found = through(build_front_end(features, len(expected)), tone, features, Amplitude())
    assert np.abs(found - expected).max() > 0.3
    loud = expected > expected.max() - 3.0
    np.testing.assert_allclose(found[loud], expected[loud], rtol=0, atol=1e-3)


def test_it_is_as_the_bundle_wants_its_graphs(tmp_path: Path) -> None:
    model = build_front_end(FeatureSettings(), 256)
    path = tmp_path / FRONT_END
    path.write_bytes(model.SerializeToString())
    header = inspect_onnx(path)
    assert (header.opsets, header.ir_version <= 10) == ({"": 19}, True)
    assert {node.op_type for node in model.graph.node} <= {"MatMul", "Mul", "Add", "Sqrt", "Max", "Log", "Unsqueeze"}
    shape = model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in shape] == ["N", 1, 256, 128]
    assert path.stat().st_size < 5_000_000


def test_tensorrt_for_rtx_builds_it(tmp_path: Path) -> None:
    """Parsing, typing and building without a GPU; it is run nowhere here."""
    trt: ModuleType = pytest.importorskip("tensorrt_rtx", reason="NO TENSORRT FOR RTX: the front end is not built")
    from edgeasd.runtime.engine_build.builder import build_plan
    from edgeasd.runtime.engines.tensorrt.engine_file import BuildOptions

    path = tmp_path / FRONT_END
    path.write_bytes(build_front_end(FeatureSettings(), 256).SerializeToString())

    def for_sm86(configuration: Any) -> None:
        configuration.num_compute_capabilities = 1
        configuration.set_compute_capability(trt.ComputeCapability.SM86, 0)

    assert build_plan(trt, path, BuildOptions(max_batch=4), configure=for_sm86).size > 10_000


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """The small bundle with a front end."""
    folder = Path(shutil.copytree(small_bundle, tmp_path / "valve-id_00"))
    manifest = json.loads((folder / "manifest.json").read_text())
    path = folder / FRONT_END
    path.write_bytes(build_front_end(FeatureSettings(), 256).SerializeToString())
    manifest["files"][FRONT_END] = {"sha256": hash_file(path), "size": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_its_deviation_is_the_largest_over_the_clips(bundle: Path) -> None:
    with Bundle(bundle) as opened:
        one = measure_front_end(opened, [noise(10.0)])
        both = measure_front_end(opened, [noise(10.0), noise(12.5, seed=1)])
    assert (one.clips, both.clips) == (1, 2)
    assert 0 < one.logmel <= both.logmel < 1e-4
    assert 0 < one.score <= both.score < 1e-4


def test_a_front_end_that_moves_scores_is_refused(bundle: Path) -> None:
    """One whose bands are those of another range, as a wrong graph would have."""
    path = bundle / FRONT_END
    path.write_bytes(build_front_end(FeatureSettings(f_min=300.0), 256).SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][FRONT_END] = {"sha256": hash_file(path), "size": path.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with Bundle(bundle) as opened, pytest.raises(CheckFailed) as error:
        measure_front_end(opened, [noise(10.0)])
    assert str(error.value).startswith("frontend.onnx: moves a score by ")
    assert "export without --front-end" in str(error.value)


def test_without_a_clip_nothing_is_claimed(bundle: Path) -> None:
    with Bundle(bundle) as opened, pytest.raises(InputError, match="--front-end: no clips"):
        measure_front_end(opened, [])


def test_frames_are_views_of_normalised_samples() -> None:
    features, amplitude = FeatureSettings(), Amplitude(mean=0.1, std=0.5)
    sound = noise(1.0)
    frames = frame_samples(sound, features, amplitude)
    assert frames.shape == (features.frame_count(sound.size), 1024)
    assert np.shares_memory(frames[0], frames[1])
    np.testing.assert_allclose(frames[3], (sound[1536:2560] - 0.1) / 0.5, rtol=0, atol=1e-6)
    assert frame_samples(sound[:1023], features, amplitude).shape == (0, 1024)
    with pytest.raises(InputError):
        frame_samples(np.full(2048, np.nan, np.float32), features, amplitude)
