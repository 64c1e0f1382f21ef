"""Class centroids c_p and c_n, and the batch-norm statistics they need (paper, section III)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from edgeasd.toolkit.training.data import FeaturePool

_BATCH = 64


def _centred_batches(pool: FeaturePool, indices: np.ndarray, frames: int, n_mels: int) -> Iterator[Tensor]:
    for start in range(0, len(indices), _BATCH):
        chosen = indices[start : start + _BATCH]
        batch = np.empty((len(chosen), frames, n_mels), dtype=np.float32)
        pool.centred(chosen, batch)
        yield torch.from_numpy(batch)[:, None]


@torch.no_grad()
def mean_embedding(
    encoder: nn.Module, pool: FeaturePool, indices: np.ndarray, frames: int, n_mels: int, device: torch.device
) -> Tensor:
    """Mean embedding (D,) float32 over one centred segment a clip, in eval mode, summed in float64."""
    training = encoder.training
    encoder.eval()
    total: Tensor | None = None
    for batch in _centred_batches(pool, indices, frames, n_mels):
        z = encoder(batch.to(device)).double().sum(dim=0)
        total = z if total is None else total + z
    encoder.train(training)
    assert total is not None, "an empty pool is refused before training"
    return (total / len(indices)).float()


@torch.no_grad()
def estimate_norms(
    encoder: nn.Module,
    normals: FeaturePool,
    outliers: FeaturePool,
    frames: int,
    n_mels: int,
    device: torch.device,
    seed: int,
) -> None:
    """Set batch-norm statistics from one pass of half normals, half outliers (dropout off).

    With untouched statistics (mean 0, variance 1) the first centroids would lie in another space
    than the embeddings of the first training steps.
    """
    count = min(len(normals), len(outliers), 1024)
    generator = np.random.default_rng([seed, 4])
    rows = [generator.permutation(len(pool))[:count] for pool in (normals, outliers)]
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    training = encoder.training
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the pass
        norm.train()
    half = _BATCH // 2
    for start in range(0, count, half):
        parts = [row[start : start + half] for row in rows]
        batch = np.empty((sum(map(len, parts)), frames, n_mels), dtype=np.float32)
        normals.centred(parts[0], batch[: len(parts[0])])
        outliers.centred(parts[1], batch[len(parts[0]) :])
        encoder(torch.from_numpy(batch)[:, None].to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.train(training)
