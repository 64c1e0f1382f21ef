"""What one iteration leaves for a log, and the two ways in which training ends before its time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeasd.runtime.errors import CheckFailed
from edgeasd.toolkit.losses import LossParts


class Interrupted(Exception):
    """Training was asked to stop and did, after writing a checkpoint."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"stopped at iteration {iteration}")
        self.iteration = iteration


class NotFinite(CheckFailed):
    """The loss is no longer finite: the weights before `iteration` are to blame, those of an earlier one were good."""

    def __init__(self, iteration: int, found: str) -> None:
        self.iteration, self.found = iteration, f"iteration {iteration}: {found}"
        super().__init__(f"{self.found}; the last checkpoint stands; {self.remedy}")

    remedy = "train anew with --overwrite and a smaller learning rate (--set learning_rate=...) or another --seed"


@dataclass(frozen=True)
class StepLog:
    """What is worth knowing of one iteration."""

    iteration: int
    loss: float
    bce: float
    metric: float
    largest_inverse: float
    gradient_norm: float
    learning_rate: float
    iterations_per_second: float
    waiting: float
    """Share of this run's time so far that was spent waiting for batches, 0 to 1."""


def step_log(iteration: int, parts: LossParts, gradient_norm: Tensor, rate: float) -> StepLog:
    """The numbers of a step, brought from the device in one transfer."""
    on_device = [parts.total.detach(), parts.bce, parts.metric, parts.largest_inverse, gradient_norm]
    loss, bce, metric, largest_inverse, norm = torch.stack([value.double() for value in on_device]).tolist()
    return StepLog(iteration, loss, bce, metric, largest_inverse, norm, rate, iterations_per_second=0.0, waiting=0.0)
