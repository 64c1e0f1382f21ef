"""The last seconds of a sound as PCM, in memory that never grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.logmel import Float32Array

Pcm = npt.NDArray[np.int16] | npt.NDArray[np.int32]
DTYPES: dict[int, npt.DTypeLike] = {16: np.int16, 24: np.int32}
"""Bits of the clip to the type that is held; 24 bits lie in the upper part of 32, as libsndfile takes them."""


def to_pcm(samples: Float32Array, bits: int) -> Pcm:
    """Samples (n,) float32 in [-1, 1) as int16 or int32 (n,); what lies outside is cut off, NaN becomes 0.

    Sound that came with so many bits or fewer is given back exactly.
    """
    full = float(1 << (bits - 1))
    scaled = np.nan_to_num(np.rint(samples.astype(np.float64) * full), nan=0.0)
    whole = np.clip(scaled, -full, full - 1)
    return whole.astype(np.int16) if bits == 16 else (whole * 256).astype(np.int32)


class PcmRing:
    """Holds the newest `capacity` samples; `memory_bytes` is all it ever takes."""

    def __init__(self, capacity: int, bits: int) -> None:
        self._held = np.zeros(max(1, capacity), DTYPES[bits])
        self.capacity = max(0, capacity)
        self._end = 0
        self.filled = 0
        """Samples that can be asked for."""

    @property
    def memory_bytes(self) -> int:
        return int(self._held.nbytes)

    def push(self, pcm: Pcm) -> None:
        """Add samples (n,), any n >= 0."""
        if not self.capacity:
            return
        pcm = pcm[-self.capacity :]
        first = min(pcm.size, self.capacity - self._end)
        self._held[self._end : self._end + first] = pcm[:first]
        self._held[: pcm.size - first] = pcm[first:]
        self._end = (self._end + pcm.size) % self.capacity
        self.filled = min(self.capacity, self.filled + pcm.size)

    def last(self, count: int) -> Pcm:
        """A copy of the newest `count` samples, 0 <= count <= filled."""
        if not count:
            return self._held[:0].copy()
        return np.roll(self._held, -self._end)[self.capacity - count :].copy()

    def clear(self) -> None:
        """Forget everything."""
        self._end = self.filled = 0
