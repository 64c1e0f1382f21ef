"""A bank of normals: the frozen embeddings that a segment is compared with in place of one centroid.

For an embedding z (D,) and stored normals b_i (M, D′),

    d = min_i ‖T(z) - b_i‖ / r_i

T is a frozen affine map of the values that the bank looks at: none, or a whitening. r_i is the mean distance of b_i
to its K nearest neighbours among the training normals of *other* clips: where normals lie dense a small distance
counts, where they are sparse it does not (local density normalisation: Wilkinghoff et al. 2025, arXiv 2509.10951).
Several banks over one embedding vote: each d is standardised by the distances of normals that a bank fitted without
them has not seen, and the weighted mean of all is taken.

One bank of one normal without a map, density and root is the paper's ‖z - c_p‖².
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.errors import CheckFailed, InputError

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

KNN, CLASSIFY = "knn", "classify"
"""Names of the methods that compare with stored normals, as runs and manifests have them."""
NEIGHBOURS = 4
"""K of the local density. Of 1, 2, 4, 8 and 16 all did about the same; 4 is that of the source."""
LARGEST_BANK = 1024
"""Stored normals of one bank. Half as many cost half a point of the harmonic mean, an eighth about one."""
LARGEST_PRINCIPAL = 128
"""Directions of a "principal" whitening."""
_FAINT = 0.01
"""Of the deviation along the first: what varies less is left out, for whitening would raise its rounding with it."""
_ROWS = 1024
"""Rows of a matrix of distances at a time: memory grows with N, not with its square."""
FOLDS = 5
"""Parts in which normals are left out to see how far new normals lie."""


@dataclass(frozen=True)
class BankPlan:
    """What one bank of a vote looks at."""

    name: str
    columns: tuple[int, int]
    """First and last + 1 of the values of the embedding."""
    map: str = "none"
    """"none"; "standardise": each value scaled to unit variance; "whiten": rotated and scaled to unit variance, the
    covariance shrunk as Ledoit and Wolf (2004); "principal": rotated and scaled to unit variance, the first directions
    only, at most 128 and half as many as there are clips."""
    weight: float = 1.0
    """Of its vote."""
    level: tuple[int, int] | None = None
    """Columns, first and last + 1, whose mean is taken out of each embedding first: what a gain moves alike."""


@dataclass(frozen=True)
class Bank:
    """Frozen statistics of normals. All arrays are float32."""

    name: str
    columns: tuple[int, int]
    shift: Float32Array
    """(C,), subtracted first; C is the number of columns."""
    matrix: Float32Array | None
    """(C, D′), applied next, or (C,), multiplied next; None leaves the values as they are."""
    points: Float32Array
    """(M, D′): the stored normals, after shift and matrix."""
    density: Float32Array
    """(M,): r_i, greater than 0."""
    mean: float
    """Mean of the distances of normals to a bank fitted without their clips."""
    spread: float
    """Their standard deviation."""
    weight: float = 1.0
    """Of its vote."""


def fit_bank(
    z: npt.NDArray[Any],
    clips: npt.NDArray[Any],
    plan: BankPlan,
    *,
    size: int = LARGEST_BANK,
    neighbours: int = NEIGHBOURS,
) -> Bank:
    """A bank of the training normals z (N, D), of which `clips` (N,) says the clip that each comes from.

    Densities count segments of other clips only: segments of one clip overlap, and would call each other near. Of
    more than `size` normals those are kept that k-centre selection takes: each next one is the furthest from all
    before it, so that rare normals stay.

    Raises InputError for fewer than `neighbours` + 1 clips, for values that are not finite, and for normals that are
    copies of each other, whose density would be 0.
    """
    return _fit_bank(np.asarray(z), np.asarray(clips), plan, size, neighbours)[0]


def fit_banks(
    z: npt.NDArray[Any],
    clips: npt.NDArray[Any],
    plans: Sequence[BankPlan],
    *,
    size: int = LARGEST_BANK,
    neighbours: int = NEIGHBOURS,
) -> tuple[tuple[Bank, ...], Float64Array]:
    """The banks of a vote, and d (N,) of each normal to banks that have not seen its clip. As `fit_bank`."""
    z, clips = np.asarray(z), np.asarray(clips)
    fitted = [_fit_bank(z, clips, plan, size, neighbours) for plan in plans]
    banks = tuple(bank for bank, _ in fitted)
    if len(banks) == 1:
        return banks, fitted[0][1]
    return banks, _vote([(unseen - bank.mean) / bank.spread for bank, unseen in fitted], banks)


def _fit_bank(
    z: npt.NDArray[Any], clips: npt.NDArray[Any], plan: BankPlan, size: int, neighbours: int
) -> tuple[Bank, Float64Array]:
    """The bank, and the distances (N,) of its normals to banks without their clips."""
    first, last = plan.columns
    values = np.asarray(z[:, first:last], np.float64)
    distinct = np.unique(clips)
    if len(distinct) < neighbours + 1:
        raise InputError(
            f"{len(distinct)} normal clips for a bank: the density takes {neighbours} neighbours of each, from other "
            f"clips; record {neighbours + 1 - len(distinct)} more"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InputError(f"normal segment {row} of clip {clips[row]}: its embedding is not finite; remove the clip")
    shift, matrix, points, density = _fit(values, clips, plan, neighbours)
    unseen = _unseen(values, clips, plan, neighbours)
    if not unseen.std() > 0:
        raise CheckFailed(f"all normals lie at the same distance ({plan.name}); the embedding is constant")
    kept = k_centres(points, size) if len(points) > size else np.arange(len(points))
    bank = Bank(
        plan.name,
        plan.columns,
        shift.astype(np.float32),
        None if matrix is None else matrix.astype(np.float32),
        points[kept].astype(np.float32),
        density[kept].astype(np.float32),
        float(unseen.mean()),
        float(unseen.std()),
        plan.weight,
    )
    return bank, unseen


_Fitted = tuple[Float64Array, Float64Array | None, Float64Array, Float64Array]


def _fit(values: Float64Array, clips: npt.NDArray[Any], plan: BankPlan, neighbours: int) -> _Fitted:
    """Shift, matrix, points and densities (N,) of the values (N, C) of normals."""
    shift = values.mean(axis=0)
    matrix = _map(values - shift, plan, len(np.unique(clips)))
    points = _mapped(values - shift, matrix)
    density = _densities(points, clips, neighbours)
    if (copies := np.flatnonzero(density <= 1e-6 * max(float(np.abs(points).max()), 1e-30))).size:
        raise InputError(
            f"{copies.size} of {len(points)} normal segments ({plan.name}) are the same as {neighbours} others, a "
            "density of 0; remove the copies, or recordings of silence"
        )
    return shift, matrix, points, density


def _densities(points: Float64Array, clips: npt.NDArray[Any], neighbours: int) -> Float64Array:
    """Mean distance (N,) of each point to its nearest ones of other clips, `neighbours` of them where there are."""
    found = np.empty(len(points))
    for start in range(0, len(points), _ROWS):
        part = slice(start, start + _ROWS)
        apart = np.where(clips[part, None] == clips[None], np.inf, pairwise(points[part], points))
        apart = np.sort(np.partition(apart, neighbours - 1, axis=1)[:, :neighbours], axis=1)
        found[part] = np.where(np.isfinite(apart), apart, 0.0).sum(axis=1) / np.isfinite(apart).sum(axis=1)
    return found


def _unseen(values: Float64Array, clips: npt.NDArray[Any], plan: BankPlan, neighbours: int) -> Float64Array:
    """Distances (N,) of normals to banks fitted without their clips, in FOLDS parts.

    Leaving out one normal at a time would not do: a whitening that has seen few normals, this one among them, makes
    all of them alike, and a bank that is judged by that would outvote all others.
    """
    distinct = np.unique(clips)
    found = np.empty(len(values))
    for fold in range(FOLDS):
        left_out = np.isin(clips, distinct[fold::FOLDS])
        if not left_out.any():
            continue
        shift, matrix, points, density = _fit(values[~left_out], clips[~left_out], plan, neighbours)
        mapped = _mapped(values[left_out] - shift, matrix)
        found[left_out] = (pairwise(mapped, points) / density).min(axis=1)
    return found


def map_to_bank(bank: Bank, z: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Embeddings z (N, D) in the space of the points of `bank`, (N, D′) float64."""
    first, last = bank.columns
    values = np.asarray(z, np.float64)[:, first:last] - bank.shift
    return _mapped(values, None if bank.matrix is None else bank.matrix.astype(np.float64))


