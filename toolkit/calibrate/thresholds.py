"""Finds the threshold of a calibrated bundle: keeps its own, or fits one by the method that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeasd.calibration.fit.deploy import SegmentOutputs, clip_scores
from edgeasd.calibration.threshold.alarms_per_day import threshold_by_alarms
from edgeasd.calibration.threshold.false_positive_rate import threshold_by_rate
from edgeasd.calibration.threshold.headroom import headroom_of_clips, headroom_threshold
from edgeasd.calibration.threshold.live import LiveNormals, Recording, clip_seconds, live_clip_scores, live_normals
from edgeasd.calibration.threshold.threshold import FittedThreshold
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.threshold import Threshold, ThresholdSource
from edgeasd.toolkit.calibrate.clips import CalibrationClip, ClipSet, sessions
from edgeasd.toolkit.calibrate.request import ThresholdRequest

ALARMS, RATE, KEPT, HEADROOM = "alarms_per_day", "false_positive_rate", "kept", "headroom"


@dataclass(frozen=True)
class ThresholdResult:
    """The threshold of the calibrated bundle, and how it came about."""

    method: str
    """ALARMS, RATE, KEPT or HEADROOM."""
    threshold: Threshold
    above: int
    """Given normal clips whose clip score lies above it."""
    clips: int
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For calibration.json; the recordings are listed there once, with their roles."""
        stored = self.threshold.model_dump(mode="json", exclude={"sources"})
        given = {"given_clips": self.clips, "given_clips_above": self.above}
        return {"way": self.method, **stored, **given, "details": self.details}


def find_threshold(
    request: ThresholdRequest,
    old: Threshold | None,
    score: ScoreSettings,
    clip_set: ClipSet,
    outputs: Sequence[SegmentOutputs],
    live: Callable[[Sequence[Sequence[CalibrationClip]]], Sequence[SegmentOutputs]],
    segments: SegmentSettings,
) -> ThresholdResult:
    """The threshold on the scale of `score`, from the fp32 `outputs` of all clips of `clip_set`.

    `old` is None if the bundle has none or it is of another scale; `live` gives the outputs of all live
    segments of recordings; it is called for a threshold by live scores only. Raises InputError if the clips
    support no such threshold.
    """
    scores = clip_scores(score, outputs)
    sources = tuple(_source(clip) for clip in clip_set.clips)
    if request.alarms_per_day is not None:
        normals = _recordings(score, clip_set, live, segments)
        consecutive = old.consecutive if old is not None else 3
        fitted = threshold_by_alarms(
            normals, request.alarms_per_day, consecutive=consecutive, clips=len(clip_set.clips)
        )
        fitted = replace(fitted, sources=sources)
        method, threshold = ALARMS, fitted.stored()
    elif request.false_positive_rate is not None:
        hours = sum(clip_set.seconds(clip) for clip in clip_set.clips) / 3600
        fitted = threshold_by_rate(scores, request.false_positive_rate, hours=hours, sources=sources)
        method, threshold = RATE, fitted.stored()
    elif old is not None:
        method, threshold, fitted = KEPT, old, None
    elif request.keep:
        raise InputError("--keep-threshold: the bundle has none; leave the option out, or choose how to find one")
    else:
        fitted = replace(_headroom(scores, score, clip_set, live, segments), sources=sources)
        method, threshold = HEADROOM, fitted.stored()
    above = sum(one > threshold.clip for one in scores)
    return ThresholdResult(method, threshold, above, len(scores), fitted.details if fitted is not None else {})


def _headroom(
    scores: Sequence[float],
    score: ScoreSettings,
    clip_set: ClipSet,
    live: Callable[[Sequence[Sequence[CalibrationClip]]], Sequence[SegmentOutputs]],
    segments: SegmentSettings,
) -> FittedThreshold:
    try:
        normals = _recordings(score, clip_set, live, segments)
        return headroom_threshold(normals, origin="given", clips=len(clip_set.clips))
    except InputError:  # a clip or two that give no live score
        return headroom_of_clips(scores, clip_seconds(clip_set.cache.settings, segments), origin="given")


def _recordings(
    score: ScoreSettings,
    clip_set: ClipSet,
    live: Callable[[Sequence[Sequence[CalibrationClip]]], Sequence[SegmentOutputs]],
    segments: SegmentSettings,
) -> LiveNormals:
    """Live scores of the sessions of the clips, each one recording."""
    features: FeatureSettings = clip_set.cache.settings
    together = sessions(clip_set)
    recordings = []
    for clips, one in zip(together, live(together), strict=True):
        alone = len(clips) == 1
        name = _source(clips[0]).name if alone else f"{len(clips)} clips from {clips[0].name}"
        sha256 = clips[0].sha256 if alone else ""
        recordings.append(Recording(live_clip_scores(score, one.q, one.d, segments.sections), name, sha256))
    return live_normals(recordings, features, segments)


def _source(clip: CalibrationClip) -> ThresholdSource:
    return ThresholdSource(name=clip.name.rpartition("/")[2], sha256=clip.sha256)
