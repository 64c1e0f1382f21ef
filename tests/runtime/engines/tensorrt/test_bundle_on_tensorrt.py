"""The whole path of a score through TensorRT: choice, sidecar, engine, reference segments, batches, head, records.

The engine is a stand-in that calls ONNX Runtime, so nothing here proves that TensorRT computes anything. It proves
that what edgeasd does around an engine gives the same scores as without.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.engines import select as choice
from edgeasd.runtime.engines.onnxruntime import make_session
from edgeasd.runtime.engines.tensorrt import cuda as device
from edgeasd.runtime.engines.tensorrt import engine_file as built
from edgeasd.runtime.engines.tensorrt import engine_file as machine
from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.engines.tensorrt.engine_file import DeviceInfo, engine_paths
from edgeasd.runtime.errors import CheckFailed, DeviceError
from edgeasd.runtime.scoring.scorer import HEAD_OUTPUTS
from edgeasd.runtime.scoring.stream import Stream

pytestmark = pytest.mark.core

HERE = DeviceInfo("10.3.0", "Stand-in", "8.7", None)


class Site:
    """A bundle on a machine with a stand-in for TensorRT."""

    def __init__(self, bundle: Path, parts: Any) -> None:
        self.bundle, self.parts, self.cuda = bundle, parts, parts.Cuda()
        self.distort = 0.0

    def build(self, part: str = "encoder", max_batch: int = 10) -> None:
        """What `edgeasd build` leaves; the engine's bytes name the part."""
        manifest = json.loads((self.bundle / "manifest.json").read_text())
        path, beside = engine_paths(self.bundle, "fp32", part)
        path.parent.mkdir(exist_ok=True)
        data = f"{part} {max_batch}".encode()
        path.write_bytes(data)
        file = "head.onnx" if part == "head" else "encoder.fp32.onnx"
        facts = {
            **{"tensorrt": HERE.tensorrt, "gpu": HERE.gpu, "compute_capability": "8.7", "l4t": None},
            **{"onnx_sha256": manifest["files"][file]["sha256"], "precision": "fp32", "max_batch": max_batch},
            **{"flags": {}, "engine_sha256": hashlib.sha256(data).hexdigest(), "engine_size": len(data)},
            **{"schema_version": 1, "built_at": "2026-11-22T12:00:00+00:00", "edgeasd": "0.1.0"},
        }
        beside.write_text(json.dumps(facts))

    def engine(self, plan: bytes) -> Any:
        """The stand-in for an engine: its bytes name part and batch, ONNX Runtime computes."""
        part, largest = plan.decode().split()
        if part == "head":
            made = self.parts.Engine(self.cuda, dict.fromkeys(HEAD_OUTPUTS, 1), int(largest), True)
            made.input, made.row, made.flat = "z", (64,), frozenset(HEAD_OUTPUTS)
        else:
            made = self.parts.Engine(self.cuda, {"z": 64}, int(largest), True)
            made.row = (1, 256, 128)
        model = self.bundle / ("head.onnx" if part == "head" else "encoder.fp32.onnx")
        made.compute = self._by_onnxruntime(model, made)
        return made

    def _by_onnxruntime(self, model: Path, made: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        session, names = make_session(model, threads=1), list(made.outputs)

        def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
            found = session.run(names, {made.input: rows})
            return {name: value * np.float32(1 + self.distort) for name, value in zip(names, found)}

        return compute


@pytest.fixture
def site(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    spec = importlib.util.spec_from_file_location("stand_in_gpu", Path(__file__).with_name("stand_in_gpu.py"))
    assert spec is not None
    assert spec.loader is not None
    parts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parts)
    made = Site(Path(shutil.copytree(small_bundle, tmp_path / "valve-id_00")), parts)
    monkeypatch.setattr(choice, "tensorrt_present", lambda: True)
    monkeypatch.setattr(library, "load", lambda: parts.tensorrt(made.engine))
    monkeypatch.setattr(machine, "l4t_release", lambda: None)
    monkeypatch.setattr(device, "bindings", lambda: made.cuda)
    monkeypatch.setattr("edgeasd.runtime.engines.tensorrt.cuda.bindings", lambda: made.cuda)
    return made


@pytest.fixture
def segments() -> np.ndarray:
    return np.random.default_rng(5).normal(-1, 1, (23, 256, 128)).astype(np.float32)


def scores(bundle: Path, segments: np.ndarray, **options: Any) -> tuple[np.ndarray, str]:
    with Bundle(bundle) as opened:
        scorer, _ = opened.open_scorer(**options)
        found = scorer.score_segments(segments).score
        scorer.close()
    return found, scorer.engine.name


@pytest.mark.parametrize("built_for", [1, 4, 10, 32])
def test_scores_are_those_of_onnx_runtime(site: Site, segments: np.ndarray, built_for: int) -> None:
    site.build(max_batch=built_for)
    expected, _ = scores(site.bundle, segments, engine="onnxruntime", threads=1)
    found, name = scores(site.bundle, segments)
    assert name == "tensorrt 10.3.0 Stand-in (compute capability 8.7), CUDA graphs"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert site.cuda.held == {}


def test_the_head_as_an_engine_gives_the_same_and_is_named(site: Site, segments: np.ndarray) -> None:
    site.build()
    with pytest.raises(DeviceError, match=r"head\.fp32\.engine: no TensorRT engine .* type: edgeasd build \S+ --head"):
        scores(site.bundle, segments, head="tensorrt")
    assert site.cuda.held == {}, "the encoder stayed on the GPU"
    site.build("head", max_batch=4)
    expected, _ = scores(site.bundle, segments)
    found, name = scores(site.bundle, segments, head="tensorrt")
    assert name.endswith(", CUDA graphs, head as an engine of its own, CUDA graphs")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert site.cuda.held == {}


def test_a_wrong_engine_is_refused_and_freed(site: Site, segments: np.ndarray) -> None:
    site.build()
    site.distort = 0.01
    with pytest.raises(CheckFailed, match=r"reference segments are not reproduced by tensorrt 10\.3\.0 Stand-in"):
        scores(site.bundle, segments)
    assert site.cuda.held == {}


def test_a_live_stream_is_scored_alike(site: Site) -> None:
    site.build(max_batch=4)
    sound = (0.05 * np.random.default_rng(1).standard_normal(200_000)).astype(np.float32)
    made = {}
    for engine in ("onnxruntime", "tensorrt"):
        with Bundle(site.bundle) as opened:
            scorer, _ = opened.open_scorer(engine=engine)
            made[engine] = [score.score for score in Stream(scorer).push(sound)]
            scorer.close()
    assert len(made["tensorrt"]) > 10
    np.testing.assert_allclose(made["tensorrt"], made["onnxruntime"], rtol=0, atol=1e-6)


def test_the_compared_bytes_are_those_loaded(site: Site, segments: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine swapped between comparison and loading is not read again."""
    site.build()
    path, _ = engine_paths(site.bundle, "fp32")
    original = built.hashlib.sha256

    def swap_after_reading(data: bytes = b"") -> Any:
        if path.exists() and data == path.read_bytes():
            path.write_bytes(b"something else")
        return original(data)

    monkeypatch.setattr(built.hashlib, "sha256", swap_after_reading)
    found, _ = scores(site.bundle, segments)
    assert path.read_bytes() == b"something else"
    assert np.isfinite(found).all()
