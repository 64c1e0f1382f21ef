"""Encoders: log-mel segments (N, 1, frames, n_mels) to embeddings (N, D). One interface, several widths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from edgeasd.calibration.fit.bank import BankPlan
from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.encoders.table import encoder_named
from edgeasd.toolkit.models.blocks import ConvBlock, MelNorm, UnitLength, conv, stage
from edgeasd.toolkit.models.layered import LayeredEncoder, Part
from edgeasd.toolkit.models.logmel_stats import LogMelStats
from edgeasd.toolkit.models.mobilenet import MobileNet
from edgeasd.toolkit.models.panns import Panns
from edgeasd.toolkit.presets import Preset

_ENOUGH_FRAMES = 64
"""Every backbone takes as many; asking torch costs seconds of imports."""


class ResNet38(nn.Module):
    """ResNet38 of PANNs as a feature extractor, global average pooling as the aggregator; D = 2048.

    Batch norm over the mel bands, block dropout 0.1, stage dropout 0.2; no SpecAugment, no fc1.
    68.5 M parameters, 12.0 GMAC a segment of 256 x 128. (Paper, section IV-A.)
    """

    default_embedding_size = 2048

    def __init__(self, n_mels: int = 128, *, zero_init_residual: bool = True, embedding_size: int = 0) -> None:
        super().__init__()
        self.embedding_size = embedding_size or self.default_embedding_size
        self.norm = MelNorm(n_mels)
        self.stem = nn.Sequential(ConvBlock(1, 64), nn.AvgPool2d(2), nn.Dropout(0.2))
        widths, depths = (64, 128, 256, 512), (3, 4, 6, 3)
        self.stages = nn.Sequential(
            *(
                stage(
                    widths[max(0, i - 1)],
                    widths[i],
                    depths[i],
                    downsample=i > 0,
                    dropout=0.1,
                    zero_init_residual=zero_init_residual,
                )
                for i in range(4)
            )
        )
        self.top = nn.Sequential(nn.AvgPool2d(2), nn.Dropout(0.2), ConvBlock(512, self.embedding_size), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mean(self.top(self.stages(self.stem(self.norm(x)))), dim=(2, 3))


class _ReducedResNet(nn.Module):
    """ResNet38's shape in small: a stem of stride 2 and four stages; the width of the last is the embedding's."""

    widths: tuple[int, int, int]
    """Channels of the first three stages."""
    blocks: int
    """Residual blocks in each stage."""
    default_embedding_size: int

    def __init__(self, n_mels: int = 128, *, zero_init_residual: bool = True, embedding_size: int = 0) -> None:
        super().__init__()
        self.embedding_size = embedding_size or self.default_embedding_size
        widths = (*self.widths, self.embedding_size)
        self.norm = MelNorm(n_mels)
        stem = (conv(1, widths[0], 3, stride=2), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True), nn.AvgPool2d(2))
        self.stem = nn.Sequential(*stem)
        self.stages = nn.Sequential(
            *(
                stage(
                    widths[max(0, i - 1)],
                    widths[i],
                    self.blocks,
                    downsample=i > 0,
                    dropout=0.1,
                    zero_init_residual=zero_init_residual,
                )
                for i in range(4)
            )
        )
        self.top = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.mean(self.top(self.stages(self.stem(self.norm(x)))), dim=(2, 3))


class Quick(_ReducedResNet):
    """For CPUs and tests: stages of 8-16-32-64 channels, one residual block each, D = 64.

    Under 20 MMAC a segment of 256 x 128.
    """

    widths, blocks, default_embedding_size = (8, 16, 32), 1, 64


class Medium(_ReducedResNet):
    """A plain ResNet-18 behind `quick`'s stem, for CPUs: stages of 32-64-128-256 channels, two blocks each; D = 256.

    2.8 M parameters, 279 MMAC a segment of 256 x 128. Full convolutions: those that go channel by channel are slower
    in INT8 than in float32 on CPUs.
    """

    widths, blocks, default_embedding_size = (32, 64, 128), 2, 256


_PretrainedFactory = Callable[..., LayeredEncoder]


def _voters(early: int, middle: int, top: int, kind: str = "layer") -> tuple[Part, ...]:
    """What a frozen encoder hands out, each for a bank.

    The spread of the sound itself is what machines that work in strokes are told by, the early layers hear the texture
    of a steady sound, the top what it sounds like. Only the spread is compared as it is: see docs/how-to/encoders.md.
    """
    return (
        Part("spread", "spread"),
        Part(f"layer {early}", kind, early, "principal"),
        Part(f"layer {middle}", kind, middle, "principal"),
        Part("top", "top", top, "principal"),
    )


_PRETRAINED: dict[str, tuple[_PretrainedFactory, tuple[Part, ...]]] = {
    "mn04": (partial(MobileNet, width=0.4), _voters(5, 9, 16)),
    "mn05": (partial(MobileNet, width=0.5), _voters(5, 9, 16)),
    "mn10": (partial(MobileNet, width=1.0), _voters(5, 9, 16)),
    "mn20": (partial(MobileNet, width=2.0), _voters(5, 9, 16)),
    "panns-cnn10": (partial(Panns, kind="Cnn10"), _voters(1, 2, 3, "channels")),
    "panns-cnn14": (partial(Panns, kind="Cnn14"), _voters(2, 3, 5, "channels")),
    "panns-resnet38": (partial(Panns, kind="ResNet38"), _voters(2, 3, 5, "channels")),
}
"""Encoders whose weights come from a file (`toolkit/encoders/table.py`), and what they hand out frozen."""


def build_pretrained(
    name: str, *, n_mels: int | None = None, frozen: bool = False, classifier: bool = False
) -> LayeredEncoder:
    """A pretrained encoder without its weights yet; `frozen` hands out the parts that its banks vote on."""
    make, parts = _PRETRAINED[name]
    n_mels = encoder_named(name).features.n_mels if n_mels is None else n_mels
    return make(n_mels, parts=parts if frozen else (), classifier=classifier)


def build_classified(name: str, n_mels: int, tune_from: int) -> LayeredEncoder:
    """A pretrained encoder, without its weights yet, that hands out what votes after its training by classification.

    Half of the vote is what was learnt: the direction of its top, whitened, for the directions that tell classes apart
    would drown all others. Half is what it hears without: the layers of the frozen encoder that come before `tune_from`,
    which cost nothing, since the top is computed through them.
    """
    make, parts = _PRETRAINED[name]
    heard = tuple(part for part in parts if part.layer is None or part.layer < tune_from)
    top = Part("learnt", "direction", parts[-1].layer, "whiten", float(max(1, len(heard))))
    return make(n_mels, parts=(*heard, top))


def _pretrained_backbone(name: str) -> Callable[..., nn.Module]:
    def build(n_mels: int, *, zero_init_residual: bool = True, embedding_size: int = 0) -> nn.Module:
        del zero_init_residual
        if embedding_size:
            raise InputError(f"embedding_size {embedding_size}: {name} has an embedding of its own; leave it at 0")
        return build_pretrained(name, n_mels=n_mels)

    return build


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "resnet38": ResNet38,
    "quick": Quick,
    "medium": Medium,
    "logmel-stats": LogMelStats,
    **{name: _pretrained_backbone(name) for name in _PRETRAINED},
}
WITHOUT_WEIGHTS = ("logmel-stats",)
"""Encoders that there is nothing to train in."""


class Network(nn.Module):
    """Encoder and linear head: segments to (logit (N,), embedding (N, D)).

    The logit ℓ = w·z + b is that of *normal*: p = σ(ℓ).
    """

    def __init__(self, encoder: nn.Module, embedding_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(embedding_size, 1)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def embedding_size(self) -> int:
        """D."""
        return self.head.in_features

    def bank_plans(self) -> tuple[BankPlan, ...]:
        """What each bank of a vote looks at: the encoder's `bank_plans()` if it has any, else one bank of all of z.

        The one is unscaled, as the distance to the centroid is: training has made the directions what they are.
        """
        own = getattr(self.encoder, "bank_plans", None)
        return (BankPlan("embedding", (0, self.embedding_size)),) if own is None else tuple(own())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        return self.head(z).squeeze(1), z


def check_backbone(backbone: str) -> None:
    """InputError for an unknown name."""
    if backbone not in BACKBONES:
        raise InputError(f"--backbone {backbone}: unknown; use one of {', '.join(BACKBONES)}")


def build_network(
    backbone: str,
    *,
    n_mels: int = 128,
    zero_init_residual: bool = True,
    embedding_size: int = 0,
    frozen: bool = False,
    weights: Mapping[str, Tensor] | None = None,
) -> Network:
    """A randomly initialised network (seed with torch.manual_seed); an `embedding_size` of 0 is the backbone's own.

    A pretrained encoder takes its `weights` (`toolkit/encoders/weights.py`), and `frozen` hands out what its banks
    vote on in place of its top. InputError for an unknown backbone.
    """
    check_backbone(backbone)
    if frozen and backbone in _PRETRAINED:
        encoder: nn.Module = build_pretrained(backbone, n_mels=n_mels, frozen=True)
    else:
        encoder = BACKBONES[backbone](n_mels, zero_init_residual=zero_init_residual, embedding_size=embedding_size)
    if weights is not None:
        load_pretrained(encoder, weights)
    return Network(encoder, int(encoder.embedding_size))  # type: ignore[arg-type]


def load_pretrained(encoder: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put the weights of a pretrained encoder into it; a classifier that they come with is left out."""
    names = set(encoder.state_dict())
    encoder.load_state_dict({key: value for key, value in weights.items() if key in names})


