"""Which clips and which crop each iteration sees: a pure function of the seed and the iteration.

There is no hidden position: iteration 731 draws the same batch whether training came there in one
go or was resumed at 700, and two processes with one seed agree.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.features.segments import tile
from edgeasd.toolkit.losses import ANOMALY, NORMAL, OUTLIER

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


_KEPT_BYTES = 512 * 1024 * 1024
"""Features a pool keeps in memory: about 3,000 ten-second clips."""


class FeaturePool:
    """The clips of one role (normals, outliers) as log-mel arrays (T, n_mels), opened when needed.

    `open_clip(i)` returns the features of clip i, memory-mapped. The clips used last are kept as copies:
    a mapping holds a file descriptor, of which a process has about a thousand, and its pages may be
    dropped and read from disk again in every epoch.
    """

    def __init__(self, count: int, open_clip: Callable[[int], Float32Array], frames: int) -> None:
        self._open = open_clip
        self._frames = frames
        self._count = count
        self._kept: OrderedDict[int, Float32Array] = OrderedDict()
        self._kept_bytes = 0
        # Batches are made in a thread of their own, centroids in the one that trains.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def clip(self, index: int) -> Float32Array:
        """Features (T, n_mels) of one clip, T >= frames: a shorter one is tiled."""
        with self._lock:
            features = self._kept.get(index)
            if features is None:
                mapped = self._open(index)
                features = tile(mapped, self._frames) if len(mapped) < self._frames else np.array(mapped)
                self._keep(index, features)
            return features

    def _keep(self, index: int, features: Float32Array) -> None:
        self._kept[index] = features
        self._kept_bytes += features.nbytes
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def crop(self, index: int, fraction: float, out: Float32Array) -> None:
        """Copy the segment at `fraction` in [0, 1) of the possible starts into out (frames, n_mels)."""
        clip = self.clip(index)
        start = int(fraction * (len(clip) - self._frames + 1))
        out[:] = clip[start : start + self._frames]

    def centred(self, indices: Sequence[int] | npt.NDArray[np.int64], out: Float32Array) -> None:
        """Copy the middle segment of each clip into out (len(indices), frames, n_mels)."""
        for row, index in enumerate(indices):
            self.crop(int(index), 0.5, out[row])


T = TypeVar("T")

_AHEAD = 2
_POLL_SECONDS = 0.1


class Ahead(Generic[T]):
    """Calls make(first), make(first + 1), … up to `stop` in a thread, at most two results ahead of `next`.

    A batch is a pure function of its iteration, so making it early changes nothing but the time. An
    error in `make` is raised by the `next` that would have returned its result. `waited` is how many
    seconds `next` has waited: the share of training that the input pipeline starves.
    """

    def __init__(self, make: Callable[[int], T], first: int, stop: int) -> None:
        self.waited = 0.0
        self._make = make
        self._numbers = range(first, stop)
        self._made: Queue[tuple[T | None, BaseException | None]] = Queue(_AHEAD)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def __enter__(self) -> Ahead[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        self._thread.join()

    def next(self) -> T:
        """The next result, in order. Raises what `make` raised, IndexError after the last."""
        begun = time.perf_counter()
        while True:
            try:
                value, error = self._made.get(timeout=_POLL_SECONDS)
                break
            except Empty:
                if not self._thread.is_alive() and self._made.empty():
                    raise IndexError(f"there is nothing after {self._numbers.stop - 1}") from None
        self.waited += time.perf_counter() - begun
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def _work(self) -> None:
        for number in self._numbers:
            try:
                done: tuple[T | None, BaseException | None] = (self._make(number), None)
            except BaseException as error:  # handed to the thread that asked for it
                done = (None, error)
            if not self._hand_over(done) or done[1] is not None:
                return

    def _hand_over(self, done: tuple[T | None, BaseException | None]) -> bool:
        while not self._closing.is_set():
            try:
                self._made.put(done, timeout=_POLL_SECONDS)
                return True
            except Full:
                continue
        return False


def assemble(
    chosen: Batch, pools: Sequence[FeaturePool], frames: int, n_mels: int, pinned: bool
) -> tuple[Tensor, Tensor]:
    """Segments (N, 1, frames, n_mels) float32, channels last, and their kinds (N,) int64.

    `pools` are those of normals, outliers and, where the batch has any, known anomalies. With `pinned` both
    tensors lie in page-locked memory.
    """
    indices = (chosen.normals, chosen.outliers, chosen.anomalies)
    rows = [(pool, int(index)) for pool, of_pool in zip(pools, indices, strict=False) for index in of_pool]
    batch = np.empty((len(rows), frames, n_mels), dtype=np.float32)
    for row, (pool, index) in enumerate(rows):
        pool.crop(index, float(chosen.crops[row]), batch[row])
    counts = torch.tensor([len(of_pool) for of_pool in indices])
    kind = torch.repeat_interleave(torch.tensor([NORMAL, OUTLIER, ANOMALY]), counts)
    segments = torch.from_numpy(batch)[:, None].contiguous(memory_format=torch.channels_last)
    return (segments.pin_memory(), kind.pin_memory()) if pinned else (segments, kind)
