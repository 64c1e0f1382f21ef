"""The frozen constants of a bundle: d′ range, α and the first threshold, from held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeasd.calibration.fit.distance import ANOMALY_CLIPS_NEEDED, DEFAULT_ALPHA, fit_distance_range, normal_range
from edgeasd.calibration.threshold.headroom import headroom_of_clips, headroom_threshold
from edgeasd.calibration.threshold.live import Recording, clip_seconds, live_clip_scores, live_normals
from edgeasd.calibration.threshold.threshold import CONSECUTIVE
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings, blend, relative_distance
from edgeasd.runtime.scoring.threshold import Threshold

_FEATURES, _SEGMENTS = FeatureSettings(), SegmentSettings()

HELD_OUT, TRAINING = "held-out", "training"
"""What clips are, for the record: kept out of training, or part of it."""


@dataclass(frozen=True)
class Alpha:
    """α of equation 5, in [0, 1], and who chose it."""

    value: float
    source: str


@dataclass(frozen=True)
class SegmentOutputs:
    """Outputs of the head for the segments of one clip: q and d, each (segments,) float32."""

    q: npt.NDArray[np.float32]
    d: npt.NDArray[np.float32]


@dataclass(frozen=True)
class DeployFit:
    """Constants of equation 5 and, for a calibrated model, a threshold."""

    score: ScoreSettings
    threshold: Threshold | None
    """None: nothing was held out to take one from; the bundle raises no alarms."""

    @property
    def status(self) -> str:
        """ "calibrated" or "uncalibrated", as the manifest has it."""
        return "calibrated" if self.threshold is not None else "uncalibrated"


def fit_deploy(
    method: str,
    fixed_alpha: float | None,
    normals: Sequence[SegmentOutputs],
    outliers: Sequence[SegmentOutputs],
    anomalies: Sequence[SegmentOutputs] = (),
    *,
    alpha: Alpha | None = None,
    normal_origin: str = HELD_OUT,
    outlier_origin: str = HELD_OUT,
    live: SegmentOutputs | None = None,
    features: FeatureSettings = _FEATURES,
    segments: SegmentSettings = _SEGMENTS,
) -> DeployFit:
    """Fit the `deploy` constants from normal and outlier clips, and known anomalies if there are enough.

    Without outliers the normals set the scale (see `normal_range`).

    `fixed_alpha` is α where the method leaves no choice; else `alpha` is taken, and 0.5 where that is None, since
    there are no labels.
    The threshold has headroom above the normals (see `calibration/threshold/headroom.py`): from `live`, the outputs
    of all live segments of the normals joined one after another, or without it from their clip scores. `features`
    and `segments` say how much sound a score covers.
    The origins describe the clips and are stored in the manifest. Normal clips of origin TRAINING are
    a stand-in: they give no threshold, so the bundle stays uncalibrated. Raises InputError without
    normals, CheckFailed if normals and outliers do not separate.
    """
    if outliers or len(anomalies) >= ANOMALY_CLIPS_NEEDED:
        found = fit_distance_range([c.d for c in normals], [c.d for c in outliers], [c.d for c in anomalies])
    else:
        found = normal_range([c.d for c in normals])
    if fixed_alpha is not None:
        alpha = Alpha(fixed_alpha, f"fixed by the method {method}")
    elif alpha is None:
        alpha = Alpha(DEFAULT_ALPHA, "0.5: no labelled validation clips")
    score = ScoreSettings(
        method=method,
        alpha=alpha.value,
        alpha_source=alpha.source,
        d_min=found.d_min,
        d_max=found.d_max,
        d_min_source=found.d_min_source.replace(HELD_OUT, normal_origin),
        d_max_source=found.d_max_source.replace(HELD_OUT, outlier_origin),
        mode="deploy",
    )
    return DeployFit(
        score,
        None if normal_origin == TRAINING else _threshold(score, normals, normal_origin, live, features, segments),
    )


def clip_scores(score: ScoreSettings, clips: Sequence[SegmentOutputs]) -> list[float]:
    """Clip scores (mean over segments of equation 5) of clips whose q and d are known."""
    return [float(np.mean(blend(c.q, relative_distance(c.d, score.d_min, score.d_max), score.alpha))) for c in clips]


def _threshold(
    score: ScoreSettings,
    normals: Sequence[SegmentOutputs],
    origin: str,
    live: SegmentOutputs | None,
    features: FeatureSettings,
    segments: SegmentSettings,
) -> Threshold:
    scores = clip_scores(score, normals)
    joined = np.empty(0) if live is None else live_clip_scores(score, live.q, live.d, segments.sections)
    if len(joined) < CONSECUTIVE:
        return headroom_of_clips(scores, clip_seconds(features, segments), origin=origin).stored()
    recordings = live_normals([Recording(joined)], features, segments)
    return headroom_threshold(recordings, origin=origin, clips=len(scores)).stored()
