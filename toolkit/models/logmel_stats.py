"""`logmel-stats`: an encoder without weights, for a machine of which there is nothing but its normal sound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeasd.calibration.fit.bank import BankPlan

_TINY = 1e-10
"""Keeps the square root of a constant band differentiable and finite; far below any spread of log10 magnitudes."""


class LogMelStats(nn.Module):
    """Statistics over time of each mel band: mean, standard deviation, standard deviation of frame differences.

    The mean is the spectrum of a machine that hums; the two spreads are what impulsive machines are told by: how
    much a band moves, and how abruptly. D = 3 n_mels, in that order.
    """

    def __init__(self, n_mels: int = 128, *, zero_init_residual: bool = True, embedding_size: int = 0) -> None:
        super().__init__()
        del zero_init_residual, embedding_size
        self.embedding_size = 3 * n_mels

    def forward(self, x: Tensor) -> Tensor:
        """Log-mel (N, 1, frames, n_mels) to (N, 3 n_mels)."""
        frames = x[:, 0]
        mean = frames.mean(dim=1)
        offsets = frames - mean[:, None]
        steps = frames[:, 1:] - frames[:, :-1]
        step_offsets = steps - steps.mean(dim=1)[:, None]
        spread = torch.sqrt((offsets * offsets).mean(dim=1) + _TINY)
        abruptness = torch.sqrt((step_offsets * step_offsets).mean(dim=1) + _TINY)
        return torch.cat([mean, spread, abruptness], dim=1)

    def bank_plans(self) -> tuple[BankPlan, ...]:
        """The three banks that vote on these statistics.

        The mean spectrum, whitened, tells small faults in bands that are steady among the normals. The same as it is
        tells broad ones, such as a hiss, which whitening takes for one direction of many; it hears a change of level
        too, which the runtime names beside an alarm. The spreads, as they are, tell faults of a machine that works in
        strokes, between which the mean is that of the surroundings. They count as much as both others together: where
        they are good the mean would drag them down (docs/results/real-sound.md has what was tried).
        """
        n_mels = self.embedding_size // 3
        return (
            BankPlan("mean, whitened", (0, n_mels), "whiten"),
            BankPlan("mean", (0, n_mels)),
            BankPlan("spread", (n_mels, self.embedding_size), weight=2.0),
        )
