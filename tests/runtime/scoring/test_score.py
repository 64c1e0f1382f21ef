"""The score: s = α q + (1 - α) d′, with a q that still ranks where p is 1 in float32."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeasd.runtime.bundle.manifest import Manifest, parse_manifest
from edgeasd.runtime.scoring.score import ClipMean, ScoreSettings, SegmentScores, blend, relative_distance
from edgeasd.runtime.scoring.scorer import Head

pytestmark = pytest.mark.core

FINITE = st.floats(-1e6, 1e6)


def constants(alpha: float, d_min: float = 1.0, d_max: float = 3.0) -> ScoreSettings:
    return ScoreSettings(
        alpha=alpha, alpha_source="here", d_min=d_min, d_max=d_max, d_min_source="here", d_max_source="here"
    )


# Equation 5


@given(st.floats(0, 1), FINITE, st.floats(0, 1))
def test_the_blend_is_equation_5(q: float, d_prime: float, alpha: float) -> None:
    found = float(blend(np.array([q]), np.array([d_prime]), alpha)[0])
    assert found == pytest.approx(alpha * q + (1 - alpha) * d_prime, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("worst", [math.inf, -math.inf, math.nan])
def test_a_term_of_weight_zero_is_left_out(worst: float) -> None:
    assert blend(np.array([0.25]), np.array([worst]), 1.0).tolist() == [0.25]
    assert blend(np.array([worst]), np.array([0.75]), 0.0).tolist() == [0.75]


def test_an_infinite_distance_is_an_infinite_score_and_not_nan() -> None:
    head = {"logit": np.float32([1.0]), "q": np.float32([0.5]), "d": np.float32([np.inf])}
    assert SegmentScores.from_head(head, constants(0.5)).score[0] == math.inf
    assert SegmentScores.from_head(head, constants(1.0)).score[0] == 0.5


@given(st.floats(0, 1e4), st.floats(-100, 100), st.floats(1e-3, 100))
def test_relative_distance_is_linear_and_not_clipped(d: float, d_min: float, spread: float) -> None:
    found = float(relative_distance(np.array(d), d_min, d_min + spread))
    assert found * spread + d_min == pytest.approx(d, rel=1e-9, abs=1e-6)


def test_relative_distance_is_0_at_d_min_and_1_at_d_max() -> None:
    assert relative_distance(np.array([2.0, 6.0, 0.0, 10.0]), 2.0, 6.0).tolist() == [0.0, 1.0, -0.5, 2.0]


def test_scores_are_float64_and_keep_the_heads_values() -> None:
    head = {name: np.float32([0.1, 0.2]) for name in ("logit", "q", "d")}
    scores = SegmentScores.from_head(head, constants(0.3))
    assert len(scores) == 2
    assert scores.score.dtype == scores.d_prime.dtype == np.float64
    assert scores.q is head["q"]


@pytest.mark.parametrize(("d_min", "d_max"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_range_that_is_none_is_refused(d_min: float, d_max: float) -> None:
    with pytest.raises(ValidationError):
        constants(0.5, d_min, d_max)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(ValidationError):
        constants(alpha)


# The clip mean


@given(st.lists(FINITE, min_size=1, max_size=40), st.integers(1, 12))
def test_the_clip_score_is_the_mean_of_the_last_k(scores: list[float], sections: int) -> None:
    mean = ClipMean(sections)
    for count, score in enumerate(scores, start=1):
        value, averaged, complete = mean.add(score)
        last = scores[max(0, count - sections) : count]
        assert averaged == len(last)
        assert complete == (count >= sections)
        assert value == pytest.approx(math.fsum(last) / len(last), rel=1e-9, abs=1e-6)


def test_after_a_reset_the_mean_starts_afresh() -> None:
    mean = ClipMean(3)
    for score in (5.0, 6.0, 7.0):
        mean.add(score)
    mean.reset()
    assert mean.add(1.0) == (1.0, 1, False)


# The head of a real bundle


@pytest.fixture(scope="module")
def manifest(small_bundle: Path) -> Manifest:
    return parse_manifest((small_bundle / "manifest.json").read_bytes(), "manifest")


@pytest.fixture(scope="module")
def head(small_bundle: Path) -> Head:
    return Head(small_bundle / "head.onnx")


@pytest.fixture(scope="module")
def probed(head: Head, manifest: Manifest) -> tuple[np.ndarray, float, np.ndarray]:
    """(weights, bias, centroid), found by asking the head about 0 and the unit vectors."""
    size = manifest.network.embedding
    origin, units = head(np.zeros((1, size), np.float32)), head(np.eye(size, dtype=np.float32))
    weights = units["logit"].astype(np.float64) - float(origin["logit"][0])
    # ‖e - c‖² = ‖c‖² + 1 - 2 c·e
    centroid = (float(origin["d"][0]) + 1.0 - units["d"].astype(np.float64)) / 2.0
    return weights, float(origin["logit"][0]), centroid


def embeddings_with(logits: np.ndarray, probed: tuple[np.ndarray, float, np.ndarray]) -> np.ndarray:
    weights, bias, _ = probed
    return ((logits[:, None] - bias) * weights / np.dot(weights, weights)).astype(np.float32)


def test_q_is_precise_up_to_logits_of_80(head: Head, probed: tuple[np.ndarray, float, np.ndarray]) -> None:
    wanted = np.linspace(-80, 80, 321)
    found = head(embeddings_with(wanted, probed))
    logit = found["logit"].astype(np.float64)
    np.testing.assert_allclose(logit, wanted, rtol=0, atol=1e-4)
    expected_q = np.where(logit > 0, np.exp(-np.abs(logit)), 1.0) / (1.0 + np.exp(-np.abs(logit)))
    expected_p = np.where(logit > 0, 1.0, np.exp(-np.abs(logit))) / (1.0 + np.exp(-np.abs(logit)))
    np.testing.assert_allclose(found["q"], expected_q, rtol=1e-5)
    np.testing.assert_allclose(found["p"], expected_p, rtol=1e-5)


def test_the_ranking_of_the_most_normal_is_kept(head: Head, probed: tuple[np.ndarray, float, np.ndarray]) -> None:
    found = head(embeddings_with(np.arange(15.0, 81.0, 0.5), probed))
    assert (np.diff(found["q"]) < 0).all()
    assert (found["q"] > 0).all()
    # whereas 1 - p has long lost it
    assert (1.0 - found["p"] == 0).sum() > 100


def test_extreme_logits_give_neither_nan_nor_a_warning(
    head: Head, probed: tuple[np.ndarray, float, np.ndarray]
) -> None:
    found = head(embeddings_with(np.array([-1e6, -200.0, 200.0, 1e6]), probed))
    np.testing.assert_allclose(found["q"], [1, 1, 0, 0], atol=1e-30)
    np.testing.assert_allclose(found["p"], [0, 0, 1, 1], atol=1e-30)


def test_d_is_the_squared_distance_from_the_centroid(head: Head, probed: tuple[np.ndarray, float, np.ndarray]) -> None:
    weights, bias, centroid = probed
    z = np.random.default_rng(0).normal(0.3, 1.0, (50, len(weights))).astype(np.float32)
    found = head(z)
    np.testing.assert_allclose(found["d"], np.sum((z - centroid) ** 2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["logit"], z @ weights + bias, rtol=0, atol=1e-4)
    assert all(values.shape == (50,) and values.dtype == np.float32 for values in found.values())


def test_the_heads_d_prime_equals_that_of_the_manifest(head: Head, manifest: Manifest) -> None:
    z = np.random.default_rng(1).normal(0.3, 1.0, (50, manifest.network.embedding)).astype(np.float32)
    found = head(z)
    from_manifest = relative_distance(found["d"], manifest.score.d_min, manifest.score.d_max)
    np.testing.assert_allclose(found["d_prime"], from_manifest, rtol=1e-5, atol=1e-6)
