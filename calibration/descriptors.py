"""What a segment sounds like, in a few numbers: enough to tell loud from quiet, hiss from hum, steady from struck."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.logmel import Float32Array

BANDS = 8
"""Parts of the mel axis whose mean levels describe a spectrum."""
DESCRIPTORS = ("level", "loudest frame", "quietest frame", "flux", *(f"band {index}" for index in range(BANDS)))
"""Level: mean of the log-mel. Loudest and quietest frame: of the frames' means. Flux: mean change from frame to
frame. Band k: mean of its mels minus the level, the shape of the spectrum apart from how loud it is."""

Array = NDArray[np.float64]


def describe(features: Float32Array, starts: Sequence[int], frames: int, name: str = "") -> Array:
    """DESCRIPTORS of the segments of `frames` frames at `starts` of one clip: (starts, DESCRIPTORS) float64.

    `features` is (T, n_mels) log-mel with T at least the last start plus `frames`. Sums run once over the
    clip, so overlapping segments cost nothing extra. Raises InputError, with `name`, for a value that is not finite.
    """
    values = np.asarray(features, np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{name or 'a clip'}: its log-mel has a value that is not finite; remove the clip")
    edges = np.linspace(0, values.shape[1], min(BANDS, values.shape[1]) + 1).astype(int)
    bands = np.stack([values[:, a:b].mean(axis=1) for a, b in pairwise(edges)], axis=1)
    if bands.shape[1] < BANDS:
        bands = np.pad(bands, ((0, 0), (0, BANDS - bands.shape[1])), mode="edge")
    level = values.mean(axis=1)
    change = np.abs(np.diff(values, axis=0)).mean(axis=1)
    first = np.asarray(starts)
    means = _means(np.column_stack([level, bands]), first, frames)
    flux = _means(np.append(change, 0.0)[:, None], first, frames - 1) if frames > 1 else np.zeros((len(first), 1))
    loudest = np.array([level[start : start + frames].max() for start in starts])
    quietest = np.array([level[start : start + frames].min() for start in starts])
    return np.column_stack([means[:, :1], loudest, quietest, flux, means[:, 1:] - means[:, :1]])


def _means(rows: Array, first: NDArray[np.int_], frames: int) -> Array:
    sums = np.concatenate([np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0)])
    return np.asarray((sums[first + frames] - sums[first]) / frames)


def standardised(descriptors: Array) -> Array:
    """Every column with mean 0 and standard deviation 1; a column that does not vary is 0."""
    spread = descriptors.std(axis=0)
    # Below this it is rounding of the running sums, and dividing by it would make noise the main difference.
    varies = spread > 1e-9 * (1.0 + np.abs(descriptors).max(axis=0))
    return np.asarray(np.where(varies, (descriptors - descriptors.mean(axis=0)) / np.where(varies, spread, 1.0), 0.0))
