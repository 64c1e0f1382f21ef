"""Features in memory-mapped files, and segments cut from them into one batch array."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.segments import tile

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