def _mapped(centred: Float64Array, matrix: Float64Array | None) -> Float64Array:
    """Values (N, C) less their shift, in the space of the points, (N, D′)."""
    if matrix is None:
        return centred
    return np.asarray(centred * matrix if matrix.ndim == 1 else centred @ matrix)


def bank_distances(banks: Sequence[Bank], z: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """d of embeddings z (N, D), (N,) float64: that of the bank, or the weighted mean of the standardised ones of several."""
    found = []
    for bank in banks:
        nearest = (pairwise(map_to_bank(bank, z), bank.points.astype(np.float64)) / bank.density).min(axis=1)
        found.append(nearest if len(banks) == 1 else (nearest - bank.mean) / bank.spread)
    return _vote(found, banks)


def _vote(each: Sequence[Float64Array], banks: Sequence[Bank]) -> Float64Array:
    """The weighted mean of the d (N,) of several banks."""
    total = sum(bank.weight for bank in banks)
    return np.asarray(sum(bank.weight * d for bank, d in zip(banks, each, strict=True)) / total, np.float64)


def pairwise(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Euclidean distances (N, M) of rows a (N, D) and b (M, D)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def k_centres(points: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Of points (N, D), `count` in order: the first, and each next the furthest from all taken.

    Gonzalez, Clustering to minimize the maximum intercluster distance (1985).
    """
    taken, nearest = [0], pairwise(points[:1], points)[0]
    while len(taken) < count:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, pairwise(points[taken[-1] :][:1], points)[0])
    return np.sort(np.array(taken, np.int64))


def _map(centred: Float64Array, plan: BankPlan, clips: int) -> Float64Array | None:
    """The map that `plan` names, (C, D′), (C,) or None, fitted on values (N, C) less their mean of so many clips."""
    if plan.level is None:
        return _MAPS[plan.map](centred, clips)
    first, last = (edge - plan.columns[0] for edge in plan.level)
    without = np.eye(centred.shape[1])
    without[first:last, first:last] -= 1.0 / (last - first)
    inner = _MAPS[plan.map](centred @ without, clips)
    if inner is None:
        return without
    return np.asarray(without * inner if inner.ndim == 1 else without @ inner)


def _scaling(centred: Float64Array) -> Float64Array:
    """(C,): 1 / standard deviation of each value; one that hardly varies is scaled as if it varied a thousandth as
    much as the others do, so that its rounding does not become the main difference."""
    spread = centred.std(axis=0)
    level = float(np.sqrt((spread**2).mean()))
    if not level > 0:
        raise CheckFailed("all normals have the same embedding; a bank of them says nothing")
    return np.asarray(1.0 / np.maximum(spread, 1e-3 * level))


def _whitening(centred: Float64Array) -> Float64Array:
    """(C, C): Σ^(-1/2) of the covariance, shrunk towards a multiple of the identity.

    The weight of the identity is that of Ledoit and Wolf, A well-conditioned estimator for large-dimensional
    covariance matrices (2004): a handful of normals gives little more than a scaling, many a full whitening.
    """
    count, size = centred.shape
    if size <= count:
        variances, axes = np.linalg.eigh(centred.T @ centred / count)
    else:  # the same from the normals' side: what they do not span has no variance
        _, values, rows = np.linalg.svd(centred, full_matrices=False)
        variances, axes = values**2 / count, rows.T
    variances = np.maximum(variances, 0.0)
    level = variances.sum() / size
    from_identity = float((variances**2).sum() - size * level**2)
    noise = float(((centred**2).sum(axis=1) ** 2).mean() - (variances**2).sum()) / count
    weight = 1.0 if from_identity <= 0 else min(1.0, max(0.0, noise / from_identity))
    if not level > 0:
        raise CheckFailed("all normals have the same embedding; a bank of them says nothing")

    def scale(variance: Float64Array) -> Float64Array:
        return 1.0 / np.sqrt(np.maximum((1.0 - weight) * variance + weight * level, 1e-12 * level))

    if size <= count:
        return np.asarray(axes * scale(variances))
    rest = float(scale(np.zeros(1))[0])
    return np.asarray(rest * np.eye(size) + (axes * (scale(variances) - rest)) @ axes.T)


def _principal(centred: Float64Array, clips: int) -> Float64Array:
    """(C, D′): Σ^(-1/2) of the first D′ principal directions.

    So few that each has been seen to vary: of as many directions as there are clips, the last would be those in which
    no two happen to differ, and a whitening would make them the most important.
    """
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    kept = min(LARGEST_PRINCIPAL, max(1, clips // 2), int((values > _FAINT * values[0]).sum()))
    if kept == 0:
        raise CheckFailed("all normals have the same embedding; a bank of them says nothing")
    return np.asarray(rows[:kept].T / (values[:kept] / np.sqrt(len(centred))))


_MAPS: dict[str, Callable[[Float64Array, int], Float64Array | None]] = {
    "none": lambda _values, _clips: None,
    "standardise": lambda values, _clips: _scaling(values),
    "whiten": lambda values, _clips: _whitening(values),
    "principal": _principal,
}


def write_banks(banks: Sequence[Bank]) -> bytes:
    """Banks as npz without objects."""
    arrays: dict[str, npt.NDArray[Any]] = {"count": np.array(len(banks))}
    for index, bank in enumerate(banks):
        fields = {"name": np.array(bank.name), "columns": np.array(bank.columns), "shift": bank.shift}
        fields |= {"points": bank.points, "density": bank.density, "standard": np.array([bank.mean, bank.spread])}
        fields |= {"weight": np.array(bank.weight)}
        fields |= {} if bank.matrix is None else {"matrix": bank.matrix}
        arrays |= {f"{index}.{key}": value for key, value in fields.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_banks(data: bytes, place: str) -> tuple[Bank, ...]:
    """What `write_banks` wrote. Raises InputError, naming `place`, for anything else."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return tuple(_read_bank(file, index) for index in range(int(file["count"])))
    except Exception as error:  # of numpy, zipfile or zlib: whatever a damaged file makes of them
        raise InputError(f"{place}: no bank of normals ({type(error).__name__}: {error}); train again") from None


def _read_bank(file: Any, index: int) -> Bank:
    first, last = (int(value) for value in file[f"{index}.columns"])
    mean, spread = (float(value) for value in file[f"{index}.standard"])
    weight = float(file[f"{index}.weight"]) if f"{index}.weight" in file.files else 1.0
    matrix = file[f"{index}.matrix"] if f"{index}.matrix" in file.files else None
    bank = Bank(
        str(file[f"{index}.name"]),
        (first, last),
        file[f"{index}.shift"],
        matrix,
        file[f"{index}.points"],
        file[f"{index}.density"],
        mean,
        spread,
        weight,
    )
    width = last - first if matrix is None or matrix.ndim == 1 else matrix.shape[1]
    shapes = bank.shift.shape == (last - first,) and bank.points.shape == (len(bank.density), width)
    if not (shapes and spread > 0 and weight > 0 and (bank.density > 0).all() and np.isfinite(bank.points).all()):
        raise ValueError(f"bank {index} holds what no bank holds")
    return bank
