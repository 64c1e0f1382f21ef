"""The reference segments as the proof of a new engine. ONNX Runtime stands in for an engine that TensorRT would run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.engine_build.bundle_engines import verify_encoder, verify_head
from edgeasd.runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgeasd.runtime.errors import BundleError, CheckFailed
from edgeasd.runtime.scoring.scorer import Head

pytestmark = pytest.mark.core


class StandIn:
    """Both engines of TensorRT, computed by ONNX Runtime from the bundle, off by `error`; keeps what was closed."""

    def __init__(self, bundle: Path, error: float = 0.0) -> None:
        self.bundle, self.error = bundle, error
        self.closed: list[str] = []
        self.asked: list[Any] = []

    def encoder(self, path: Path, *, precision: str, accelerator: str, max_batch: int) -> Any:
        self.asked.append((path.name, precision, accelerator, max_batch))
        inner = OnnxRuntimeEngine(self.bundle / "encoder.fp32.onnx", threads=1, max_batch=max_batch)
        return SimpleNamespace(
            name="stand-in",
            precision=precision,
            max_batch=max_batch,
            embed=lambda batch: inner.embed(batch) * np.float32(1 + self.error),
            close=lambda: self.closed.append("encoder"),
        )

    def head(self, path: Path, *, accelerator: str, max_batch: int) -> Any:
        self.asked.append((path.name, accelerator, max_batch))
        inner = Head(self.bundle / "head.onnx")

        class Engine:
            def __call__(_, z: np.ndarray) -> dict[str, np.ndarray]:
                return {name: value * np.float32(1 + self.error) for name, value in inner(z).items()}

            def close(_) -> None:
                self.closed.append("head")

        return Engine()


@pytest.fixture
def stand_in(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn(small_bundle)
    module = SimpleNamespace(TensorRTEngine=stand_in.encoder, TensorRTHead=stand_in.head)
    monkeypatch.setitem(sys.modules, "edgeasd.runtime.engines.tensorrt.engine", module)
    return stand_in


def test_an_encoder_that_computes_the_model_is_proven(small_bundle: Path, stand_in: StandIn) -> None:
    with Bundle(small_bundle) as bundle:
        found = verify_encoder(bundle, "fp32", Path("encoder.fp32.engine"), "cuda:1", 4)
    assert 0 <= found.score < 1e-5
    assert (stand_in.asked, stand_in.closed) == ([("encoder.fp32.engine", "fp32", "cuda:1", 4)], ["encoder"])


def test_a_wrong_encoder_fails_and_is_closed(small_bundle: Path, stand_in: StandIn) -> None:
    stand_in.error = 0.01
    with Bundle(small_bundle) as bundle, pytest.raises(CheckFailed, match="reference segments are not reproduced"):
        verify_encoder(bundle, "fp32", Path("encoder.fp32.engine"), "cuda:0", 4)
    assert stand_in.closed == ["encoder"]


def test_a_head_is_proven_on_the_golden_embeddings(small_bundle: Path, stand_in: StandIn) -> None:
    with Bundle(small_bundle) as bundle:
        found = verify_head(bundle, Path("head.fp32.engine"), "cuda:0", 4)
    assert found.z == 0
    assert 0 <= found.logit < 1e-5
    assert stand_in.closed == ["head"]


@pytest.mark.parametrize("error", [0.01, np.nan])
def test_a_head_that_computes_something_else_is_not(small_bundle: Path, stand_in: StandIn, error: float) -> None:
    stand_in.error = error
    with Bundle(small_bundle) as bundle, pytest.raises(CheckFailed, match=r"head\.fp32\.engine: .*on the CPU"):
        verify_head(bundle, Path("head.fp32.engine"), "cuda:0", 4)
    assert stand_in.closed == ["head"]


def test_an_encoder_of_another_shape_is_refused(
    small_bundle: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = stand_in.encoder

    def narrow(*given: Any, **named: Any) -> Any:
        engine = encoder(*given, **named)
        embed = engine.embed
        engine.embed = lambda batch: embed(batch)[:, :3]
        return engine

    monkeypatch.setattr(sys.modules["edgeasd.runtime.engines.tensorrt.engine"], "TensorRTEngine", narrow)
    with Bundle(small_bundle) as bundle, pytest.raises(BundleError, match="embeddings of shape"):
        verify_encoder(bundle, "fp32", Path("encoder.fp32.engine"), "cuda:0", 4)
