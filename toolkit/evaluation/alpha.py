"""α of equation 5 swept over a grid, and chosen on validation clips.

A clip score is the mean of α q + (1 − α) d′ over its segments, which is α mean(q) + (1 − α) mean(d′):
two numbers a clip are enough for every α.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.score import blend
from edgeasd.toolkit.evaluation.metrics import auc

GRID = tuple(i / 20 for i in range(21))
"""0, 0.05, …, 1."""


@dataclass(frozen=True)
class Sweep:
    """AUC at each α of the grid over one set of clips."""

    alphas: tuple[float, ...]
    aucs: tuple[float, ...]


def sweep_alpha(q: ArrayLike, d_prime: ArrayLike, anomalous: ArrayLike, grid: tuple[float, ...] = GRID) -> Sweep:
    """AUC at every α of `grid`; `q`, `d_prime` and `anomalous` (bool) are clip-level, (clips,) each.

    Raises InputError for lengths that differ, an α outside [0, 1], an empty grid, a class without clips, or a value
    that is not finite.
    """
    q_means, d_means, labels = _clips(q, d_prime, anomalous)
    if not grid or not all(0 <= alpha <= 1 for alpha in grid):
        raise InputError(f"α grid {grid}: give at least one α, all of them in [0, 1]")
    aucs = []
    for alpha in grid:
        scores = blend(q_means, d_means, alpha)
        aucs.append(auc(scores[~labels], scores[labels]))
    return Sweep(tuple(grid), tuple(aucs))


def choose_alpha(validation: Sweep) -> float:
    """The α with the largest AUC over **validation** clips; among equals the one nearest to 0.5, then the smaller.

    Give it a sweep over labelled clips that neither train nor judge the model: an α chosen on the test clips
    makes their AUC look better than it is.
    """
    best = max(validation.aucs)
    equal = [a for a, value in zip(validation.alphas, validation.aucs, strict=True) if value >= best - 1e-12]
    return min(equal, key=lambda alpha: (abs(alpha - 0.5), alpha))


def _clips(
    q: ArrayLike, d_prime: ArrayLike, anomalous: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    arrays = np.asarray(q, np.float64), np.asarray(d_prime, np.float64), np.asarray(anomalous, bool)
    if not arrays[0].shape == arrays[1].shape == arrays[2].shape == (arrays[0].size,):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise InputError(f"q, d′ and labels of shapes {shapes}; give one of each for every clip")
    return arrays
