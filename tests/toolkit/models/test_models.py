"""The backbones are the size the design states and behave the same in every form they are run in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.encoders.table import ENCODERS
from edgeasd.toolkit.models.backbones import (
    BACKBONES,
    WITHOUT_WEIGHTS,
    Network,
    build_network,
    count_macs,
    count_parameters,
)
from edgeasd.toolkit.models.blocks import ConvBlock, MelNorm, ResidualBlock, conv

TRAINED = [name for name in BACKBONES if name not in (*WITHOUT_WEIGHTS, *ENCODERS)]


@pytest.fixture(scope="module")
def resnet38() -> Network:
    torch.manual_seed(0)
    return build_network("resnet38").eval()


@pytest.fixture
def quick() -> Network:
    torch.manual_seed(0)
    return build_network("quick")


def shaken(network: Network) -> Network:
    """Scales and statistics as training would leave them, so that no branch is switched off."""
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.1)
        nn.init.normal_(norm.running_mean, 0.0, 0.1)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network


def test_resnet38_is_as_large_as_the_design_says(resnet38: Network) -> None:
    assert count_parameters(resnet38.encoder) / 1e6 == pytest.approx(68.5, abs=0.1)
    assert count_macs(resnet38.encoder) / 1e9 == pytest.approx(12.0, abs=0.1)
    assert resnet38.embedding_size == 2048
    convolutions = [m for m in resnet38.encoder.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    # 16 basic blocks of two, and two blocks of two around them: with the fc1 and head of PANNs, 38 layers
    assert len(convolutions) == 36


def test_resnet38_gives_2048_numbers_a_segment(resnet38: Network) -> None:
    with torch.no_grad():
        logit, z = resnet38(torch.randn(1, 1, 256, 128))
    assert z.shape == (1, 2048)
    assert logit.shape == (1,)


def test_quick_is_small_and_gives_64_numbers(quick: Network) -> None:
    assert count_macs(quick.encoder) <= 20e6
    assert quick.embedding_size == 64
    logit, z = quick(torch.randn(3, 1, 256, 128))
    assert z.shape == (3, 64)
    assert logit.shape == (3,)


def test_macs_are_counted_as_by_hand() -> None:
    module = nn.Sequential(conv(1, 4, 3, stride=2), nn.Flatten(), nn.Linear(4 * 8 * 4, 5)).train()
    assert count_macs(module, frames=16, n_mels=8) == 8 * 4 * 4 * 9 + 4 * 8 * 4 * 5
    assert module.training
    assert not any(m._forward_hooks for m in module.modules())
    assert count_parameters(module) == 4 * 9 + 4 * 8 * 4 * 5 + 5


@pytest.mark.parametrize("backbone", TRAINED)
def test_residual_branches_start_switched_off(backbone: str) -> None:
    for zero, expected in ((True, 0.0), (False, 1.0)):
        network = build_network(backbone, zero_init_residual=zero)
        blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
        assert len(blocks) == {"resnet38": 16, "quick": 4, "medium": 8}[backbone]
        assert all(bool((block.bn2.weight == expected).all()) for block in blocks)
        assert all(bool((block.bn1.weight == 1.0).all()) for block in blocks)


def test_a_block_with_its_branch_off_passes_its_input_on() -> None:
    block = ResidualBlock(4, 4, downsample=False, dropout=0.1, zero_init_residual=True).eval()
    x = torch.rand(2, 4, 6, 6)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("backbone", TRAINED)
def test_dropout_is_a_tenth_in_blocks_and_a_fifth_around_them(backbone: str) -> None:
    network = build_network(backbone)
    inside = [m.dropout for m in network.modules() if isinstance(m, ResidualBlock)]
    around = [m for m in network.modules() if isinstance(m, nn.Dropout) and not any(m is d for d in inside)]
    assert {d.p for d in inside} == {0.1}
    assert {d.p for d in around} == {0.2}
    assert len(around) == (3 if backbone == "resnet38" else 1)


def test_medium_is_a_resnet18_for_cpus() -> None:
    medium = build_network("medium")
    assert 200e6 < count_macs(medium.encoder) < 300e6
    logit, z = medium.eval()(torch.randn(3, 1, 256, 128))
    assert (logit.shape, z.shape) == ((3,), (3, 256))


def test_dropout_acts_in_training_and_not_in_evaluation(quick: Network) -> None:
    x = torch.randn(4, 1, 64, 128)
    quick.eval()
    assert torch.equal(quick(x)[1], quick(x)[1])
    quick.train()
    assert not torch.equal(quick(x)[1], quick(x)[1])


def test_a_segment_does_not_depend_on_its_batch(quick: Network) -> None:
    shaken(quick).eval()
    x = torch.randn(5, 1, 64, 128)
    with torch.no_grad():
        together, alone = quick(x)[1], torch.cat([quick(row[None])[1] for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_channels_last_computes_the_same(quick: Network) -> None:
    shaken(quick).eval()
    x = torch.randn(3, 1, 256, 128)
    with torch.no_grad():
        plain = quick(x)[1]
        quick.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = quick(x.to(memory_format=torch.channels_last))[1]
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_one_seed_is_one_network() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_network("quick").state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_the_first_norm_is_per_mel_band() -> None:
    norm = MelNorm(16).train()
    x = torch.randn(8, 1, 40, 16) * torch.arange(1, 17) + torch.arange(16)
    y = norm(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y.mean(dim=(0, 1, 2)), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(dim=(0, 1, 2), unbiased=False), torch.ones(16), atol=1e-3, rtol=0)


def test_the_head_starts_undecided_and_is_linear(quick: Network) -> None:
    assert float(quick.head.bias.detach()) == 0.0
    quick.eval()
    logit, z = quick(torch.randn(3, 1, 64, 128))
    torch.testing.assert_close(logit, z @ quick.head.weight[0] + quick.head.bias[0], rtol=1e-5, atol=1e-6)


def test_other_band_counts_work_and_blocks_keep_their_size(quick: Network) -> None:
    assert build_network("quick", n_mels=64)(torch.randn(2, 1, 64, 64))[1].shape == (2, 64)
    assert ConvBlock(1, 3)(torch.randn(2, 1, 9, 7)).shape == (2, 3, 9, 7)
    assert ResidualBlock(3, 5, downsample=True, dropout=0.0, zero_init_residual=False)(
        torch.randn(2, 3, 8, 6)
    ).shape == (2, 5, 4, 3)


def test_an_unknown_backbone_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="--backbone vgg: unknown; use one of resnet38, quick"):
        build_network("vgg")
