"""A clip threshold to start with, until one is fitted properly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.runtime.errors import InputError

CONSECUTIVE = 3
FEW_CLIPS = 10


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


def largest_holdout(clip_scores: ArrayLike) -> FittedThreshold:
    """The largest score of a held-out normal clip, to be exceeded three times in a row.

    `clip_scores` is (clips,), finite, of normal clips the model was not trained on. Raises InputError
    where there are none, or where one is NaN or infinite (by position).
    """
    scores = np.asarray(clip_scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(f"held-out clip scores have shape {scores.shape}; give one score per clip")
    if scores.size == 0:
        raise InputError("0 held-out normal clips give no threshold; train with a hold-out, or give --clips")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise InputError(
            f"held-out clip score {bad[0]} of {scores.size} is {scores[bad[0]]}; "
            "remove the clip or repair the model that scored it"
        )
    warning = None
    if scores.size < FEW_CLIPS:
        warning = (
            f"the threshold rests on {scores.size} held-out normal clip{'s' if scores.size > 1 else ''}; "
            f"expect false alarms, and give {FEW_CLIPS} or more by --clips"
        )
    return FittedThreshold(
        clip=float(scores.max()),
        consecutive=CONSECUTIVE,
        found_by="largest held-out clip score",
        clips=int(scores.size),
        warning=warning,
    )
