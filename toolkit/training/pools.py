"""Features in memory-mapped files, and segments cut from them into one batch array."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgeasd.runtime.logmel import Float32Array
from edgeasd.runtime.segments import tile

_KEPT_OPEN = 200
"""A mapped file holds a file descriptor, of which a process has about a thousand."""


class FeaturePool:
    """The clips of one role (normals, outliers) as log-mel arrays (T, n_mels), opened when needed.

    `open_clip(i)` returns the features of clip i, memory-mapped; the last few hundred stay open.
    """

    def __init__(self, count: int, open_clip: Callable[[int], Float32Array], frames: int) -> None:
        self._open = open_clip
        self._frames = frames
        self._count = count
        self._kept: OrderedDict[int, Float32Array] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def clip(self, index: int) -> Float32Array:
        """Features (T, n_mels) of one clip, T >= frames: a shorter one is tiled."""
        features = self._kept.get(index)
        if features is None:
            features = self._open(index)
            if len(features) < self._frames:
                features = tile(features, self._frames)
            self._kept[index] = features
            if len(self._kept) > _KEPT_OPEN:
                self._kept.popitem(last=False)
        return features

    def crop(self, index: int, fraction: float, out: Float32Array) -> None:
        """Copy the segment at `fraction` in [0, 1) of the possible starts into out (frames, n_mels)."""
        clip = self.clip(index)
        start = int(fraction * (len(clip) - self._frames + 1))
        out[:] = clip[start : start + self._frames]

    def centred(self, indices: Sequence[int] | npt.NDArray[np.int64], out: Float32Array) -> None:
        """Copy the middle segment of each clip into out (len(indices), frames, n_mels)."""
        for row, index in enumerate(indices):
            self.crop(int(index), 0.5, out[row])
