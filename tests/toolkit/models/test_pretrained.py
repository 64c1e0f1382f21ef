"""Pretrained encoders: the published layouts, what they hand out frozen, and which layers are trained."""

from __future__ import annotations

import pytest
import torch

from edgeasd.toolkit.encoders.table import ENCODERS
from edgeasd.toolkit.models.backbones import build_network, build_pretrained, count_macs, count_parameters
from edgeasd.toolkit.models.layered import LayeredEncoder
from edgeasd.toolkit.models.mobilenet import scaled_width

SMALL = ("mn04", "panns-cnn10")


def bands(name: str) -> int:
    return ENCODERS[name].features.n_mels


@pytest.mark.parametrize("name", ENCODERS)
def test_costs_of_the_table_are_those_of_the_network(name: str) -> None:
    with torch.device("meta"):
        encoder = build_pretrained(name)
    assert count_parameters(encoder) == ENCODERS[name].parameters
    if name in ("mn04", "mn05", "mn10", "panns-cnn10"):
        assert count_macs(build_pretrained(name), 1000, bands(name)) == ENCODERS[name].macs


def test_mobilenet_has_the_published_layout() -> None:
    state = build_pretrained("mn04", classifier=True).state_dict()
    assert len(state) == 312
    assert state["features.4.block.2.conc_se_layers.0.fc1.weight"].shape == (8, 32)
    assert state["features.16.0.weight"].shape == (384, 64, 1, 1)
    assert state["classifier.2.weight"].shape == (512, 384)
    assert state["classifier.5.weight"].shape == (527, 512)


def test_panns_have_the_published_layout() -> None:
    with torch.device("meta"):
        state = build_pretrained("panns-resnet38", classifier=True).state_dict()
    assert len(state) == 243
    assert state["resnet.layer2.0.downsample.1.weight"].shape == (128, 64, 1, 1)
    assert state["conv_block_after1.conv1.weight"].shape == (2048, 512, 3, 3)
    assert state["fc_audioset.weight"].shape == (527, 2048)


def test_widths_are_multiples_of_eight_and_never_far_below() -> None:
    for channels in range(1, 2000):
        width = scaled_width(channels * 0.4)
        assert width % 8 == 0
        assert width >= 0.9 * channels * 0.4


def test_batch_norm_has_the_published_epsilon() -> None:
    norms = [m for m in build_pretrained("mn04").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert {norm.eps for norm in norms} == {1e-3}


@pytest.mark.parametrize("name", SMALL)
def test_parts_lie_side_by_side_as_the_plans_say(name: str) -> None:
    encoder = build_pretrained(name, frozen=True).eval()
    plans = encoder.bank_plans()
    assert [plan.columns[0] for plan in plans] == [0, *(plan.columns[1] for plan in plans[:-1])]
    assert plans[-1].columns[1] == encoder.embedding_size
    x = torch.randn(2, 1, 128, bands(name))
    with torch.inference_mode():
        z = encoder(x)
        top = encoder.outputs(x, {len(encoder.stages()) - 1})[len(encoder.stages()) - 1].mean(dim=(2, 3))
    assert z.shape == (2, encoder.embedding_size)
    by_name = {plan.name: z[:, plan.columns[0] : plan.columns[1]] for plan in plans}
    torch.testing.assert_close(by_name["top"], top)
    spread = torch.cat([x[:, 0].std(1, correction=0), x[:, 0].diff(dim=1).std(1, correction=0)], dim=1)
    torch.testing.assert_close(by_name["spread"], spread, atol=1e-5, rtol=1e-5)


def test_layer_statistics_are_means_and_deviations_over_time() -> None:
    encoder = build_pretrained("mn04", frozen=True).eval()
    x = torch.randn(1, 1, 200, 128)
    part = next(part for part in encoder.parts if part.kind == "layer")
    first, last = next(plan.columns for plan in encoder.bank_plans() if plan.name == part.name)
    with torch.inference_mode():
        found, y = encoder(x)[0, first:last], encoder.outputs(x, {part.layer})[part.layer][0]
    assert y.shape[-1] == 25  # time is last: 200 frames, halved three times
    want = torch.cat([y.mean(dim=2).flatten(), y.std(dim=2, correction=0).flatten()])
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_gives_527_probabilities(name: str) -> None:
    encoder = build_pretrained(name, classifier=True).eval()
    with torch.inference_mode():
        found = encoder.tag(torch.randn(2, 1, 100, bands(name)))
    assert found.shape == (2, 527)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("name", SMALL)
def test_frozen_layers_keep_their_weights_and_statistics(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_network(name, n_mels=bands(name)).encoder
    assert isinstance(encoder, LayeredEncoder)
    encoder.freeze_before(2)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    frozen = {key for stage in encoder.stages()[:2] for key in _keys_of(encoder, stage)}
    encoder.train()
    optimiser = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    encoder(torch.randn(4, 1, 64, bands(name))).square().sum().backward()
    optimiser.step()
    after = encoder.state_dict()
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert changed
    assert not changed & frozen
    assert any(key.endswith("running_mean") for key in changed)


def _keys_of(encoder: torch.nn.Module, stage: torch.nn.Module) -> list[str]:
    prefix = next(name for name, module in encoder.named_modules() if module is stage)
    return [key for key in encoder.state_dict() if key.startswith(f"{prefix}.")]


def test_weights_fit_a_network_whatever_it_hands_out() -> None:
    torch.manual_seed(1)
    given = build_pretrained("mn04", classifier=True).state_dict()
    for frozen in (True, False):
        network = build_network("mn04", frozen=frozen, weights=given)
        own = network.encoder.state_dict()
        assert own
        assert all(torch.equal(own[key], given[key]) for key in own)
