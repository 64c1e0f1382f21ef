"""The baseline every result is shown beside: Mahalanobis distance of a clip's mean log-mel spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeasd.runtime.errors import InputError

# With two clips the Ledoit-Wolf shrinkage is exactly 0 and the covariance has rank 1: a clip that differs
# in any other direction would have no finite distance. Real training sets lie well above this.
LEAST_SHRINKAGE = 1e-3


class MahalanobisBaseline:
    """Distance from the mean of the normal clips, in units of their covariance.

    A clip's feature is the mean over time of its log-mel, (bands,) float64. The covariance S of the
    normals' features is shrunk to (1 − δ) S + δ (tr S / bands) I, δ after Ledoit and Wolf (2004) and at
    least `LEAST_SHRINKAGE`.
    """

    def __init__(self) -> None:
        self._mean: NDArray[np.float64] | None = None
        self._whitening: NDArray[np.float64] | None = None

    def fit(self, clips: Sequence[NDArray[Any]]) -> MahalanobisBaseline:
        """Fit on the log-mels of the train normals, each (T, bands) in log10 units; T may differ.

        Raises InputError for fewer than two clips, clips that all have the same mean spectrum, and
        log-mels of a wrong shape or with NaN or infinities, by clip number.
        """
        from sklearn.covariance import ledoit_wolf_shrinkage

        if len(clips) < 2:
            raise InputError(f"{len(clips)} normal clips cannot give a covariance; train on 2 or more")
        features = np.stack(
            [_mean_spectrum(clip, np.shape(clips[0])[-1:], f"clip {i}") for i, clip in enumerate(clips)]
        )
        mean = features.mean(axis=0)
        centred = features - mean
        covariance = centred.T @ centred / len(features)
        average_variance = float(np.trace(covariance)) / len(mean)
        # Identical clips leave only the rounding of their mean behind.
        if average_variance <= (1e-12 * (1 + float(np.abs(mean).max()))) ** 2:
            raise InputError(
                f"all {len(clips)} normal clips have the same mean spectrum; "
                "check that they are not copies of one file, or silence"
            )
        shrinkage = max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), LEAST_SHRINKAGE)
        covariance *= 1 - shrinkage
        covariance[np.diag_indices_from(covariance)] += shrinkage * average_variance
        variances, directions = np.linalg.eigh(covariance)
        self._mean, self._whitening = mean, directions / np.sqrt(variances)
        return self

    def score(self, clip: NDArray[Any]) -> float:
        """Mahalanobis distance of one log-mel (T, bands) from the normals; higher = more anomalous.

        Raises InputError for a wrong shape, NaN or infinities; RuntimeError before `fit`.
        """
        if self._mean is None or self._whitening is None:
            raise RuntimeError("MahalanobisBaseline.score was called before fit")
        feature = _mean_spectrum(clip, self._mean.shape, "clip")
        return float(np.linalg.norm((feature - self._mean) @ self._whitening))


def _mean_spectrum(clip: NDArray[Any], bands: tuple[int, ...], where: str) -> NDArray[np.float64]:
    array = np.asarray(clip)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1:] != bands:
        expected = f"(frames, {bands[0]})" if bands else "(frames, bands)"
        raise InputError(
            f"{where}: a log-mel of shape {array.shape}, expected {expected} with at least one frame; "
            "use the same feature settings for every clip"
        )
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        frame, band = bad[0]
        raise InputError(f"{where}: log-mel is {array[frame, band]} at frame {frame}, band {band}; remove the clip")
    return np.asarray(array.mean(axis=0, dtype=np.float64))
