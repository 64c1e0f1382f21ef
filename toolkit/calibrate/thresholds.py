"""Finds the threshold of a calibrated bundle: keeps its own, or fits one by the method that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgeasd.calibration.fit.deploy import SegmentOutputs, clip_scores
from edgeasd.calibration.threshold.alarms_per_day import threshold_by_alarms
from edgeasd.calibration.threshold.false_positive_rate import threshold_by_rate
from edgeasd.calibration.threshold.live import LiveNormals, Recording, live_clip_scores, live_normals
from edgeasd.calibration.threshold.threshold import FittedThreshold, largest_holdout
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings
from edgeasd.runtime.scoring.threshold import Threshold, ThresholdSource
from edgeasd.toolkit.calibrate.clips import CalibrationClip, ClipSet
from edgeasd.toolkit.calibrate.request import ThresholdRequest

ALARMS, RATE, KEPT, LARGEST = "alarms_per_day", "false_positive_rate", "kept", "largest"


@dataclass(frozen=True)
class ThresholdResult:
    """The threshold of the calibrated bundle, and how it came about."""

    method: str
    """ALARMS, RATE, KEPT or LARGEST."""
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
    live: Callable[[], Sequence[SegmentOutputs]],
    segments: SegmentSettings,
) -> ThresholdResult:
    """The threshold on the scale of `score`, from the fp32 `outputs` of all clips of `clip_set`.

    `old` is None if the bundle has none or it is of another scale; `live` gives the outputs of all live
    segments and is called for alarms a day only. Raises InputError if the clips support no such threshold.
    """
    scores = clip_scores(score, outputs)
    sources = tuple(_source(clip) for clip in clip_set.clips)
    if request.alarms_per_day is not None:
        normals = _recordings(score, clip_set, live(), segments)
        consecutive = old.consecutive if old is not None else 3
        fitted = threshold_by_alarms(normals, request.alarms_per_day, consecutive=consecutive)
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
        fitted = _largest(scores, sources)
        method, threshold = LARGEST, fitted.stored()
    above = sum(one > threshold.clip for one in scores)
    return ThresholdResult(method, threshold, above, len(scores), fitted.details if fitted is not None else {})


def _largest(scores: Sequence[float], sources: tuple[ThresholdSource, ...]) -> FittedThreshold:
    fitted = largest_holdout(scores)
    warning = fitted.warning.replace("held-out", "given") if fitted.warning else None
    return replace(fitted, found_by="largest clip score of the given clips", warning=warning, sources=sources)


def _recordings(
    score: ScoreSettings, clip_set: ClipSet, live: Sequence[SegmentOutputs], segments: SegmentSettings
) -> LiveNormals:
    features: FeatureSettings = clip_set.cache.settings
    recordings = [
        Recording(live_clip_scores(score, one.q, one.d, segments.sections), _source(clip).name, clip.sha256)
        for clip, one in zip(clip_set.clips, live, strict=True)
    ]
    return live_normals(recordings, features, segments)


def _source(clip: CalibrationClip) -> ThresholdSource:
    return ThresholdSource(name=clip.name.rpartition("/")[2], sha256=clip.sha256)
