"""The constants that put the distance d on the scale of q: d_min, d_max and the blend α."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.runtime.errors import CheckFailed, InputError

ANOMALY_CLIPS_NEEDED = 8
OUTLIER_PERCENTILE = 5.0
NORMAL_PERCENTILE = 99.0
DEFAULT_ALPHA = 0.5
ALPHA_GRID = tuple(i / 10 for i in range(11))

# Segment distances: one array of any shape, or one array per clip.
Distances = NDArray[Any] | Sequence[NDArray[Any]]


@dataclass(frozen=True)
class DistanceRange:
    """d′ = (d − d_min) / (d_max − d_min), and where the two constants come from.

    `d_min` and `d_max` are squared distances in embedding units. The counts are segments; in `paper`
    mode, which does not tell the kinds apart, they are 0 and the sources state the total.
    """

    d_min: float
    d_max: float
    d_min_source: str
    d_max_source: str
    n_normal: int
    n_outlier: int
    n_anomaly: int
    mode: Literal["deploy", "paper"] = "deploy"


@dataclass(frozen=True)
class AlphaChoice:
    """The blend α of s = α q + (1 − α) d′, its AUC on the validation clips (None without labels), and why."""

    alpha: float
    auc: float | None
    source: str


def fit_distance_range(
    normal_d: Distances, outlier_d: Distances, anomaly_d: Sequence[NDArray[Any]] | None = None
) -> DistanceRange:
    """Deploy-mode constants, frozen at export: no clip that will be judged takes part.

    All arguments are distances d of segments, float32 or float64: `normal_d` of held-out normals,
    `outlier_d` of held-out outliers of that model's pool, `anomaly_d` one array per known anomalous clip.
    d_min is the smallest normal distance. d_max is the largest distance over the anomalies where there
    are 8 clips or more, else the 5th percentile (linear interpolation) over the outliers: their maximum
    lies far above real anomalies and would silence d′.

    Raises InputError if the distances needed are missing or not finite, CheckFailed if d_max does
    not lie above d_min.
    """
    normals = _segments(normal_d, "held-out normal")
    outliers = _segments(outlier_d, "held-out outlier")
    anomaly_clips = list(anomaly_d) if anomaly_d is not None else []
    if any(np.ndim(clip) == 0 for clip in anomaly_clips):
        raise InputError("anomaly distances are a flat list; give one array of segment distances per clip")
    anomalies = _segments(anomaly_clips, "known anomaly")
    # A clip without segments is no evidence.
    n_clips = sum(np.size(clip) > 0 for clip in anomaly_clips)
    if normals.size == 0:
        raise InputError("0 held-out normal segments give no d_min; train with a hold-out, or give --clips")
    d_min = float(normals.min())
    d_min_source = f"minimum over {normals.size} held-out normal segments"
    if n_clips >= ANOMALY_CLIPS_NEEDED:
        d_max = float(anomalies.max())
        d_max_source = f"maximum over {anomalies.size} segments of {n_clips} known anomaly clips"
    elif outliers.size:
        d_max = float(np.percentile(outliers, OUTLIER_PERCENTILE))
        d_max_source = f"5th percentile over {outliers.size} held-out outlier segments"
        if n_clips:
            d_max_source += f" ({n_clips} known anomaly clips, {ANOMALY_CLIPS_NEEDED} needed for theirs)"
    else:
        raise InputError(
            f"0 held-out outlier segments and {n_clips} known anomaly clips give no d_max; hold out "
            f"outliers, or give {ANOMALY_CLIPS_NEEDED} anomaly clips or more"
        )
    kind = "known anomalies" if n_clips >= ANOMALY_CLIPS_NEEDED else "outliers"
    if not _apart(d_min, d_max):
        raise CheckFailed(
            f"the model does not separate the {kind} from the normals by distance: "
            f"d_max {d_max:.7g} ({d_max_source}) is not above d_min {d_min:.7g} ({d_min_source}); "
            f"train longer, or check that the {kind} are not this machine's normals"
        )
    return DistanceRange(d_min, d_max, d_min_source, d_max_source, normals.size, outliers.size, anomalies.size)


def normal_range(normal_d: Distances) -> DistanceRange:
    """Constants for a machine alone: no outlier takes part.

    d_min is the smallest distance of the held-out normals; d_max lies twice as far above it as 99 % of them do, so
    that d′ is below about 0.5 for normal sound and 1 means twice as far. A scale only: a threshold is found on it
    afterwards. Raises InputError without distances or for one that is not finite, CheckFailed if all are equal.
    """
    normals = _segments(normal_d, "held-out normal")
    if normals.size == 0:
        raise InputError("0 held-out normal segments give no d_min; train with a hold-out, or give --clips")
    d_min = float(normals.min())
    d_max = d_min + 2.0 * (float(np.percentile(normals, NORMAL_PERCENTILE)) - d_min)
    if not _apart(d_min, d_max):
        raise CheckFailed(
            f"all {normals.size} held-out normal segments lie at the same distance {d_min:.7g}; record more than silence"
        )
    d_max_source = (
        f"twice the {NORMAL_PERCENTILE:g}th percentile over {normals.size} held-out normal segments, from d_min"
    )
    return DistanceRange(
        d_min, d_max, f"minimum over {normals.size} held-out normal segments", d_max_source, normals.size, 0, 0
    )


def paper_range(d: Distances) -> DistanceRange:
    """The paper's constants: minimum and maximum over the segments of the evaluation set (section III).

    Transductive, since the clips to be judged set the scale: for reproduction only. Raises InputError
    if there are none or one is not finite, CheckFailed if all are equal.
    """
    segments = _segments(d, "evaluation")
    if segments.size == 0:
        raise InputError("0 evaluation segments give no d_min and d_max; give the clips to evaluate")
    d_min, d_max = float(segments.min()), float(segments.max())
    if not _apart(d_min, d_max):
        raise CheckFailed(
            f"all {segments.size} evaluation segments lie at the same distance {d_min:.7g}: the embedding "
            "is constant; train longer, or with a smaller learning rate"
        )
    over = f"over {segments.size} evaluation segments (transductive)"
    return DistanceRange(d_min, d_max, f"minimum {over}", f"maximum {over}", 0, 0, 0, mode="paper")


def choose_alpha(
    q_normal: ArrayLike,
    d_prime_normal: ArrayLike,
    q_anomaly: ArrayLike,
    d_prime_anomaly: ArrayLike,
    grid: Sequence[float] = ALPHA_GRID,
) -> AlphaChoice:
    """The α of `grid` with the highest AUC on labelled validation clips; of equals, the nearest to 0.5.

    Arguments are clip means of q and d′ (the score is linear in both, so a clip's score is the blend of
    its means), (n_normal,) twice and (n_anomaly,) twice. Of two equally near α the smaller is taken.
    Where one kind is missing there are no labels to choose by: α is 0.5, and `source` says so.

    Raises InputError for values that are not finite, lengths that do not match, or a grid that is empty
    or leaves [0, 1].
    """
    if len(grid) == 0 or not all(0 <= alpha <= 1 for alpha in grid):
        raise InputError(f"alpha grid {list(grid)} is not usable; give at least one number, all in [0, 1]")
    normals = _clip_means(q_normal, d_prime_normal, "normal")
    anomalies = _clip_means(q_anomaly, d_prime_anomaly, "anomalous")
    n_normal, n_anomaly = normals.shape[1], anomalies.shape[1]
    counts = f"{n_normal} normal and {n_anomaly} anomalous validation clips"
    if n_normal == 0 or n_anomaly == 0:
        return AlphaChoice(DEFAULT_ALPHA, None, f"default, not chosen: {counts}")

    def rank(alpha: float) -> tuple[int, float, float]:
        # Element by element: a matrix product may round equal clips differently and so break their tie.
        scores = [alpha * q + (1 - alpha) * d_prime for q, d_prime in (normals, anomalies)]
        # Rounded, since |0.3 − 0.5| and |0.7 − 0.5| differ in their last bit.
        return (_twice_pairs_won(*scores), -round(abs(alpha - DEFAULT_ALPHA), 9), -alpha)

    best = max(grid, key=rank)
    auc = rank(best)[0] / (2 * n_normal * n_anomaly)
    return AlphaChoice(float(best), auc, f"highest AUC of {len(grid)} values over {counts}")


def _apart(d_min: float, d_max: float) -> bool:
    """Whether d′ can be formed in the head, which holds both constants as float32."""
    return bool(np.float32(d_max) > np.float32(d_min))


def _segments(values: Distances, kind: str) -> NDArray[np.float64]:
    clips = [values] if isinstance(values, np.ndarray) else values
    flat = [np.ravel(np.asarray(clip, dtype=np.float64)) for clip in clips]
    for number, clip in enumerate(flat):
        bad = np.flatnonzero(~np.isfinite(clip))
        if bad.size:
            where = f"segment {bad[0]}" if isinstance(values, np.ndarray) else f"clip {number}, segment {bad[0]}"
            raise InputError(
                f"{kind} {where}: distance {clip[bad[0]]}; remove the clip or repair the model that scored it"
            )
    return np.concatenate(flat) if flat else np.empty(0)


def _clip_means(q: ArrayLike, d_prime: ArrayLike, kind: str) -> NDArray[np.float64]:
    """(2, clips): q above d′."""
    rows = [np.asarray(values, dtype=np.float64) for values in (q, d_prime)]
    if rows[0].ndim != 1 or rows[0].shape != rows[1].shape:
        raise InputError(
            f"{kind} clip means of q and d′ have shapes {rows[0].shape} and {rows[1].shape}; "
            "give one value of each per clip"
        )
    means = np.stack(rows)
    for name, row in zip(("q", "d′"), means, strict=True):
        bad = np.flatnonzero(~np.isfinite(row))
        if bad.size:
            raise InputError(f"{kind} clip {bad[0]}: mean {name} is {row[bad[0]]}; remove the clip")
    return means


def _twice_pairs_won(normals: NDArray[np.float64], anomalies: NDArray[np.float64]) -> int:
    """2 × pairs in which the anomaly scores higher, plus ties: an integer, so that equal AUCs are equal."""
    ordered = np.sort(normals)
    return sum(int(np.searchsorted(ordered, anomalies, side=side).sum()) for side in ("left", "right"))
