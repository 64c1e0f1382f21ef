"""Which threshold a calibrated bundle gets: the one it has, or a new one in the way the user chose."""

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
from edgeasd.toolkit.calibrate.clips import GivenClip, Material

ALARMS, RATE, KEPT, LARGEST = "alarms_per_day", "false_positive_rate", "kept", "largest"


@dataclass(frozen=True)
class ThresholdWish:
    """At most one of the three; nothing: keep what is there, else the largest clip score."""

    alarms_per_day: float | None = None
    false_positive_rate: float | None = None
    keep: bool = False

    def check(self, *, rescaled: bool) -> None:
        """InputError for two ways at once, and for keeping a threshold that belongs to another scale."""
        given = [
            name
            for name, wanted in (
                ("--alarms-per-day", self.alarms_per_day is not None),
                ("--false-positive-rate", self.false_positive_rate is not None),
                ("--keep-threshold", self.keep),
            )
            if wanted
        ]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: a bundle has one threshold; pass one of them")
        if self.keep and rescaled:
            raise InputError(
                "--keep-threshold: a re-fit changes the scale of the score, so the threshold means nothing after it; "
                "pass --alarms-per-day or --false-positive-rate, or leave the re-fit out"
            )

    @property
    def needs_live_scores(self) -> bool:
        """Whether recordings have to be run by the live rule."""
        return self.alarms_per_day is not None


@dataclass(frozen=True)
class FoundThreshold:
    """The threshold of the calibrated bundle, and how it came about."""

    way: str
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
        return {"way": self.way, **stored, **given, "details": self.details}


def find_threshold(
    wish: ThresholdWish,
    old: Threshold | None,
    score: ScoreSettings,
    material: Material,
    outputs: Sequence[SegmentOutputs],
    live: Callable[[], Sequence[SegmentOutputs]],
    segments: SegmentSettings,
) -> FoundThreshold:
    """The threshold on the scale of `score`, from the fp32 `outputs` of all clips of `material`.

    `old` is None where the bundle has none or it is of another scale; `live` gives the outputs of all live
    segments and is called for alarms a day only. Raises InputError where the clips support no such threshold.
    """
    scores = clip_scores(score, outputs)
    sources = tuple(_source(clip) for clip in material.clips)
    if wish.alarms_per_day is not None:
        normals = _recordings(score, material, live(), segments)
        consecutive = old.consecutive if old is not None else 3
        fitted = threshold_by_alarms(normals, wish.alarms_per_day, consecutive=consecutive)
        way, threshold = ALARMS, fitted.stored()
    elif wish.false_positive_rate is not None:
        hours = sum(material.seconds(clip) for clip in material.clips) / 3600
        fitted = threshold_by_rate(scores, wish.false_positive_rate, hours=hours, sources=sources)
        way, threshold = RATE, fitted.stored()
    elif old is not None:
        way, threshold, fitted = KEPT, old, None
    elif wish.keep:
        raise InputError("--keep-threshold: the bundle has none; leave the option out, or choose how to find one")
    else:
        fitted = _largest(scores, sources)
        way, threshold = LARGEST, fitted.stored()
    above = sum(one > threshold.clip for one in scores)
    return FoundThreshold(way, threshold, above, len(scores), fitted.details if fitted is not None else {})


def _largest(scores: Sequence[float], sources: tuple[ThresholdSource, ...]) -> FittedThreshold:
    fitted = largest_holdout(scores)
    warning = fitted.warning.replace("held-out", "given") if fitted.warning else None
    return replace(fitted, found_by="largest clip score of the given clips", warning=warning, sources=sources)


def _recordings(
    score: ScoreSettings, material: Material, live: Sequence[SegmentOutputs], segments: SegmentSettings
) -> LiveNormals:
    features: FeatureSettings = material.cache.settings
    recordings = [
        Recording(live_clip_scores(score, heard.q, heard.d, segments.sections), _source(clip).name, clip.sha256)
        for clip, heard in zip(material.clips, live, strict=True)
    ]
    return live_normals(recordings, features, segments)


def _source(clip: GivenClip) -> ThresholdSource:
    return ThresholdSource(name=clip.name.rpartition("/")[2], sha256=clip.sha256)
