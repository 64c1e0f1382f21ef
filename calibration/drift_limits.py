"""How much drift is too much: limits, the reasons they give, and one number that says how near they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.errors import InputError

if TYPE_CHECKING:
    from edgeasd.calibration.drift import Drift

FREE_FLIPS = 1
"""The first threshold of a bundle is the score of one of its normal clips: that one flips by any change at all."""
PARTIAL_NORMALS = 100
"""From here on the partial AUC is held to its limit. It rests on a tenth of the normals, and with fewer than ten
of them one clip moves it further than a good variant does."""


@dataclass(frozen=True)
class DriftLimits:
    """What a variant may do; docs/precision.md says why there. Beyond any of these it fails the gate.

    Raises InputError for a limit out of its range.
    """

    rank_correlation: float = 0.99
    """Least, of the clip scores of all clips, in [-1, 1]."""
    largest_change: float = 0.5
    """Most, of the clip score of a normal clip, in parts of its room to the threshold."""
    flipped_share: float = 0.02
    """Most, of normal clips; one is always allowed."""
    auc_loss: float = 0.02
    """Most that the lower end of the interval of the change may lie below 0."""
    partial_auc_loss: float = 0.05
    """The same of the partial AUC, where there are at least 100 normal clips."""

    def __post_init__(self) -> None:
        if not -1 <= self.rank_correlation <= 1:
            raise InputError(f"least rank correlation {self.rank_correlation}: give one from -1 to 1")
        for name in ("largest_change", "flipped_share", "auc_loss", "partial_auc_loss"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"drift limit {name.replace('_', ' ')} {value}: give 0 or more")

    @classmethod
    def defaults(cls, kind: str) -> DriftLimits:
        """Of "fp16", "int8" or "int8-cpu"; InputError for another."""
        if kind not in ("fp16", "int8", "int8-cpu"):
            raise InputError(f"precision {kind}: has no drift limits; use fp16, int8 or int8-cpu")
        int8 = cls()
        if kind != "fp16":
            return int8
        return replace(int8, rank_correlation=0.999, largest_change=0.1, auc_loss=0.005, partial_auc_loss=0.02)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def beyond(drift: Drift, limits: DriftLimits) -> list[str]:
    """One readable reason for each limit that `drift` breaks; none where the gate holds."""
    return [reason for used, reason in _criteria(drift, limits) if used > 1.0]


def used_up(drift: Drift, limits: DriftLimits) -> float:
    """The largest part of any limit that `drift` takes: the gate holds up to 1. Infinite for a limit of none."""
    return max(used for used, _ in _criteria(drift, limits))


def _criteria(drift: Drift, limits: DriftLimits) -> Iterator[tuple[float, str]]:
    """(part of the limit that is used, reason) of every figure that was measured."""
    least = limits.rank_correlation
    yield (
        _part(1.0 - drift.rank_clips, 1.0 - least),
        f"rank correlation {drift.rank_clips:.5f} of {len(drift.pairs)} clips is below {least:g} "
        f"(normal scores spread by {drift.spread:.3g})",
    )
    yield (
        _part(drift.relative, limits.largest_change),
        f"a normal clip's score changes by {drift.largest:.3g}, {drift.relative:.3g} of {drift.room:.3g} "
        f"({drift.room_from}); allowed {limits.largest_change:g}",
    )
    if drift.flipped_normals is not None:
        allowed = max(FREE_FLIPS, math.floor(limits.flipped_share * drift.normals))
        yield (
            _part(drift.flipped_normals, allowed),
            f"{drift.flipped_normals} of {drift.normals} normal clips change sides of the threshold; allowed {allowed}",
        )
    for name, change, loss in (
        ("AUC", drift.auc, limits.auc_loss),
        ("partial AUC", drift.partial_auc if drift.normals >= PARTIAL_NORMALS else None, limits.partial_auc_loss),
    ):
        if change is not None:
            yield (
                _part(max(0.0, -change.low), loss),
                f"{name} {change.reference:.4f} becomes {change.variant:.4f}, change {change.difference:+.4f} "
                f"(95 % from {change.low:+.4f} to {change.high:+.4f}); allowed down to {-loss:+g}",
            )


def _part(value: float, limit: float) -> float:
    if value <= 0.0:
        return 0.0
    return value / limit if limit > 0.0 else math.inf
