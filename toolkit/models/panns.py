"""Cnn10, Cnn14 and ResNet38 of PANNs as encoders, with the parameter names of the published weights.

Source: Q. Kong et al., "PANNs: Large-scale pretrained audio neural networks for audio pattern recognition", IEEE/ACM
TASLP 28, 2020. Batch norm over the mel bands; pooling by average; no SpecAugment, no last layers of the tagger.
`backbones.ResNet38` is the same network for training from nothing, under other names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeasd.toolkit.models.layered import LayeredEncoder, Part

_CLASSES = 527


def _convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


class _ConvBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and ReLU; then, unless `pools` is false, a 2 x 2 average pool."""

    def __init__(self, inputs: int, outputs: int, *, pools: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        self.pools = pools

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return functional.avg_pool2d(y, 2) if self.pools else y


class _ResidualBlock(nn.Module):
    """A basic residual block; with `pools` both branches start with a 2 x 2 average pool."""

    def __init__(self, inputs: int, outputs: int, *, pools: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, outputs), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)
        self.pools = pools
        if pools:
            self.downsample: nn.Module = nn.Sequential(
                nn.AvgPool2d(2), _convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs)
            )
        elif inputs != outputs:
            self.downsample = nn.Sequential(_convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.avg_pool2d(x, 2) if self.pools else x
        y = torch.relu(self.bn1(self.conv1(y)))
        y = functional.dropout(y, 0.1, self.training)
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class _ResNet(nn.Module):
    """Four stages of basic blocks under the names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        widths, depths = (64, 64, 128, 256, 512), (3, 4, 6, 3)
        for stage in range(4):
            blocks = [
                _ResidualBlock(
                    widths[stage] if block == 0 else widths[stage + 1],
                    widths[stage + 1],
                    pools=stage > 0 and block == 0,
                )
                for block in range(depths[stage])
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))


class Panns(LayeredEncoder):
    """A network of PANNs as an encoder; `kind` is Cnn10, Cnn14 or ResNet38.

    Its layers are the convolution blocks, of ResNet38 the first block, the four stages and the last block. With
    `classifier` the 527 classes of AudioSet are there too, for `tag`.
    """

    def __init__(
        self, n_mels: int = 64, *, kind: str = "Cnn14", parts: tuple[Part, ...] = (), classifier: bool = False
    ) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(n_mels)
        channels: tuple[int, ...]
        halvings: tuple[int, ...]
        self.is_residual = kind == "ResNet38"
        if self.is_residual:
            self.conv_block1 = _ConvBlock(1, 64)
            self.resnet = _ResNet()
            self.conv_block_after1 = _ConvBlock(512, 2048, pools=False)
            channels, halvings = (64, 64, 128, 256, 512, 2048), (1, 1, 2, 3, 4, 5)
        else:
            channels = {"Cnn10": (64, 128, 256, 512), "Cnn14": (64, 128, 256, 512, 1024, 2048)}[kind]
            for index, outputs in enumerate(channels):
                # The sixth of Cnn14 pools nothing.
                block = _ConvBlock(1 if index == 0 else channels[index - 1], outputs, pools=index < 5)
                self.add_module(f"conv_block{index + 1}", block)
            halvings = (1, 2, 3, 4, 5, 5)[: len(channels)]
        shapes = [(count, n_mels >> halved) for count, halved in zip(channels, halvings, strict=True)]
        self.set_parts(parts, n_mels, shapes)
        if classifier:
            top = channels[-1]
            self.fc1, self.fc_audioset = nn.Linear(top, top), nn.Linear(top, _CLASSES)

    def stages(self) -> list[nn.Module]:
        """Four to six blocks or stages."""
        if self.is_residual:
            return [self.conv_block1, *self.resnet.children(), self.conv_block_after1]
        return [module for name, module in self.named_children() if name.startswith("conv_block")]

    def outputs(self, x: Tensor, needed: set[int]) -> dict[int, Tensor]:
        """As of `LayeredEncoder`."""
        stages, found = self.stages(), {}
        # An image of time by frequency; the batch norm is over the bands.
        y = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for index, stage in enumerate(stages[: max(needed) + 1]):
            inside_residual = self.is_residual and 1 <= index <= 4
            if self.is_residual and index == len(stages) - 1:
                y = functional.dropout(functional.avg_pool2d(y, 2), 0.2, self.training)
            y = stage(y)
            if index in needed:
                found[index] = y.transpose(2, 3)
            if not inside_residual:  # the residual blocks have a dropout of their own
                y = functional.dropout(y, 0.2, self.training)
        return found

    def tag(self, x: Tensor) -> Tensor:
        """Log-mel (N, 1, frames, n_mels) to the probabilities (N, 527) of the classes of AudioSet."""
        last = len(self.stages()) - 1
        y = self.outputs(x, {last})[last].mean(dim=2)
        y = torch.relu(self.fc1(y.amax(dim=2) + y.mean(dim=2)))
        return torch.sigmoid(self.fc_audioset(y))

    def freeze_before(self, tune_from: int) -> None:
        """As of `LayeredEncoder`; the batch norm of the input goes with the first block."""
        super().freeze_before(tune_from)
        self.bn0.requires_grad_(tune_from == 0)

    def train(self, mode: bool = True) -> Panns:
        """As of `LayeredEncoder`."""
        super().train(mode)
        if self.tune_from > 0:
            self.bn0.train(False)
        return self
