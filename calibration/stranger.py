"""Clips of evidently another machine: their fp32 scores lie where no normal clip of this one was ever seen.

With n normal clips of reference, the next one lies beyond their largest score with a probability of
1 / (n + 1): far too often to accuse a clip. So the bound lies once more the distance from the median to the
largest beyond that. Where scores fall off exponentially, the next normal clip lies beyond the bound with a
probability of 4 / ((n + 1) (n + 2)): 6 % with 7 clips of reference, one in 2,600 with 100. A single stranger may
be chance or a bad recording. Half of all clips hardly can be: for that the reference itself must have come out too
low, which happens to 7 clips 3 times in 1,000 and to 10 clips once in 7,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeasd.calibration.threshold import finite_clip_scores

LEAST_MARGIN = 0.05
"""In units of s, where 0 is the most normal segment and 1 where other machines begin. A model whose normal scores
are nearly constant would otherwise call a change of no importance strange."""
EVIDENT_SHARE = 0.5


def normal_bounds(reference: Sequence[float], threshold: float | None = None) -> tuple[float, float]:
    """(lowest, highest) clip score that may still be of this machine, from normal clip scores of the bundle.

    `reference` is (n,), finite, fp32, of held-out normals (calibration.json, normal_clip_scores). Nothing below
    `threshold` is strange on the upper side: the bundle itself calls it normal. Raises InputError for
    an empty or not finite reference.
    """
    known = finite_clip_scores(reference)
    middle, lowest, highest = float(np.median(known)), float(known.min()), float(known.max())
    low = lowest - max(middle - lowest, LEAST_MARGIN)
    high = highest + max(highest - middle, LEAST_MARGIN)
    return low, high if threshold is None else max(high, threshold)


def strangers(scores: Sequence[float], reference: Sequence[float], threshold: float | None = None) -> list[int]:
    """Positions of the clips whose fp32 clip scores (m,) lie outside `normal_bounds`; a score that is no number too."""
    low, high = normal_bounds(reference, threshold)
    return [index for index, score in enumerate(scores) if not low <= score <= high]


def evidently_another_machine(
    scores: Sequence[float], reference: Sequence[float], threshold: float | None = None
) -> bool:
    """Whether at least half of the clips are `strangers`."""
    return len(strangers(scores, reference, threshold)) >= EVIDENT_SHARE * max(len(scores), 1)
