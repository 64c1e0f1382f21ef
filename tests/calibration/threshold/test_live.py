"""Live score series: the same numbers as a stream gives, with their correlation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeasd.calibration.threshold.live import LiveNormals, Recording, live_clip_scores, live_normals
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.stream import Stream

pytestmark = pytest.mark.core

HOP, WINDOW = 0.192, 9.952


def normals(*series: np.ndarray) -> LiveNormals:
    return LiveNormals(
        tuple(Recording(np.asarray(s, np.float64), f"{i}.wav", "0" * 64) for i, s in enumerate(series)), HOP, WINDOW
    )


def test_outputs_of_live_segments_give_the_scores_of_a_stream(small_bundle: Path) -> None:
    samples = (0.02 * np.random.default_rng(0).standard_normal(16_000 * 14)).astype(np.float32)
    with Bundle(small_bundle) as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
        scores = Stream(scorer).push(samples)
        manifest = bundle.manifest
    q, d = (np.array([getattr(s, name) for s in scores], np.float32) for name in ("q", "d"))
    found = live_clip_scores(manifest.score, q, d, manifest.segments.sections)
    np.testing.assert_allclose(found, [s.clip_score for s in scores if s.complete], rtol=1e-12)
    assert live_clip_scores(manifest.score, q[:9], d[:9], 10).shape == (0,)
    live = live_normals([Recording(found)], manifest.features, manifest.segments)
    assert (live.hop_seconds, live.window_seconds) == pytest.approx((HOP, WINDOW))
    assert live.hours == pytest.approx(len(found) * HOP / 3600)


def test_the_autocorrelation_of_a_known_process() -> None:
    rng = np.random.default_rng(1)
    series = [np.convolve(rng.standard_normal(40_000), np.ones(20), "valid") for _ in range(2)]
    found = normals(*series).autocorrelation(30)
    expected = np.maximum(0, 1 - np.arange(31) / 20)
    np.testing.assert_allclose(found, expected, atol=0.06)
    slow = np.convolve(rng.standard_normal(200_000), np.ones(300), "valid")
    assert 240 <= normals(slow).memory_hops() <= 300
    assert normals(rng.standard_normal(5000)).memory_hops() == 52, "never less than the sound that scores share"


def test_a_slow_drift_has_at_most_two_minutes_of_memory() -> None:
    drift = np.linspace(0, 10, 50_000) + np.random.default_rng(0).standard_normal(50_000)
    assert normals(drift).memory_hops() == int(120 / HOP)
    assert normals(np.ones(100)).memory_hops() == 52
    np.testing.assert_array_equal(normals(np.ones(100)).autocorrelation(3), [1, 0, 0, 0])


def test_scores_that_cannot_be_used_are_refused_by_place() -> None:
    with pytest.raises(InputError, match=r"1.wav: live score 2 is nan"):
        normals(np.zeros(3), np.array([0, 0, np.nan]))
    with pytest.raises(InputError, match=r"no complete live score; each needs 9.952 s"):
        normals(np.empty(0))
    with pytest.raises(InputError, match="hop 0"):
        LiveNormals((Recording(np.zeros(3)),), 0, 1)
