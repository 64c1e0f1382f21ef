"""The threshold of the first day: from live scores of held-out normals, with headroom, on a stated basis."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeasd.calibration.threshold.alarms_per_day import AlarmCurve
from edgeasd.calibration.threshold.headroom import ENOUGH_WINDOWS, headroom_of_clips, headroom_threshold
from edgeasd.calibration.threshold.live import LiveNormals, Recording
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core

HOP, WINDOW = 0.192, 9.952


def normals(count: int, seed: int = 0) -> LiveNormals:
    draw = np.random.default_rng(seed)
    scores = np.convolve(draw.gamma(2.0, 0.1, count + 9), np.full(10, 0.1), "valid")
    return LiveNormals((Recording(scores),), HOP, WINDOW)


@pytest.mark.parametrize("seed", range(5))
def test_no_given_normal_raises_an_alarm(seed: int) -> None:
    live = normals(400, seed)
    fitted = headroom_threshold(live)
    assert AlarmCurve.of([live.recordings[0].scores], 3).count(fitted.clip) == 0


def test_the_manifest_says_how_it_was_found() -> None:
    fitted = headroom_threshold(normals(400), clips=7)
    assert fitted.found_by.startswith("exponential tail of held-out live scores: one alarm in ")
    assert fitted.clips == 7
    assert fitted.interval95 is not None
    assert fitted.hours == pytest.approx(400 * HOP / 3600, rel=0.2)
    assert fitted.stored().hours == fitted.hours


def test_little_sound_is_warned_of_and_states_no_rate() -> None:
    few, many = headroom_threshold(normals(400)), headroom_threshold(normals(60 * ENOUGH_WINDOWS))
    assert few.promise is None
    assert few.warning is not None
    assert "burn_in" in few.warning
    assert many.warning is None
    assert many.promise is not None
    assert many.promise.extrapolation


def test_clip_scores_serve_where_there_are_no_live_ones() -> None:
    fitted = headroom_of_clips([0.1, 0.2, 0.3], WINDOW, origin="given")
    assert fitted.clip > 0.3
    assert "given clip scores" in fitted.found_by


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "0 held-out normal clips"),
        ([0.1, 0.2, math.nan], "score 2 of 3 is nan"),
        ([math.inf, 0.2], "score 0 of 2 is inf"),
        ([[0.1, 0.2], [0.3, 0.4]], r"shape \(2, 2\)"),
    ],
)
def test_scores_that_give_no_threshold_are_refused(scores: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        headroom_of_clips(scores, WINDOW)


def test_recordings_that_are_too_short_are_refused() -> None:
    short = LiveNormals((Recording(np.array([0.1, 0.2])),), HOP, WINDOW)
    with pytest.raises(InputError, match="fewer than 3 live scores"):
        headroom_threshold(short)