def network_of(
    preset: Preset, n_mels: int, *, banks: bool = False, weights: Mapping[str, Tensor] | None = None
) -> Network:
    """`build_network` as a preset has it, to train it or, with `banks`, to compare what it says with stored normals."""
    network = build_network(
        preset.backbone,
        n_mels=n_mels,
        zero_init_residual=preset.zero_init_residual,
        embedding_size=preset.embedding_size,
        frozen=banks and preset.method == "knn",
        weights=weights,
    )
    if not (banks and preset.method == "classify"):
        return network
    encoder: nn.Module = UnitLength(network.encoder)
    if preset.backbone in _PRETRAINED:
        encoder = build_classified(preset.backbone, n_mels, preset.tune_from)
    return Network(encoder, int(encoder.embedding_size))  # type: ignore[arg-type]


def check_segment(backbone: str, frames: int, n_mels: int = 128) -> None:
    """InputError for an unknown backbone, or one that pools `frames` frames down to nothing. Computes nothing."""
    check_backbone(backbone)
    if frames >= _ENOUGH_FRAMES:
        return
    with torch.device("meta"):
        network = build_network(backbone, n_mels=n_mels).eval()
        try:
            network(torch.zeros(1, 1, frames, n_mels))
        except RuntimeError:
            raise InputError(
                f"segment_frames = {frames}: too few for the backbone {backbone}, which halves them several times; "
                f"set {_ENOUGH_FRAMES} or more"
            ) from None


def count_parameters(module: nn.Module) -> int:
    """Parameters, frozen ones too."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, frames: int = 256, n_mels: int = 128) -> int:
    """Multiply-accumulates of convolutions and linear layers for one segment."""
    total = 0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight: Tensor = layer.weight  # type: ignore[assignment]
        total += output[0].numel() * weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    training = module.training
    module.eval()
    with torch.no_grad():
        device = next((weights.device for weights in module.parameters()), None)
        module(torch.zeros(1, 1, frames, n_mels, device=device))
    module.train(training)
    for hook in hooks:
        hook.remove()
    return total
