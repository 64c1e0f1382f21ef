"""The frozen constants of a bundle: from which clips, on which scale, and with which first threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.calibration.fit.deploy import HELD_OUT, TRAINING, Alpha, SegmentOutputs, clip_scores, fit_deploy
from edgeasd.calibration.threshold.alarms_per_day import alarm_levels
from edgeasd.calibration.threshold.headroom import headroom_of_clips
from edgeasd.calibration.threshold.live import live_clip_scores
from edgeasd.runtime.errors import CheckFailed, InputError

pytestmark = pytest.mark.core


def clips(count: int, seed: int, low: float, high: float, segments: int = 10) -> list[SegmentOutputs]:
    rng = np.random.default_rng(seed)
    return [
        SegmentOutputs(rng.random(segments, np.float32), (low + (high - low) * rng.random(segments)).astype(np.float32))
        for _ in range(count)
    ]


NORMALS, OUTLIERS = clips(12, 1, 1.0, 3.0), clips(20, 2, 5.0, 90.0)


def by_hand(clip: SegmentOutputs, alpha: float, d_min: float, d_max: float) -> float:
    scores = [alpha * float(q) + (1 - alpha) * (float(d) - d_min) / (d_max - d_min) for q, d in zip(clip.q, clip.d)]
    return sum(scores) / len(scores)


def test_constants_are_computed_from_the_clips() -> None:
    fit = fit_deploy("bce+ddcsad", None, NORMALS, OUTLIERS)
    assert fit.score.d_min == float(min(c.d.min() for c in NORMALS))
    assert fit.score.d_max == pytest.approx(np.percentile(np.concatenate([c.d for c in OUTLIERS]), 5.0))
    assert (fit.score.alpha, fit.score.mode, fit.score.method) == (0.5, "deploy", "bce+ddcsad")
    assert fit.score.alpha_source == "0.5: no labelled validation clips"
    assert fit.status == "calibrated"


def test_threshold_has_headroom_above_the_clip_scores() -> None:
    fit = fit_deploy("bce+ddcsad", None, NORMALS, OUTLIERS)
    assert fit.threshold is not None
    by_formula = headroom_of_clips(clip_scores(fit.score, NORMALS), 9.952)
    assert fit.threshold.clip == pytest.approx(by_formula.clip, rel=1e-3)
    assert fit.threshold.clip > max(clip_scores(fit.score, NORMALS))
    assert (fit.threshold.consecutive, fit.threshold.clips) == (3, 12)


def test_live_scores_count_where_they_are_known() -> None:
    """The sliding mean over the seams reaches higher than any clip score."""
    live = SegmentOutputs(*(np.concatenate([getattr(c, name) for c in NORMALS]) for name in ("q", "d")))
    live.d[25:37] *= 3
    fit = fit_deploy("bce+ddcsad", None, NORMALS, OUTLIERS, live=live)
    assert fit.threshold is not None
    assert fit.threshold.found_by.startswith("exponential tail of held-out live scores")
    levels = alarm_levels(live_clip_scores(fit.score, live.q, live.d, 10), 3)
    assert fit.threshold.clip > levels.max() > max(clip_scores(fit.score, NORMALS))


def test_a_chosen_alpha_counts_unless_the_method_fixes_it() -> None:
    chosen = Alpha(0.2, "chosen on 12 normal and 20 anomalous validation clips")
    fit = fit_deploy("bce+ddcsad", None, NORMALS, OUTLIERS, alpha=chosen)
    assert (fit.score.alpha, fit.score.alpha_source) == (chosen.value, chosen.source)
    assert fit.threshold is not None
    scores = [by_hand(c, 0.2, fit.score.d_min, fit.score.d_max) for c in NORMALS]
    assert fit.threshold.clip == pytest.approx(headroom_of_clips(scores, 9.952).clip, rel=1e-3)
    fixed = fit_deploy("bce", 1.0, NORMALS, OUTLIERS, alpha=chosen).score
    assert (fixed.alpha, fixed.alpha_source) == (1.0, "fixed by the method bce")


def test_a_threshold_from_few_clips_warns() -> None:
    fit = fit_deploy("bce+ddcsad", None, NORMALS[:2], OUTLIERS)
    assert fit.threshold is not None
    assert fit.threshold.warning is not None
    assert "20 s of held-out normal sound" in fit.threshold.warning


@pytest.mark.parametrize(
    ("method", "fixed", "alpha", "source"),
    [
        ("bce", 1.0, 1.0, "fixed by the method bce"),
        ("dsad", 0.0, 0.0, "fixed by the method dsad"),
        ("bce+dsad", None, 0.5, "0.5: no labelled validation clips"),
    ],
)
def test_alpha_is_the_method_s_or_a_half(method: str, fixed: float | None, alpha: float, source: str) -> None:
    fit = fit_deploy(method, fixed, NORMALS, OUTLIERS)
    assert (fit.score.alpha, fit.score.alpha_source) == (alpha, source)
    for clip, score in zip(NORMALS, clip_scores(fit.score, NORMALS), strict=True):
        assert score == pytest.approx(by_hand(clip, alpha, fit.score.d_min, fit.score.d_max), rel=1e-12)


@pytest.mark.parametrize(
    ("normal", "outlier", "status"),
    [
        (HELD_OUT, HELD_OUT, "calibrated"),
        (TRAINING, TRAINING, "uncalibrated"),
        ("given", TRAINING, "calibrated"),
        ("given", HELD_OUT, "calibrated"),
    ],
)
def test_the_record_says_what_the_clips_were(normal: str, outlier: str, status: str) -> None:
    fit = fit_deploy("bce+ddcsad", None, NORMALS, OUTLIERS, normal_origin=normal, outlier_origin=outlier)
    assert fit.score.d_min_source == f"minimum over 120 {normal} normal segments"
    assert fit.score.d_max_source == f"5th percentile over 200 {outlier} outlier segments"
    assert fit.status == status
    assert (fit.threshold is None) is (status == "uncalibrated")
    if fit.threshold is not None:
        assert fit.threshold.found_by.startswith(f"exponential tail of {normal} clip scores: ")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    normals=st.integers(1, 15),
    outliers=st.integers(1, 15),
    segments=st.integers(1, 12),
    fixed=st.sampled_from([None, 0.0, 1.0]),
)
def test_no_held_out_clip_alarms_by_itself(
    seed: int, normals: int, outliers: int, segments: int, fixed: float | None
) -> None:
    own = clips(normals, seed, 1.0, 3.0, segments)
    fit = fit_deploy("bce+ddcsad", fixed, own, clips(outliers, seed + 1, 4.0, 50.0, segments))
    assert fit.threshold is not None
    assert not any(score > fit.threshold.clip for score in clip_scores(fit.score, own))


def test_clips_of_different_lengths_each_count_once() -> None:
    short = SegmentOutputs(np.array([0.5], np.float32), np.array([2.0], np.float32))
    fit = fit_deploy("bce+ddcsad", None, [*NORMALS, short], OUTLIERS)
    assert len(clip_scores(fit.score, [*NORMALS, short])) == 13
    assert clip_scores(fit.score, [short])[0] == pytest.approx(by_hand(short, 0.5, fit.score.d_min, fit.score.d_max))


def test_what_gives_no_constants_is_refused() -> None:
    with pytest.raises(InputError, match="0 held-out normal segments give no d_min"):
        fit_deploy("bce+ddcsad", None, [], OUTLIERS)
    with pytest.raises(CheckFailed, match="does not separate the outliers from the normals"):
        fit_deploy("bce+ddcsad", None, OUTLIERS, NORMALS)
    broken = SegmentOutputs(NORMALS[0].q, np.full(10, np.nan, np.float32))
    with pytest.raises(InputError, match="held-out normal clip 1, segment 0: distance nan"):
        fit_deploy("bce+ddcsad", None, [NORMALS[0], broken], OUTLIERS)
