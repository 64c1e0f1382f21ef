"""The parts that ResNet38 and the quick backbone share.

Source: Q. Kong et al., "PANNs: Large-scale pretrained audio neural networks for audio pattern
recognition", IEEE/ACM TASLP 28, 2020: residual blocks that pool before the first convolution
instead of striding it, dropout inside the block, Xavier initialisation, and the last batch norm
of a block starting at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias (a batch norm follows), Xavier-uniform weights, same padding."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.xavier_uniform_(layer.weight)
    return layer


class MelNorm(nn.Module):
    """Batch norm with one mean and variance per mel band: (N, 1, frames, n_mels) in and out."""

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(n_mels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.transpose(1, 3)).transpose(1, 3)
        return normed


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, 3),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            conv(outputs, outputs, 3),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


class ResidualBlock(nn.Module):
    """A basic residual block; with `downsample` both branches start with a 2 x 2 average pool."""

    def __init__(
        self, inputs: int, outputs: int, *, downsample: bool, dropout: float, zero_init_residual: bool
    ) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2) if downsample else nn.Identity()
        self.conv1 = conv(inputs, outputs, 3)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.shortcut: nn.Module = nn.Identity()
        if downsample or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2) if downsample else nn.Identity(),
                conv(inputs, outputs, 1),
                nn.BatchNorm2d(outputs),
            )
        if zero_init_residual:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(self.pool(x))))
        y = self.bn2(self.conv2(self.dropout(y)))
        return torch.relu(y + self.shortcut(x))


class UnitLength(nn.Module):
    """z / ‖z‖ of an encoder whose training compared angles: distances in a bank are then those of angles too."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.embedding_size = int(inner.embedding_size)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.inner(x), dim=1)


def stage(
    inputs: int, outputs: int, blocks: int, *, downsample: bool, dropout: float, zero_init_residual: bool
) -> nn.Sequential:
    """`blocks` residual blocks; only the first changes size."""
    return nn.Sequential(
        *(
            ResidualBlock(
                inputs if i == 0 else outputs,
                outputs,
                downsample=downsample and i == 0,
                dropout=dropout,
                zero_init_residual=zero_init_residual,
            )
            for i in range(blocks)
        )
    )
