"""Drift: every figure against its definition, and limits that give their reasons."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgeasd.calibration.drift.drift import Drift, DriftLimits, measure_drift
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.scoring.score import ScoreSettings

pytestmark = pytest.mark.core

SCORE = ScoreSettings(
    alpha=0.5, alpha_source="test", d_min=1.0, d_max=3.0, d_min_source="test", d_max_source="test", mode="deploy"
)


def outputs(scores: np.ndarray, noise: np.ndarray | float = 0.0) -> list[SegmentOutputs]:
    """Clips (n, segments) whose segment scores are `scores`, half of each from q and half from d′."""
    wanted = scores + noise
    return [SegmentOutputs(row.astype(np.float32), (1 + 2 * row).astype(np.float32)) for row in wanted]


def clips(count: int, mean: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return mean + rng.normal(0, 0.05, (count, 1)) + rng.normal(0, 0.01, (count, 10))


def test_figures_are_what_they_say() -> None:
    normal, anomaly = clips(120, 0.2), clips(30, 0.6, seed=1)
    exact = np.concatenate([normal, anomaly])
    noise = np.random.default_rng(2).normal(0.002, 0.01, exact.shape)
    labels = [False] * 120 + [True] * 30
    found = measure_drift(outputs(exact), outputs(exact, noise), SCORE, 0.3, labels)
    before, after = exact.mean(axis=1), (exact + noise).mean(axis=1)
    change = (after - before)[:120]
    close = pytest.approx
    assert (found.normals, found.anomalies, found.segments) == (120, 30, 1500)
    assert found.largest == close(np.abs(change).max(), abs=1e-6)
    assert found.p99 == close(np.quantile(np.abs(change), 0.99), abs=1e-6)
    assert found.rms == close(np.sqrt((change**2).mean()), abs=1e-6)
    assert found.shift == close(change.mean(), abs=1e-6)
    assert found.largest_segment == close(np.abs(noise[:120]).max(), abs=1e-6)
    assert found.spread == close(before[:120].std(), abs=1e-6)
    assert found.margin == close(0.3 - np.median(before[:120]), abs=1e-6)
    assert found.relative == close(found.largest / found.margin)
    assert found.flipped_normals == np.count_nonzero((before[:120] > 0.3) != (after[:120] > 0.3))
    assert found.pairs[7] == close((before[7], after[7]), abs=1e-6)
    assert found.auc is not None
    assert found.auc.reference > 0.99
    assert 0.99 < found.rank_normals < found.rank_clips < 1
    assert found.anomalous == tuple(labels)


def test_no_change_is_no_drift() -> None:
    same = outputs(clips(30, 0.2))
    found = measure_drift(same, same, SCORE, 0.3)
    assert (found.rank_clips, found.largest, found.flipped_normals) == (1.0, 0.0, 0)
    assert found.auc is None
    assert found.limit_usage(DriftLimits.defaults("fp16")) == 0.0


def test_a_drift_survives_json() -> None:
    exact = np.concatenate([clips(30, 0.2), clips(5, 0.6)])
    found = measure_drift(outputs(exact), outputs(exact, 0.01), SCORE, 0.3, [False] * 30 + [True] * 5)
    assert Drift.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_without_a_threshold_the_spread_is_the_margin() -> None:
    exact = clips(30, 0.2)
    for threshold in (None, 0.1):
        found = measure_drift(outputs(exact), outputs(exact, 0.01), SCORE, threshold)
        assert found.margin == pytest.approx(3 * exact.mean(axis=1).std(), rel=1e-4)
        assert found.margin_source == "3 standard deviations of normal clips"
    assert measure_drift(outputs(exact), outputs(exact), SCORE, None).flipped_share is None


def broken(exact: np.ndarray, change: np.ndarray | float, **limits: float) -> list[str]:
    labels = [False] * 120 + [True] * 20
    found = measure_drift(outputs(exact), outputs(exact, change), SCORE, 0.35, labels)
    return found.violations(DriftLimits(**limits))


def test_each_limit_has_its_reason() -> None:
    exact = np.concatenate([clips(120, 0.2), clips(20, 0.42, seed=1)])
    noise = np.random.default_rng(3).normal(0, 0.08, (140, 1))
    reasons = broken(exact, noise)
    assert len(reasons) == 5
    for reason, start in zip(reasons, ("rank correlation 0.", "a normal clip's score", "", "AUC 1", "partial AUC")):
        assert reason.startswith(start)
    assert "of 120 normal clips change sides of the threshold; allowed 2" in reasons[2]
    assert broken(exact, 0.0) == []
    wide = {"largest_change": 9, "flipped_share": 1, "auc_loss": 1, "partial_auc_loss": 1}
    assert broken(exact, noise, rank_correlation=-1, **wide) == []


def test_a_limit_of_no_change_at_all_can_be_kept_and_broken() -> None:
    exact = np.concatenate([clips(120, 0.2), clips(20, 0.42, seed=1)])
    assert broken(exact, 0.0, rank_correlation=1, largest_change=0, auc_loss=0) == []
    assert len(broken(exact, np.random.default_rng(0).normal(0, 1e-3, (140, 1)), rank_correlation=1)) == 1


def test_one_flip_is_free_and_few_normals_have_no_partial_auc() -> None:
    exact = np.concatenate([clips(30, 0.2), clips(20, 0.6, seed=1)])
    exact[0] = 0.3495
    change = np.zeros((50, 1))
    change[0] = 0.001
    labels = [False] * 30 + [True] * 20
    found = measure_drift(outputs(exact), outputs(exact, change), SCORE, 0.35, labels)
    assert found.flipped_normals == 1
    assert found.violations(DriftLimits(partial_auc_loss=0)) == []


@pytest.mark.parametrize(
    ("limit", "value"),
    [("rank_correlation", 1.1), ("largest_change", -1), ("flipped_share", float("nan")), ("auc_loss", float("inf"))],
)
def test_a_limit_out_of_its_range_is_refused(limit: str, value: float) -> None:
    with pytest.raises(InputError, match="give"):
        DriftLimits(**{limit: value})


def test_what_cannot_be_compared_is_refused() -> None:
    same = outputs(clips(3, 0.2))
    with pytest.raises(InputError, match="3 clips of fp32, 2 of the variant and 3 labels"):
        measure_drift(same, same[:2], SCORE, 0.3)
    with pytest.raises(InputError, match="no normal clips"):
        measure_drift(same, same, SCORE, 0.3, [True] * 3)
    with pytest.raises(InputError, match="another number of segments"):
        measure_drift(same, [*same[:2], SegmentOutputs(same[2].q[:5], same[2].d[:5])], SCORE, 0.3)
    worse = outputs(np.full((3, 10), np.nan))
    with pytest.raises(CheckFailed, match="the variant gives clip 0 a score that is not a number"):
        measure_drift(same, worse, SCORE, 0.3)


def test_limits_of_fp16_are_stricter() -> None:
    half, int8 = DriftLimits.defaults("fp16"), DriftLimits.defaults("int8")
    assert half.rank_correlation > int8.rank_correlation
    assert half.largest_change < int8.largest_change
    with pytest.raises(InputError, match="precision fp32"):
        DriftLimits.defaults("fp32")
