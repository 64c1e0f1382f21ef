"""The threshold of the first day: above all normal sound that was held out, by the tail of its live scores.

`edgeasd.runtime.scoring.tail` has the method. Clips are joined one after another, as a device would hear them: the
seams between clips and the sliding mean over them are counted, since an alarm may begin there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.calibration.threshold.alarms_per_day import alarm_levels
from edgeasd.calibration.threshold.live import LiveNormals
from edgeasd.calibration.threshold.threshold import CONSECUTIVE, FittedThreshold, finite_clip_scores
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.tail import TailThreshold, tail_threshold, window_peaks
from edgeasd.runtime.scoring.threshold import Promise, ThresholdSource

ENOUGH_WINDOWS = 100
"""With fewer, about a quarter of an hour, the threshold states no rate: it is known to its order only."""


def headroom_threshold(
    normals: LiveNormals, *, origin: str = "held-out", clips: int | None = None, consecutive: int = CONSECUTIVE
) -> FittedThreshold:
    """From the live scores of `normals`, recordings or clips joined one after another; `origin` describes them.

    `clips` is how many files they come from, if not one each. Raises InputError if no recording gives `consecutive`
    scores.
    """
    hops = max(1, math.ceil(normals.window_seconds / normals.hop_seconds))
    peaks = [window_peaks(alarm_levels(r.scores, consecutive), hops) for r in normals.recordings]
    together = np.concatenate(peaks)
    if not len(together):
        raise InputError(
            f"{len(normals.recordings)} normal recordings give fewer than {consecutive} live scores each; give longer ones"
        )
    tail = tail_threshold(together, normals.window_seconds)
    return _fitted(tail, origin, clips or len(normals.recordings), consecutive, normals.sources, "live")


def headroom_of_clips(
    clip_scores: ArrayLike, window_seconds: float, *, origin: str = "held-out", consecutive: int = CONSECUTIVE
) -> FittedThreshold:
    """From clip scores (clips,) alone, where no live scores of the clips are known; seams are not counted.

    Raises InputError if there are none, or where one is NaN or infinite (by position).
    """
    scores = finite_clip_scores(clip_scores, origin)
    return _fitted(tail_threshold(scores, window_seconds), origin, len(scores), consecutive, (), "clip")


def _fitted(
    tail: TailThreshold,
    origin: str,
    clips: int,
    consecutive: int,
    sources: tuple[ThresholdSource, ...],
    kind: str,
) -> FittedThreshold:
    promise = warning = None
    if tail.windows >= ENOUGH_WINDOWS:
        promise = Promise(
            kind="alarms_per_day",
            target=tail.per_day,
            expected=tail.expected,
            interval95=tail.rate_interval95,
            extrapolation=True,
        )
    else:
        warning = (
            f"the threshold rests on {_span(tail.hours)} of {origin} normal sound; let the device learn for some days "
            "(burn_in), or record hours and use `edgeasd calibrate --alarms-per-day`"
        )
    return FittedThreshold(
        clip=tail.clip,
        consecutive=consecutive,
        found_by=f"exponential tail of {origin} {kind} scores: one alarm in {_span(24 / tail.per_day)}",
        clips=clips,
        warning=warning,
        interval95=tail.interval95,
        promise=promise,
        hours=tail.hours,
        sources=sources,
        details={
            "hours": tail.hours,
            "windows": tail.windows,
            "base": tail.base,
            "mean_excess": tail.mean_excess,
            "excesses": tail.excesses,
        },
    )


def _span(hours: float) -> str:
    for seconds, name, below in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if 3600 * hours < below * seconds:
            return f"{3600 * hours / seconds:.2g} {name}"
    return f"{hours / 24:.2g} days"
