"""Batches made ahead of the step that needs them, so that the model does not wait for its data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from edgeasd.toolkit.losses import ANOMALY, NORMAL, OUTLIER
from edgeasd.toolkit.training.pools import FeaturePool
from edgeasd.toolkit.training.sampler import Batch

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
