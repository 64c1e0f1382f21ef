"""The batch of each iteration, as a pure function of the seed and the iteration.

Iteration 731 draws the same batch whether training ran there without a stop or was resumed at 700, and in any
process with that seed.
"""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import tile
from edgeasd.toolkit.losses import ANOMALY, NORMAL, OUTLIER

_NORMALS, _OUTLIERS, _CROPS, _ANOMALIES = 1, 2, 3, 6
_CACHE_BYTES = 512 * 1024 * 1024
"""Features a pool caches in memory: about 3,000 ten-second clips."""


@dataclass(frozen=True)
class Batch:
    """Indices into the pools, and one number in [0, 1) per sample for its crop, in the same order."""

    normals: npt.NDArray[np.int64]
    outliers: npt.NDArray[np.int64]
    anomalies: npt.NDArray[np.int64]
    crops: npt.NDArray[np.float64]


class BatchSampler:
    """32 normals and 32 outliers an iteration (paper, section IV-A), or 32, 31 and 1 anomaly (IV-C).

    Each epoch shuffles both pools again. Normals run through their pool, several times if the
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


class FeaturePool:
    """The clips of one kind (normals, outliers) as log-mel arrays (T, n_mels), opened when needed.

    `open_clip(i)` returns the features of clip i, memory-mapped. The first clips are cached as copies:
    a mapping holds a file descriptor, of which a process has about a thousand, and its pages may be
    dropped and read from disk again in every epoch.
    """

    def __init__(self, count: int, open_clip: Callable[[int], Float32Array], frames: int) -> None:
        self._open = open_clip
        self._frames = frames
        self._count = count
        self._cached: OrderedDict[int, Float32Array] = OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return self._count

    def clip(self, index: int) -> Float32Array:
        """Features (T, n_mels) of one clip, T >= frames: a shorter one is tiled."""
        features = self._cached.get(index)
        if features is None:
            mapped = self._open(index)
            features = tile(mapped, self._frames) if len(mapped) < self._frames else np.array(mapped)
            self._cache(index, features)
        return features

    def _cache(self, index: int, features: Float32Array) -> None:
        self._cached[index] = features
        self._cached_bytes += features.nbytes
        while self._cached_bytes > _CACHE_BYTES and len(self._cached) > 1:
            self._cached_bytes -= self._cached.popitem(last=False)[1].nbytes

    def crop(self, index: int, fraction: float, out: Float32Array) -> None:
        """Copy the segment at `fraction` in [0, 1) of the possible starts into out (frames, n_mels)."""
        clip = self.clip(index)
        start = int(fraction * (len(clip) - self._frames + 1))
        out[:] = clip[start : start + self._frames]

    def centred(self, indices: Sequence[int] | npt.NDArray[np.int64], out: Float32Array) -> None:
        """Copy the middle segment of each clip into out (len(indices), frames, n_mels)."""
        for row, index in enumerate(indices):
            self.crop(int(index), 0.5, out[row])


def assemble(chosen: Batch, pools: Sequence[FeaturePool], frames: int, n_mels: int) -> tuple[Tensor, Tensor]:
    """Segments (N, 1, frames, n_mels) float32, channels last, and their kinds (N,) int64.

    `pools` are those of normals, outliers and, if the batch has any, known anomalies.
    """
    indices = (chosen.normals, chosen.outliers, chosen.anomalies)
    rows = [(pool, int(index)) for pool, of_pool in zip(pools, indices, strict=False) for index in of_pool]
    batch = np.empty((len(rows), frames, n_mels), dtype=np.float32)
    for row, (pool, index) in enumerate(rows):
        pool.crop(index, float(chosen.crops[row]), batch[row])
    counts = torch.tensor([len(of_pool) for of_pool in indices])
    kind = torch.repeat_interleave(torch.tensor([NORMAL, OUTLIER, ANOMALY]), counts)
    segments = torch.from_numpy(batch)[:, None].contiguous(memory_format=torch.channels_last)
    return segments, kind


BatchSource = Dataset[tuple[Tensor, Tensor] | Exception]
"""The batch of every iteration, or what went wrong making it."""


class Batches(BatchSource):
    """The batch of every iteration: batches[731] is the same in any process and at any time."""

    def __init__(self, sampler: BatchSampler, pools: Sequence[FeaturePool], frames: int, n_mels: int) -> None:
        self._sampler, self._pools, self._frames, self._n_mels = sampler, pools, frames, n_mels

    def __getitem__(self, iteration: int) -> tuple[Tensor, Tensor] | Exception:
        """Segments and kinds, as `assemble` gives them.

        An error is returned, not raised: DataLoader would put a traceback into its message.
        """
        try:
            return assemble(self._sampler.batch(iteration), self._pools, self._frames, self._n_mels)
        except Exception as error:
            return error


def load_batches(batches: BatchSource, first: int, stop: int, *, workers: int, pin_memory: bool) -> Iterator[Any]:
    """`batches[first]` to `batches[stop - 1]`, made ahead by `workers` processes (0: when they are asked for).

    With `pin_memory` they lie in page-locked memory, from which a copy to a GPU runs beside the step before.
    The global random generators are not touched, so resuming stays exact.
    """
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, stop),
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),
        )
    )


def _ignore_signals(_worker: int) -> None:
    """Ctrl-C reaches the whole group; training ends its iteration first and needs the worker for that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
