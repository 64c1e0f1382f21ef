"""Which clips give ranges and which judge the result, by content: never both, and how many it takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgeasd.runtime.errors import InputError

RANGE_CLIPS = 16
"""The next normal clip goes beyond the largest value seen in n of them with a probability of 1 / (n + 1), for
each tensor: 6 % here."""
DRIFT_CLIPS = 24
"""Two neighbours in rank that change places cost a rank correlation of n clips 12 / (n³ − n). From 23 clips on
that is below 0.001, so that the strictest limit, 0.999, is not a verdict on a single pair."""
MOST_DRIFT_CLIPS = 200
"""No single clip decides anything here, and every trial of the gate runs all of them."""


@dataclass(frozen=True)
class ClipRoles:
    """Positions of clips by role, each in order; copies of one content are in neither."""

    ranges: list[int]
    drift: list[int]


def needed_clips() -> int:
    """Distinct normal clips that a calibration takes, for both roles together."""
    return RANGE_CLIPS + DRIFT_CLIPS


def why_needed() -> str:
    """One line on the number of `needed_clips`."""
    return (
        f"{RANGE_CLIPS} for ranges (with fewer, more than one clip in {RANGE_CLIPS + 1} goes beyond what was seen) "
        f"and {DRIFT_CLIPS} others to measure drift (with fewer, one swapped pair of ranks decides)"
    )


def assign_roles(hashes: Sequence[str], *, seed: int = 0) -> ClipRoles:
    """Share out clips by their content hashes: half to drift, at least 24 and at most 200, the rest to ranges.

    A clip's place follows from the rank of sha256(seed:drift:content), as in the split of training data, so
    neither names nor order matter. Of copies the first counts. Raises InputError below `needed_clips`.
    """
    distinct = {content: index for index, content in reversed(list(enumerate(hashes)))}
    if len(distinct) < needed_clips():
        copies = len(hashes) - len(distinct)
        told = f" ({copies} more are copies)" if copies else ""
        raise InputError(
            f"{len(distinct)} normal clip{'s' * (len(distinct) != 1)}{told} {'are' if len(distinct) != 1 else 'is'} too few to calibrate: {needed_clips()} are needed, "
            f"{why_needed()}; give more"
        )
    ranked = sorted(distinct, key=lambda content: hashlib.sha256(f"{seed}:drift:{content}".encode()).hexdigest())
    count = min(max(len(ranked) // 2, DRIFT_CLIPS), MOST_DRIFT_CLIPS)
    return ClipRoles(
        ranges=sorted(distinct[content] for content in ranked[count:]),
        drift=sorted(distinct[content] for content in ranked[:count]),
    )
