"""Which clips and which crop each iteration sees: a pure function of the seed and the iteration.

There is no hidden position: iteration 731 draws the same batch whether training came there in one
go or was resumed at 700, and two processes with one seed agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_NORMALS, _OUTLIERS, _CROPS, _ANOMALIES = 1, 2, 3, 6


@dataclass(frozen=True)
class Batch:
    """Indices into the pools, and one number in [0, 1) per sample for its crop, in the same order."""

    normals: npt.NDArray[np.int64]
    outliers: npt.NDArray[np.int64]
    anomalies: npt.NDArray[np.int64]
    crops: npt.NDArray[np.float64]


class BatchSampler:
    """32 normals and 32 outliers an iteration (paper, section IV-A), or 32, 31 and 1 anomaly (IV-C).

    Each epoch shuffles both pools anew. Normals run through their pool, again and again where the
    epoch asks for more than there are; so does a small outlier pool, which is what drawing with
    replacement comes to, only more even.
    """

    def __init__(
        self,
        normals: int,
        outliers: int,
        *,
        batch_normal: int,
        batch_outlier: int,
        least_epoch: int,
        seed: int,
        anomalies: int = 0,
        batch_anomaly: int = 0,
    ) -> None:
        self._normals, self._outliers, self._anomalies = normals, outliers, anomalies
        self._batch_normal, self._batch_outlier, self._batch_anomaly = batch_normal, batch_outlier, batch_anomaly
        self._seed = seed
        self.epoch_iterations = max(least_epoch, normals // batch_normal, 1)
        """Iterations from one shuffle, and one centroid update, to the next."""

    def batch(self, iteration: int) -> Batch:
        """The batch of `iteration`, counted from 0."""
        epoch, position = divmod(iteration, self.epoch_iterations)
        crops = np.random.default_rng([self._seed, _CROPS, iteration])
        return Batch(
            self._draw(_NORMALS, self._normals, epoch, position, self._batch_normal),
            self._draw(_OUTLIERS, self._outliers, epoch, position, self._batch_outlier),
            self._draw(_ANOMALIES, self._anomalies, epoch, position, self._batch_anomaly),
            crops.random(self._batch_normal + self._batch_outlier + self._batch_anomaly),
        )

    def _draw(self, pool: int, size: int, epoch: int, position: int, count: int) -> npt.NDArray[np.int64]:
        if not count:
            return np.empty(0, dtype=np.int64)
        wanted = np.arange(position * count, (position + 1) * count)
        passes, within = np.divmod(wanted, size)
        out = np.empty(count, dtype=np.int64)
        for number in np.unique(passes):
            chosen = passes == number
            out[chosen] = _shuffled(self._seed, pool, epoch, int(number), size)[within[chosen]]
        return out


@lru_cache(maxsize=8)
def _shuffled(seed: int, pool: int, epoch: int, number: int, size: int) -> npt.NDArray[np.int64]:
    """The order of pass `number` of `epoch` through a pool; the last few are kept, not remade each iteration."""
    return np.random.default_rng([seed, pool, epoch, number]).permutation(size)
