"""Pretrained encoders as stacks of layers: what they hand out frozen, and which of their layers are trained.

Frozen, an encoder hands out several embeddings side by side in one z, each for a bank of its own: statistics over
time of early layers see what the sound is made of, the top what it sounds like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeasd.calibration.fit.bank import BankPlan

_TINY = 1e-10
"""Keeps the square root of a constant band finite; far below any spread of a logarithm or an activation."""


@dataclass(frozen=True)
class Part:
    """One embedding of several."""

    name: str
    kind: str
    """"spread": standard deviation, and that of frame differences, of each mel band of the input over time.
    "layer": mean and standard deviation over time of each channel and frequency of a layer.
    "channels": the same of each channel, after its mean over frequency.
    "top": mean over time and frequency of each channel of a layer.
    "direction": the same, scaled to length 1."""
    layer: int | None = None
    """Index of the layer; None for the input."""
    map: str = "none"
    """What its bank does first (`BankPlan`)."""
    weight: float = 1.0
    """Of its vote."""


class LayeredEncoder(nn.Module):
    """Log-mel (N, 1, frames, n_mels) to z (N, D): the parts, side by side; without parts, the mean of the last layer.

    A subclass has `stages` and `outputs`, and calls `set_parts` when it knows the shapes of its layers.
    """

    parts: tuple[Part, ...] = ()
    embedding_size = 0
    """D."""
    tune_from = 0
    """Layers before this one are frozen: no gradients, and batch norm with the statistics they came with."""

    def set_parts(self, parts: tuple[Part, ...], n_mels: int, shapes: Sequence[tuple[int, int]]) -> None:
        """Choose the parts; `shapes` are channels and frequencies of the output of each layer."""
        self.parts = parts
        self._sizes = [_size(part, n_mels, shapes) for part in parts]
        self.embedding_size = sum(self._sizes) if parts else shapes[-1][0]

    def bank_plans(self) -> tuple[BankPlan, ...]:
        """One bank for each part, or one for the whole embedding."""
        if not self.parts:
            return (BankPlan("embedding", (0, self.embedding_size), "none"),)
        plans, first = [], 0
        for part, size in zip(self.parts, self._sizes, strict=True):
            plans.append(BankPlan(part.name, (first, first + size), part.map, part.weight))
            first += size
        return tuple(plans)

    def stages(self) -> list[nn.Module]:
        """The layers, in the order of the sound. What lies before the first belongs to it."""
        raise NotImplementedError

    def outputs(self, x: Tensor, needed: set[int]) -> dict[int, Tensor]:
        """Outputs (N, channels, frequencies, times) of the layers with these indices."""
        raise NotImplementedError

    def tag(self, x: Tensor) -> Tensor:
        """Log-mel (N, 1, frames, n_mels) to the probabilities (N, 527) of the classes of AudioSet; needs a classifier."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Log-mel (N, 1, frames, n_mels) to embeddings (N, D)."""
        if not self.parts:
            last = len(self.stages()) - 1
            return self.outputs(x, {last})[last].mean(dim=(2, 3))
        found = self.outputs(x, {part.layer for part in self.parts if part.layer is not None})
        return torch.cat([_part(part, x, found) for part in self.parts], dim=1)

    def freeze_before(self, tune_from: int) -> None:
        """Freeze the layers before `tune_from`, in training as well; 0 trains all of them."""
        self.tune_from = tune_from
        for index, stage in enumerate(self.stages()):
            stage.requires_grad_(index >= tune_from)
        self.train(self.training)

    def train(self, mode: bool = True) -> LayeredEncoder:
        """As torch has it, but frozen layers stay as they are."""
        super().train(mode)
        for stage in self.stages()[: self.tune_from]:
            stage.train(False)
        return self


def _size(part: Part, n_mels: int, shapes: Sequence[tuple[int, int]]) -> int:
    if part.layer is None:
        return 2 * n_mels
    channels, bands = shapes[part.layer]
    return {"layer": 2 * channels * bands, "channels": 2 * channels, "top": channels, "direction": channels}[part.kind]


def _part(part: Part, x: Tensor, outputs: Mapping[int, Tensor]) -> Tensor:
    if part.layer is None:
        frames = x[:, 0].transpose(1, 2)
        return torch.cat([_deviation(frames), _deviation(frames[:, :, 1:] - frames[:, :, :-1])], dim=1)
    y = outputs[part.layer]
    if part.kind in ("top", "direction"):
        top = y.mean(dim=(2, 3))
        return top if part.kind == "top" else nn.functional.normalize(top, dim=1)
    series = y.mean(dim=2) if part.kind == "channels" else y.flatten(1, 2)
    return torch.cat([series.mean(dim=2), _deviation(series)], dim=1)


def _deviation(series: Tensor) -> Tensor:
    """Standard deviation over time (N, C) of series (N, C, times)."""
    # From its first value on: of a band that is empty, as half of them are above 8 kHz in sound of 16 kHz, a mean in
    # float32 is off by more than the band varies.
    steps = series - series[:, :, :1]
    offsets = steps - steps.mean(dim=2, keepdim=True)
    return torch.sqrt((offsets * offsets).mean(dim=2) + _TINY)
