"""The score of a whole recording: the clip rule, or the live rule applied to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import clip_starts, tile
from edgeasd.runtime.scoring.score import SegmentScores
from edgeasd.runtime.scoring.scorer import Scorer


@dataclass(frozen=True, slots=True)
class ClipScore:
    """Mean score of a recording and the segments it was made of."""

    score: float
    starts: list[int]
    """First frame of each segment."""
    segments: SegmentScores
    tiled: bool
    """True if the recording was shorter than a segment and was repeated to fill one."""


def score_sound(scorer: Scorer, sound: Float32Array, *, tile_short: bool = False, anchored: bool = False) -> ClipScore:
    """Clip score of samples (n,) float32. Raises as `score_features`."""
    return score_features(scorer, scorer.extract_features(sound), tile_short=tile_short, anchored=anchored)


def score_features(
    scorer: Scorer, features: Float32Array, *, tile_short: bool = False, anchored: bool = False
) -> ClipScore:
    """Clip score of log-mel frames (T, n_mels) float32, as `Scorer.extract_features` makes them: the mean over K sections.

    Paper, section IV-A. Frames shorter than one segment are tiled if `tile_short`, else InputError says what is missing.
    """
    length, tiled = scorer.segments.frames, False
    if len(features) < length:
        if not tile_short or not len(features):
            raise InputError(_too_short(scorer, len(features)))
        features, tiled = tile(features, length), True
    starts = clip_starts(len(features), scorer.segments, anchored=anchored)
    windows = np.stack([features[start : start + length] for start in starts])
    segments = scorer.score_segments(windows)
    return ClipScore(float(np.mean(segments.score)), starts, segments, tiled)


def _too_short(scorer: Scorer, frames: int) -> str:
    features, need = scorer.features, scorer.segments.frames
    missing = features.sample_count(need) - features.sample_count(frames)
    return (
        f"{frames} frames, one segment takes {need}: about {missing} samples "
        f"({missing / features.sample_rate:.2f} s) are missing; use a longer clip or pass --tile"
    )
