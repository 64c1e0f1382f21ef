"""A fitted threshold, whatever found it.

The methods: headroom.py, alarms_per_day.py, false_positive_rate.py, and gamma.py for DCASE decision files only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.threshold import Promise, Threshold, ThresholdSource

CONSECUTIVE = 3
LISTED_SOURCES = 1000
"""With more, the manifest gives only their number: every device reads it whole."""

Interval = tuple[float | None, float | None]
"""Lower and upper end of a 95 % interval; None if the data set no such end."""


@dataclass(frozen=True)
class FittedThreshold:
    """An alarm is due when `consecutive` clip scores in a row lie above `clip` (units of the score s).

    `found_by` says how, from `clips` held-out normal clips; `warning` is one line for the user, or None.
    """

    clip: float
    consecutive: int
    found_by: str
    clips: int
    warning: str | None
    interval95: Interval | None = None
    promise: Promise | None = None
    hours: float | None = None
    sources: tuple[ThresholdSource, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    """Figures for a report; they do not travel in the manifest."""

    def stored(self) -> Threshold:
        """As the manifest has it."""
        return Threshold(
            clip=self.clip,
            consecutive=self.consecutive,
            found_by=self.found_by,
            clips=self.clips,
            warning=self.warning,
            interval95=self.interval95,
            promise=self.promise,
            hours=self.hours,
            sources=self.sources if len(self.sources) <= LISTED_SOURCES else (),
        )


def finite_clip_scores(clip_scores: ArrayLike, kind: str = "held-out") -> NDArray[np.float64]:
    """(clips,) float64; InputError for another shape, for none, or for one that is NaN or infinite (by position)."""
    scores = np.asarray(clip_scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(f"{kind} clip scores have shape {scores.shape}; give one score per clip")
    if scores.size == 0:
        raise InputError(f"0 {kind} normal clips give no threshold; train with a hold-out, or give --clips")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(
            f"{kind} clip score {bad[0]} of {scores.size} is {scores[bad[0]]}; "
            "remove the clip or repair the model that scored it"
        )
    return scores


def one_line(warnings: Sequence[str]) -> str | None:
    """Several warnings as one, or None."""
    return "; ".join(warnings) or None
