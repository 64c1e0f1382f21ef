"""How a variant's scores differ from those of fp32, and how much of that is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeasd.calibration.drift.ranking import PairedChange, auc_change, partial_auc_change, rank_correlation
from edgeasd.calibration.fit.deploy import SegmentOutputs
from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.runtime.scoring.score import ScoreSettings, blend, relative_distance

_WRITTEN_NAMES = {"margin": "room", "margin_source": "room_from"}
"""Fields that have another name in calibration.json."""
FREE_FLIPS = 1
"""The first threshold of a bundle is the score of one of its normal clips: that one flips by any change at all."""
PARTIAL_NORMALS = 100
"""From here on the partial AUC is held to its limit. It rests on a tenth of the normals, and with fewer than ten
of them one clip moves it further than a good variant does."""
FEWEST_PER_CLASS = 2
"""Below that an AUC has no interval."""
_SPREADS_OF_MARGIN = 3.0
_LEAST_MARGIN = 1e-6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DriftLimits:
    """What a variant may do; docs/explanation/precision.md says why there. Beyond any of these it fails the gate.

    Raises InputError for a limit out of its range.
    """

    rank_correlation: float = 0.99
    """Least, of the clip scores of all clips, in [-1, 1]."""
    largest_change: float = 0.5
    """Most, of the clip score of a normal clip, as a share of its margin to the threshold."""
    flipped_share: float = 0.02
    """Most, of normal clips; one is always allowed."""
    auc_loss: float = 0.02
    """Most that the lower end of the interval of the change may lie below 0."""
    partial_auc_loss: float = 0.05
    """The same of the partial AUC, if there are at least 100 normal clips."""

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


@dataclass(frozen=True)
class Drift:
    """Variant against fp32. Scores and changes are in units of s; "largest" and "p99" are of absolute changes."""

    normals: int
    anomalies: int
    segments: int
    """Of all clips."""
    rank_clips: float
    """Spearman's correlation of the clip scores of all clips."""
    rank_normals: float
    """The same among normal clips only."""
    rank_segments: float
    """The same of the segment scores of all clips."""
    largest: float
    """Change of the clip score of a normal clip."""
    p99: float
    rms: float
    """Root of the mean square of it."""
    shift: float
    """Mean of it, signed: variant minus fp32."""
    largest_segment: float
    """Change of the score of a segment of a normal clip."""
    p99_segment: float
    spread: float
    """Standard deviation of fp32 clip scores of the normal clips."""
    margin: float
    """What a change is compared with: from the median normal clip to the threshold, or 3 spreads without one."""
    margin_source: str
    threshold: float | None
    flipped_normals: int | None
    """Normal clips that are above the threshold for one of the two only; None without a threshold."""
    flipped_anomalies: int | None
    auc: PairedChange | None
    """None with fewer than two clips of a class."""
    partial_auc: PairedChange | None
    """Up to a false-positive rate of 0.1."""
    pairs: tuple[tuple[float, float], ...]
    """(fp32, variant) clip score of every clip, in the order given."""
    anomalous: tuple[bool, ...]
    """Whether it is a known anomaly, for each of `pairs`."""

    @property
    def relative(self) -> float:
        """`largest` in parts of `margin`."""
        return self.largest / self.margin

    @property
    def flipped_share(self) -> float | None:
        """Of normal clips, in [0, 1]."""
        return None if self.flipped_normals is None else self.flipped_normals / self.normals

    def violations(self, limits: DriftLimits) -> list[str]:
        """One readable reason for each limit that is exceeded; empty if the variant passes."""
        return [reason for usage, reason in _criteria(self, limits) if usage > 1.0]

    def limit_usage(self, limits: DriftLimits) -> float:
        """The largest share used of any limit: at most 1 if the variant passes, infinite for a limit of 0."""
        return max(usage for usage, _ in _criteria(self, limits))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, from which `from_json` makes the same again; derived figures are added."""
        found = {_WRITTEN_NAMES.get(name, name): value for name, value in asdict(self).items()}
        for name in ("auc", "partial_auc"):
            change: PairedChange | None = getattr(self, name)
            found[name] = None if change is None else change.to_json()
        found["pairs"] = [list(pair) for pair in self.pairs]
        found["anomalous"] = list(self.anomalous)
        return {**found, "relative": self.relative, "flipped_share": self.flipped_share}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Drift:
        """The other way; KeyError or TypeError for what is no drift."""
        values = {name: found[_WRITTEN_NAMES.get(name, name)] for name in cls.__dataclass_fields__}
        for name in ("auc", "partial_auc"):
            if values[name] is not None:
                fields = PairedChange.__dataclass_fields__
                values[name] = PairedChange(**{field: values[name][field] for field in fields})
        values["pairs"] = tuple((float(a), float(b)) for a, b in values["pairs"])
        values["anomalous"] = tuple(bool(one) for one in values["anomalous"])
        return cls(**values)


def measure_drift(
    reference: Sequence[SegmentOutputs],
    variant: Sequence[SegmentOutputs],
    score: ScoreSettings,
    threshold: float | None,
    anomalous: Sequence[bool] | None = None,
) -> Drift:
    """Compare the outputs of fp32 and of a variant for the same clips in the same order.

    `anomalous` says of each clip whether it is a known anomaly; all are normal without it. Changes, margin and
    flipped decisions count normal clips: the scores of anomalies are large, and so is what eight bits do to them,
    without harm. A decision is a clip score above `threshold`. Raises InputError without a normal clip and for
    lists of different length, CheckFailed if a score of fp32 or of the variant is not finite.
    """
    labels = np.zeros(len(reference), bool) if anomalous is None else np.asarray(anomalous, bool)
    if not len(reference) == len(variant) == len(labels):
        raise InputError(
            f"drift: {len(reference)} clips of fp32, {len(variant)} of the variant and {len(labels)} labels; "
            "score the same clips with both"
        )
    if labels.all():
        raise InputError("drift: no normal clips to measure it on; give some that gave no ranges")
    exact, found = _segment_scores("fp32", reference, score), _segment_scores("the variant", variant, score)
    if any(a.shape != b.shape for a, b in zip(exact, found, strict=True)):
        raise InputError("drift: a clip has another number of segments in the variant; score the same clips with both")
    clips = np.array([[a.mean(), b.mean()] for a, b in zip(exact, found, strict=True)])
    normal, anomaly = clips[~labels], clips[labels]
    change = normal[:, 1] - normal[:, 0]
    segment_change = np.concatenate([np.abs(b - a) for a, b, bad in zip(exact, found, labels, strict=True) if not bad])
    spread = float(normal[:, 0].std())
    margin, margin_source = _margin(normal[:, 0], spread, threshold)
    enough = min(len(normal), len(anomaly)) >= FEWEST_PER_CLASS
    classes = [(normal[:, which], anomaly[:, which]) for which in (0, 1)]
    return Drift(
        normals=len(normal),
        anomalies=len(anomaly),
        segments=sum(len(one) for one in exact),
        rank_clips=rank_correlation(clips[:, 0], clips[:, 1]),
        rank_normals=rank_correlation(normal[:, 0], normal[:, 1]),
        rank_segments=rank_correlation(np.concatenate(exact), np.concatenate(found)),
        largest=float(np.abs(change).max()),
        p99=float(np.quantile(np.abs(change), 0.99)),
        rms=float(np.sqrt(np.mean(change**2))),
        shift=float(change.mean()),
        largest_segment=float(segment_change.max()),
        p99_segment=float(np.quantile(segment_change, 0.99)),
        spread=spread,
        margin=margin,
        margin_source=margin_source,
        threshold=threshold,
        flipped_normals=_flipped(normal, threshold),
        flipped_anomalies=_flipped(anomaly, threshold),
        auc=auc_change(classes[0], classes[1]) if enough else None,
        partial_auc=partial_auc_change(classes[0], classes[1]) if enough else None,
        pairs=tuple((float(a), float(b)) for a, b in clips),
        anomalous=tuple(bool(one) for one in labels),
    )


def _segment_scores(who: str, clips: Sequence[SegmentOutputs], score: ScoreSettings) -> list[Array]:
    found = [blend(clip.q, relative_distance(clip.d, score.d_min, score.d_max), score.alpha) for clip in clips]
    for index, one in enumerate(found):
        if not len(one) or not np.isfinite(one).all():
            raise CheckFailed(f"drift: {who} gives clip {index} a score that is not a number; remove the clip")
    return found


def _margin(normal: Array, spread: float, threshold: float | None) -> tuple[float, str]:
    middle = float(np.median(normal))
    # A threshold below the median normal clip leaves no margin, so the distance to it measures nothing.
    if threshold is not None and threshold - middle > spread:
        return max(threshold - middle, _LEAST_MARGIN), "median normal clip to threshold"
    return max(
        _SPREADS_OF_MARGIN * spread, _LEAST_MARGIN
    ), f"{_SPREADS_OF_MARGIN:.0f} standard deviations of normal clips"


def _flipped(pairs: Array, threshold: float | None) -> int | None:
    if threshold is None:
        return None
    return int(np.count_nonzero((pairs[:, 0] > threshold) != (pairs[:, 1] > threshold)))


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
        f"a normal clip's score changes by {drift.largest:.3g}, {drift.relative:.3g} of {drift.margin:.3g} "
        f"({drift.margin_source}); allowed {limits.largest_change:g}",
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
