"""The Mahalanobis baseline: what it measures, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.evaluation.baseline import MahalanobisBaseline
from edgeasd.toolkit.evaluation.metrics import auc

covariance = pytest.importorskip("sklearn.covariance")


def machine_clips(seed: int, n: int, bands: int = 128, shift: float = 0.0) -> list[NDArray[np.float32]]:
    """Log-mels with neighbouring bands correlated; `shift` lifts 8 bands in the middle (log10 units)."""
    random = np.random.default_rng(seed)
    clips = []
    for _ in range(n):
        colour = -3 + 0.02 * np.cumsum(random.normal(size=bands))
        colour[bands // 2 : bands // 2 + 8] += shift
        frames = int(random.integers(200, 400))
        clips.append((colour + 0.1 * random.normal(size=(frames, bands))).astype(np.float32))
    return clips


def test_the_baseline_is_scikit_learns_ledoit_wolf_distance() -> None:
    normals, tests = machine_clips(1, 60), machine_clips(2, 5, shift=0.3)
    reference = covariance.LedoitWolf().fit([clip.mean(axis=0, dtype=np.float64) for clip in normals])
    assert reference.shrinkage_ > 1e-3
    baseline = MahalanobisBaseline().fit(normals)
    for clip in tests:
        expected = math.sqrt(reference.mahalanobis(clip.mean(axis=0, dtype=np.float64)[None])[0])
        assert baseline.score(clip) == pytest.approx(expected, rel=1e-6)


def test_an_added_band_of_noise_is_found() -> None:
    baseline = MahalanobisBaseline().fit(machine_clips(3, 60))
    normal = [baseline.score(clip) for clip in machine_clips(4, 30)]
    anomalous = [baseline.score(clip) for clip in machine_clips(5, 30, shift=0.15)]
    assert auc(normal, anomalous) > 0.95


def test_two_clips_still_see_a_change_that_the_two_do_not_span() -> None:
    bands = 16
    base = np.full((10, bands), -3.0)
    low, high = base.copy(), base.copy()
    low[:, 0] -= 0.1
    high[:, 0] += 0.1
    baseline = MahalanobisBaseline().fit([low, high])
    other = base.copy()
    other[:, 5] += 0.1
    assert baseline.score(base) == pytest.approx(0.0, abs=1e-9)
    assert baseline.score(other) > baseline.score(high) > 0


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_the_distance_does_not_depend_on_units_or_level(seed: int, scale: float, level: float) -> None:
    normals, clip = machine_clips(seed, 12, bands=8), machine_clips(seed + 1, 1, bands=8, shift=0.1)[0]
    as_is = MahalanobisBaseline().fit(normals).score(clip)
    changed = [scale * c.astype(np.float64) + level for c in normals]
    rescaled = MahalanobisBaseline().fit(changed).score(scale * clip.astype(np.float64) + level)
    assert rescaled == pytest.approx(as_is, rel=1e-5)
    assert math.isfinite(as_is)
    assert as_is >= 0


def test_frames_may_be_shuffled_and_clips_may_differ_in_length() -> None:
    baseline = MahalanobisBaseline().fit(machine_clips(6, 20))
    clip = machine_clips(7, 1)[0]
    assert baseline.score(clip[::-1]) == pytest.approx(baseline.score(clip), rel=1e-9)
    assert baseline.score(np.tile(clip, (3, 1))) == pytest.approx(baseline.score(clip), rel=1e-9)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_clips_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"{n} normal clips"):
        MahalanobisBaseline().fit(machine_clips(8, n))


@pytest.mark.parametrize("level", [0.0, -10.0, -2.7182818])
def test_copies_of_one_clip_are_refused(level: float) -> None:
    with pytest.raises(InputError, match="all 7 normal clips have the same mean spectrum"):
        MahalanobisBaseline().fit([np.full((30, 128), level, np.float32)] * 7)
    with pytest.raises(InputError, match="same mean spectrum"):
        MahalanobisBaseline().fit(machine_clips(9, 1) * 5)


def test_damaged_log_mels_are_refused_by_position() -> None:
    clips = machine_clips(10, 4)
    clips[2] = clips[2].copy()
    clips[2][17, 3] = np.nan
    with pytest.raises(InputError, match="clip 2: log-mel is nan at frame 17, band 3"):
        MahalanobisBaseline().fit(clips)
    baseline = MahalanobisBaseline().fit(machine_clips(11, 4))
    with pytest.raises(InputError, match="frame 17, band 3"):
        baseline.score(clips[2])


@pytest.mark.parametrize("shape", [(256, 64), (128,), (1, 256, 128), (0, 128)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    clips = machine_clips(12, 3)
    baseline = MahalanobisBaseline().fit(clips)
    with pytest.raises(InputError, match="expected \\(frames, 128\\)"):
        baseline.score(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="clip 3"):
        MahalanobisBaseline().fit([*clips, np.zeros(shape, np.float32)])


def test_a_score_before_fitting_is_a_programming_error() -> None:
    with pytest.raises(RuntimeError, match="before fit"):
        MahalanobisBaseline().score(np.zeros((10, 128)))
