"""The anomaly score, once: s = α q + (1 - α) d′ (paper, equation 5).

q = σ(-ℓ) is the probability of "not normal" and is never formed as 1 - p: at a logit of 17 a
float32 1 - p is 0 and the ranking of the most normal clips would be lost.
A score carries no policy; thresholds are in edgeasd.runtime.scoring.threshold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]


class ScoreSettings(BaseModel):
    """The frozen numbers of equation 5 and their sources; stored in the manifest."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    method: str = "bce+ddcsad"
    alpha: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
    alpha_source: str
    d_min: Finite
    d_max: Finite
    d_min_source: str
    d_max_source: str
    mode: Annotated[str, Field(pattern="^(deploy|paper)$")] = "deploy"

    @model_validator(mode="after")
    def _ordered(self) -> ScoreSettings:
        if not self.d_min < self.d_max:
            raise ValueError(f"d_min {self.d_min} < d_max {self.d_max} does not hold")
        return self


def relative_distance(d: npt.NDArray[Any], d_min: float, d_max: float) -> npt.NDArray[np.float64]:
    """d′ = (d - d_min) / (d_max - d_min), any shape, float64, not clipped."""
    return (np.asarray(d, dtype=np.float64) - d_min) / (d_max - d_min)


def blend(q: npt.NDArray[Any], d_prime: npt.NDArray[Any], alpha: float) -> npt.NDArray[np.float64]:
    """s = α q + (1 - α) d′ (equation 5), any shape, float64.

    A term whose weight is 0 is left out rather than multiplied, so that an infinity in it cannot
    turn the score into NaN.
    """
    q, d_prime = np.asarray(q, dtype=np.float64), np.asarray(d_prime, dtype=np.float64)
    if alpha == 0.0:
        return d_prime
    if alpha == 1.0:
        return q
    return alpha * q + (1.0 - alpha) * d_prime


@dataclass(frozen=True, slots=True)
class SegmentScores:
    """What the head says of a batch of N segments; every array is (N,)."""

    logit: npt.NDArray[np.float32]
    q: npt.NDArray[np.float32]
    d: npt.NDArray[np.float32]
    d_prime: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]

    @classmethod
    def from_head(cls, head: Mapping[str, npt.NDArray[np.float32]], settings: ScoreSettings) -> SegmentScores:
        """Apply the d′ constants and α of `settings` to the head's outputs logit, q and d."""
        d_prime = relative_distance(head["d"], settings.d_min, settings.d_max)
        return cls(head["logit"], head["q"], head["d"], d_prime, blend(head["q"], d_prime, settings.alpha))

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, slots=True)
class Score:
    """One live segment and the clip score that ends with it.

    Positions are samples since the last reset: the segment covers [start_sample, end_sample).
    """

    index: int
    start_sample: int
    end_sample: int
    logit: float
    q: float
    d: float
    d_prime: float
    score: float
    clip_score: float
    """Mean over the last `averaged` segments."""
    averaged: int
    """Segments in clip_score: fewer than K only at the start of a stream."""
    complete: bool
    """True once clip_score is a mean over K segments; alarms look at nothing else."""


class ClipMean:
    """Mean over the last K segment scores."""

    def __init__(self, sections: int) -> None:
        self._last: deque[float] = deque(maxlen=sections)

    def reset(self) -> None:
        """Forget the scores."""
        self._last.clear()

    def add(self, score: float) -> tuple[float, int, bool]:
        """Add a segment score; returns (mean, scores in it, whether there are K)."""
        self._last.append(score)
        # np.mean as in the clip rule: the two agree to the last bit
        return float(np.mean(self._last)), len(self._last), len(self._last) == self._last.maxlen
