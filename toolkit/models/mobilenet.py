"""MobileNetV3 of EfficientAT: a small network that has heard AudioSet, frozen for banks or fine-tuned.

Source: F. Schmid, K. Koutini, G. Widmer, "Efficient large-scale audio tagging via transformer-to-CNN knowledge
distillation", ICASSP 2023; A. Howard et al., "Searching for MobileNetV3", ICCV 2019. Parameter names are those of the
published weights.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeasd.toolkit.models.layered import LayeredEncoder, Part

_DIVISOR = 8
"""Every width is a multiple of it."""
_STEM, _SQUEEZE, _CLASSES, _CLASSIFIER = 16, 4, 527, 1280


@dataclass(frozen=True)
class _Block:
    """One row of table 1 of the MobileNetV3 paper, at width 1."""

    kernel: int
    expanded: int
    out: int
    squeezes: bool
    hardswish: bool
    stride: int


_BLOCKS = (
    _Block(3, 16, 16, False, False, 1),
    _Block(3, 64, 24, False, False, 2),
    _Block(3, 72, 24, False, False, 1),
    _Block(5, 72, 40, True, False, 2),
    _Block(5, 120, 40, True, False, 1),
    _Block(5, 120, 40, True, False, 1),
    _Block(3, 240, 80, False, True, 2),
    _Block(3, 200, 80, False, True, 1),
    _Block(3, 184, 80, False, True, 1),
    _Block(3, 184, 80, False, True, 1),
    _Block(3, 480, 112, True, True, 1),
    _Block(3, 672, 112, True, True, 1),
    _Block(5, 672, 160, True, True, 2),
    _Block(5, 960, 160, True, True, 1),
    _Block(5, 960, 160, True, True, 1),
)


def scaled_width(channels: float) -> int:
    """`channels` rounded to a multiple of 8, never down by more than a tenth."""
    rounded = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * channels else rounded


def _convolution(
    inputs: int, outputs: int, kernel: int, activation: nn.Module | None, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


class _Squeeze(nn.Module):
    """Weights each channel by a small network over the means of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scaled_width(channels // _SQUEEZE)
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean(dim=(2, 3))))))
        return x * weights[:, :, None, None]


class _SqueezeExcitation(nn.Module):
    """`_Squeeze` under the name that the published weights have for it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_Squeeze(channels)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conc_se_layers[0](x)
        return y


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, squeeze and excite, project; added to the input where shapes allow."""

    def __init__(self, inputs: int, row: _Block, width: float) -> None:
        super().__init__()
        expanded, self.out_channels = scaled_width(row.expanded * width), scaled_width(row.out * width)
        self.adds = row.stride == 1 and inputs == self.out_channels

        def activation() -> nn.Module:
            return nn.Hardswish() if row.hardswish else nn.ReLU()

        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(_convolution(inputs, expanded, 1, activation()))
        layers.append(_convolution(expanded, expanded, row.kernel, activation(), stride=row.stride, groups=expanded))
        if row.squeezes:
            layers.append(_SqueezeExcitation(expanded))
        layers.append(_convolution(expanded, self.out_channels, 1, None))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.adds else y


class MobileNet(LayeredEncoder):
    """MobileNetV3-large with all widths scaled by `width`, as an encoder.

    Its layers are `features.0` to `features.16`. With `classifier` the 527 classes of AudioSet are there too, for `tag`.
    """

    def __init__(
        self, n_mels: int = 128, *, width: float = 1.0, parts: tuple[Part, ...] = (), classifier: bool = False
    ) -> None:
        super().__init__()
        channels, bands = scaled_width(_STEM * width), -(-n_mels // 2)
        layers: list[nn.Module] = [_convolution(1, channels, 3, nn.Hardswish(), stride=2)]
        shapes = [(channels, bands)]
        for row in _BLOCKS:
            layers.append(_InvertedResidual(channels, row, width))
            channels, bands = scaled_width(row.out * width), -(-bands // row.stride)
            shapes.append((channels, bands))
        top = 6 * channels
        layers.append(_convolution(channels, top, 1, nn.Hardswish()))
        self.features = nn.Sequential(*layers)
        self.set_parts(parts, n_mels, [*shapes, (top, bands)])
        if classifier:
            hidden = scaled_width(_CLASSIFIER * width)
            # The numbers are those of the published weights.
            named = [("2", nn.Linear(top, hidden)), ("3", nn.Hardswish()), ("5", nn.Linear(hidden, _CLASSES))]
            self.classifier = nn.Sequential(OrderedDict(named))

    def stages(self) -> list[nn.Module]:
        """The stem, fifteen blocks and the last convolution."""
        return list(self.features)

    def outputs(self, x: Tensor, needed: set[int]) -> dict[int, Tensor]:
        """As of `LayeredEncoder`."""
        found = {}
        # An image of frequency by time.
        y = x.transpose(2, 3)
        for index in range(max(needed) + 1):
            y = self.features[index](y)
            if index in needed:
                found[index] = y
        return found

    def tag(self, x: Tensor) -> Tensor:
        """Log-mel (N, 1, frames, n_mels) to the probabilities (N, 527) of the classes of AudioSet."""
        last = len(self.features) - 1
        scores: Tensor = self.classifier(self.outputs(x, {last})[last].mean(dim=(2, 3)))
        return torch.sigmoid(scores)
