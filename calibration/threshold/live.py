"""Live clip scores of normal recordings: the series that alarms are counted on, and how they are correlated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.runtime.features.segments import SegmentSettings
from edgeasd.runtime.scoring.score import ScoreSettings, blend, relative_distance
from edgeasd.runtime.scoring.threshold import ThresholdSource

Array = NDArray[np.float64]

UNCORRELATED = 0.1
"""Scores whose autocorrelation has fallen to this count as apart."""
LONGEST_CORRELATION_SECONDS = 120.0
"""Slower changes show in how alarms are spread over the hours."""
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Recording:
    """One uninterrupted normal recording: its complete live clip scores (n,) float64, in order."""

    scores: Array
    name: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class LiveNormals:
    """Live clip scores of normal recordings, one after another; between recordings the alarm rule is reset.

    `hop_seconds` lies between two scores (0.192 s), `window_seconds` of sound are behind one of them
    (9.952 s). Raises InputError for no scores, and for a score that is not finite (recording and position).
    """

    recordings: tuple[Recording, ...]
    hop_seconds: float
    window_seconds: float

    def __post_init__(self) -> None:
        if not (self.hop_seconds > 0 and self.window_seconds >= 0):
            raise InputError(f"hop {self.hop_seconds} s, window {self.window_seconds} s: give the hop as above 0")
        for number, one in enumerate(self.recordings):
            bad = np.flatnonzero(~np.isfinite(one.scores))
            if bad.size:
                raise InputError(
                    f"{one.name or f'recording {number}'}: live score {bad[0]} is {one.scores[bad[0]]}; "
                    "remove the recording or repair the model that scored it"
                )
        if not any(len(one.scores) for one in self.recordings):
            raise InputError(
                f"{len(self.recordings)} normal recordings give no complete live score; each needs "
                f"{self.window_seconds:.3f} s of sound"
            )

    @property
    def hops(self) -> int:
        """All scores of all recordings."""
        return sum(len(one.scores) for one in self.recordings)

    @property
    def hours(self) -> float:
        """Time listened to: a complete score stands for one hop."""
        return self.hops * self.hop_seconds / 3600

    @property
    def sources(self) -> tuple[ThresholdSource, ...]:
        """Names and hashes of the recordings that have them."""
        return tuple(ThresholdSource(name=r.name, sha256=r.sha256) for r in self.recordings if r.name or r.sha256)

    def memory_hops(self) -> int:
        """Hops after which two scores count as apart.

        At least the sound they share (a mean over ten overlapping segments remembers its window), and
        more where the measured autocorrelation takes longer to fall to 0.1; at most 2 minutes.
        """
        shared = int(np.ceil(self.window_seconds / self.hop_seconds))
        limit = max(shared, int(LONGEST_CORRELATION_SECONDS / self.hop_seconds))
        below = np.flatnonzero(self.autocorrelation(limit) < UNCORRELATED)
        return max(1, shared, int(below[0]) if below.size else limit)

    def autocorrelation(self, lags: int) -> Array:
        """Autocorrelation of the clip scores at 0 to `lags` hops, pooled over recordings; shorter where they are.

        Biased towards 0 (sums are divided by all pairs), which makes it positive definite. A constant
        series has 1 at lag 0 only.
        """
        scores = [r.scores for r in self.recordings]
        lags = min(lags, max(len(one) for one in scores) - 1)
        mean = sum(float(one.sum()) for one in scores) / self.hops
        total = np.zeros(lags + 1)
        for one in scores:
            for start in range(0, len(one), max(_BLOCK, 4 * lags)):
                part = one[start : start + max(_BLOCK, 4 * lags)] - mean
                spectrum = np.fft.rfft(part, 2 * len(part))
                products = np.fft.irfft(np.abs(spectrum) ** 2, 2 * len(part))[: min(lags + 1, len(part))]
                total[: len(products)] += products
        if not total[0] > 0:
            return np.eye(1, lags + 1)[0]
        return total / total[0]


def live_clip_scores(score: ScoreSettings, q: NDArray[np.float32], d: NDArray[np.float32], sections: int) -> Array:
    """Complete live clip scores (n − sections + 1,) of the outputs (n,) of consecutive live segments.

    Equation 5 and the mean over the last `sections`, as the live rule has them (equal up to the order
    of the sum, 1e-12 relative). Fewer segments than `sections` give none.
    """
    values = blend(q, relative_distance(d, score.d_min, score.d_max), score.alpha)
    if len(values) < sections:
        return np.empty(0)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(values, sections).mean(axis=1))


def live_normals(recordings: Sequence[Recording], features: FeatureSettings, segments: SegmentSettings) -> LiveNormals:
    """Recordings with the hop and the window that a bundle's settings mean, in seconds."""
    hop = segments.hop * features.hop_length / features.sample_rate
    return LiveNormals(tuple(recordings), hop, clip_seconds(features, segments))


def clip_seconds(features: FeatureSettings, segments: SegmentSettings) -> float:
    """Seconds of sound that a complete clip score covers."""
    frames = segments.frames + (segments.sections - 1) * segments.hop
    return features.sample_count(frames) / features.sample_rate
